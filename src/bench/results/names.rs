//! Folder names for several runs beside each other.

use std::collections::HashSet;

/// A folder name for each model. Characters that a file name should not contain become `-`, and all names differ even where
/// upper and lower case are not distinguished.
pub fn folder_names<'a>(models: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut taken = HashSet::new();
    let mut names = Vec::new();
    for model in models {
        let safe = |letter: char| letter.is_ascii_alphanumeric() || "._+-".contains(letter);
        let clean: String = model.chars().map(|c| if safe(c) { c } else { '-' }).collect();
        let clean = match clean.trim_start_matches(['.', '-']) {
            "" => "unknown",
            clean => clean,
        };
        let mut name = clean.to_owned();
        let mut number = 2;
        while !taken.insert(name.to_lowercase()) {
            name = format!("{clean}-{number}");
            number += 1;
        }
        names.push(name);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_different() {
        let names = folder_names([
            "meta/Llama-3.1",
            "meta:llama-3.1",
            "../../etc",
            "",
            "größe",
            "a-2",
            "a",
            "a",
        ]);
        let expected = [
            "meta-Llama-3.1",
            "meta-llama-3.1-2",
            "etc",
            "unknown",
            "gr--e",
            "a-2",
            "a",
            "a-3",
        ];
        assert_eq!(names, expected);
    }
}
