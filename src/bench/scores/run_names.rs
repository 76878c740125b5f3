//! Names that distinguish the runs of a study.

use std::collections::BTreeMap;

/// Number of traits in [`RunTraits`] that can be part of a name.
const TRAITS: usize = 5;

/// The traits that can distinguish a run from others of the same model. They are tried in this order, and an absent trait
/// distinguishes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RunTraits {
    /// The name of the target.
    pub model: String,
    /// The systems that translated its prompts.
    pub translators: Option<String>,
    /// The precision that the target computed in.
    pub precision: Option<String>,
    /// The name of the primary guard.
    pub guard: Option<String>,
    /// The run's seeds.
    pub seeds: Vec<u64>,
    /// The run's folder.
    pub folder: String,
}

impl RunTraits {
    /// The traits in words, in the order in which they are tried.
    fn in_words(&self) -> [Option<String>; TRAITS] {
        let seeds: Vec<String> = self.seeds.iter().map(u64::to_string).collect();
        [
            self.translators
                .as_ref()
                .map(|names| format!("prompts by {names}")),
            self.precision.clone(),
            self.guard.as_ref().map(|guard| format!("judged by {guard}")),
            (!seeds.is_empty()).then(|| format!("seed {}", seeds.join(", "))),
            Some(format!("in {}", self.folder)),
        ]
    }
}

/// A name for each run, all different: the model's name, with the traits that distinguish the run from others of that model.
pub(crate) fn distinct_names(runs: &[RunTraits]) -> Vec<String> {
    let in_words: Vec<_> = runs.iter().map(RunTraits::in_words).collect();
    let of_trait = |index: usize| in_words.iter().map(|traits| traits[index].as_deref()).collect();
    let by_trait: [Vec<Option<&str>>; TRAITS] = std::array::from_fn(of_trait);
    let mut added: Vec<Vec<&str>> = vec![Vec::new(); runs.len()];
    for of_runs in &by_trait {
        let mut same: BTreeMap<(&str, Vec<&str>), Vec<usize>> = BTreeMap::new();
        for (index, run) in runs.iter().enumerate() {
            same.entry((&run.model, added[index].clone()))
                .or_default()
                .push(index);
        }
        for indexes in same.values() {
            if indexes.iter().any(|index| of_runs[*index] != of_runs[indexes[0]]) {
                indexes
                    .iter()
                    .for_each(|index| added[*index].extend(of_runs[*index]));
            }
        }
    }
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    let names = runs.iter().zip(added).map(|(run, added)| {
        let name = match added.is_empty() {
            true => run.model.clone(),
            false => format!("{} ({})", run.model, added.join(", ")),
        };
        let number = taken.entry(name.clone()).or_default();
        *number += 1;
        match *number {
            1 => name,
            // The same folder was named twice.
            number => format!("{name} #{number}"),
        }
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(model: &str, translators: &str, precision: &str, guard: &str, folder: &str) -> RunTraits {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        RunTraits {
            model: model.to_owned(),
            translators: some(translators),
            precision: some(precision),
            guard: some(guard),
            seeds: vec![0],
            folder: folder.to_owned(),
        }
    }

    #[test]
    fn runs_of_one_model_are_distinguished_by_the_first_trait_that_differs() {
        let runs = [
            run("m", "", "int8", "g", "a"),
            run("m", "opus", "int8", "g", "b"),
            run("m", "opus", "bf16", "g", "c"),
            run("m", "opus", "bf16", "h", "d"),
            run("m", "opus", "bf16", "h", "e"),
            run("m", "opus", "bf16", "h", "e"),
            run("n", "opus", "int8", "g", "f"),
        ];
        let expected = [
            "m",
            "m (prompts by opus, int8)",
            "m (prompts by opus, bf16, judged by g)",
            "m (prompts by opus, bf16, judged by h, in d)",
            "m (prompts by opus, bf16, judged by h, in e)",
            "m (prompts by opus, bf16, judged by h, in e) #2",
            "n",
        ];
        assert_eq!(distinct_names(&runs), expected);
        let seeds = |seeds: &[u64]| RunTraits {
            seeds: seeds.to_vec(),
            ..run("m", "", "", "", "a")
        };
        assert_eq!(
            distinct_names(&[seeds(&[0, 1]), seeds(&[2])]),
            ["m (seed 0, 1)", "m (seed 2)"]
        );
    }
}
