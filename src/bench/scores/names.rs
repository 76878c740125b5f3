//! Names that tell runs apart.

use std::collections::BTreeMap;

/// How many marks there are.
const MARKS: usize = 5;

/// What can tell a run from others of the same model, in the order in which it is tried. What is absent says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunMarks {
    /// What answered.
    pub model: String,
    /// Systems that translated its prompts.
    pub translators: Option<String>,
    /// How the target computed.
    pub precision: Option<String>,
    /// Who judged.
    pub guard: Option<String>,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// The folder that it stands in.
    pub folder: String,
}

impl RunMarks {
    /// In words; a mark that a name does not need is not in it.
    fn told(&self) -> [Option<String>; MARKS] {
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

/// A name for each run, all different: the model's, with what tells it from others of that model.
pub fn distinct(runs: &[RunMarks]) -> Vec<String> {
    let told: Vec<_> = runs.iter().map(RunMarks::told).collect();
    let of_mark = |mark: usize| told.iter().map(|marks| marks[mark].as_deref()).collect();
    let by_mark: [Vec<Option<&str>>; MARKS] = std::array::from_fn(of_mark);
    let mut marks: Vec<Vec<&str>> = vec![Vec::new(); runs.len()];
    for of_runs in &by_mark {
        let mut same: BTreeMap<(&str, Vec<&str>), Vec<usize>> = BTreeMap::new();
        for (place, run) in runs.iter().enumerate() {
            same.entry((&run.model, marks[place].clone()))
                .or_default()
                .push(place);
        }
        for places in same.values() {
            if places.iter().any(|place| of_runs[*place] != of_runs[places[0]]) {
                places
                    .iter()
                    .for_each(|place| marks[*place].extend(of_runs[*place]));
            }
        }
    }
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    let names = runs.iter().zip(marks).map(|(run, marks)| {
        let name = match marks.is_empty() {
            true => run.model.clone(),
            false => format!("{} ({})", run.model, marks.join(", ")),
        };
        let number = taken.entry(name.clone()).or_default();
        *number += 1;
        match *number {
            1 => name,
            // The same folder twice.
            number => format!("{name} #{number}"),
        }
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(model: &str, translators: &str, precision: &str, guard: &str, folder: &str) -> RunMarks {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        RunMarks {
            model: model.to_owned(),
            translators: some(translators),
            precision: some(precision),
            guard: some(guard),
            seeds: vec![0],
            folder: folder.to_owned(),
        }
    }

    #[test]
    fn runs_of_one_model_are_told_apart_by_what_differs_first() {
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
        assert_eq!(distinct(&runs), expected);
        let seeds = |seeds: &[u64]| RunMarks {
            seeds: seeds.to_vec(),
            ..run("m", "", "", "", "a")
        };
        assert_eq!(
            distinct(&[seeds(&[0, 1]), seeds(&[2])]),
            ["m (seed 0, 1)", "m (seed 2)"]
        );
    }
}
