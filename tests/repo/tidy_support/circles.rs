//! Files that use each other in a circle, over however many others.

use std::collections::{BTreeMap, BTreeSet};

use super::uses::Uses;

/// The largest sets of files in which each uses all others, directly or over others, both sorted by name.
pub fn circles(uses: &Uses) -> Vec<Vec<String>> {
    let reached: BTreeMap<_, _> = uses.keys().map(|file| (file, reachable(uses, file))).collect();
    let mut found = BTreeSet::new();
    for (file, from_here) in &reached {
        let circle: Vec<_> = from_here
            .iter()
            .filter(|other| {
                reached
                    .get(*other)
                    .is_some_and(|from_there| from_there.contains(*file))
            })
            .map(ToString::to_string)
            .collect();
        if circle.len() > 1 {
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}

/// All files that a file uses, directly or over others; itself only where it is in a circle.
fn reachable<'a>(uses: &'a Uses, file: &str) -> BTreeSet<&'a String> {
    let mut found = BTreeSet::new();
    let mut open = vec![file];
    while let Some(next) = open.pop() {
        for used in uses.get(next).into_iter().flat_map(BTreeMap::keys) {
            if found.insert(used) {
                open.push(used);
            }
        }
    }
    found
}

/// The uses within a circle, as `from -> to (path)`.
pub fn uses_within(uses: &Uses, circle: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for from in circle {
        for (to, path) in uses.get(from).into_iter().flatten() {
            if circle.contains(to) {
                found.push(format!("{from} -> {to} ({path})"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(pairs: &[(&str, &str)]) -> Uses {
        let mut uses = Uses::new();
        for (from, to) in pairs {
            uses.entry((*to).to_owned()).or_default();
            let used = uses.entry((*from).to_owned()).or_default();
            used.insert((*to).to_owned(), format!("crate::{to}"));
        }
        uses
    }

    #[test]
    fn circles_of_two_and_of_more_are_found_and_kept_apart() {
        let uses = graph(&[
            ("b", "a"),
            ("a", "b"),
            ("b", "c"),
            ("c", "d"),
            ("d", "e"),
            ("e", "c"),
            ("e", "f"),
        ]);
        assert_eq!(circles(&uses), [vec!["a", "b"], vec!["c", "d", "e"]]);
        let within = uses_within(&uses, &["a".to_owned(), "b".to_owned()]);
        assert_eq!(within, ["a -> b (crate::b)", "b -> a (crate::a)"]);
    }

    #[test]
    fn two_ways_to_one_file_are_no_circle() {
        let uses = graph(&[("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]);
        assert!(circles(&uses).is_empty());
    }
}
