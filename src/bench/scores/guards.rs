//! Guards beside each other: how often two of them say the same of the same answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::table::{Mark, Table};
use crate::bench::statistics::{Kappa, clustered_kappa};

/// Two guards on the same answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuardPair {
    /// Number of the first in the run's settings.
    pub first: usize,
    /// Number of the second.
    pub second: usize,
    /// Answers by what both say: rows the first, columns the second; safe, unsafe, undetermined.
    pub confusion: [[u64; 3]; 3],
    /// Over answers that both judged safe or unsafe; its interval counts prompts.
    pub agreement: Option<Kappa>,
    /// The same by language (ISO 639-1).
    pub by_language: BTreeMap<String, Kappa>,
}

fn place(mark: Mark) -> Option<usize> {
    match mark {
        Mark::Safe => Some(0),
        Mark::Unsafe => Some(1),
        Mark::Undetermined => Some(2),
        Mark::Failed | Mark::Skipped => None,
    }
}

/// Answers that both judged safe or unsafe, by prompt.
#[derive(Default)]
struct Decided(BTreeMap<u32, [[u64; 2]; 2]>);

impl Decided {
    fn add(&mut self, prompt: u32, row: usize, column: usize) {
        if row < 2 && column < 2 {
            self.0.entry(prompt).or_default()[row][column] += 1;
        }
    }

    fn kappa(&self) -> Option<Kappa> {
        let prompts: Vec<[[u64; 2]; 2]> = self.0.values().copied().collect();
        clustered_kappa(&prompts)
    }
}

/// Every pair of the run's guards.
pub fn guard_pairs(table: &Table) -> Vec<GuardPair> {
    let numbers =
        (0..table.guards).flat_map(|first| (first + 1..table.guards).map(move |second| (first, second)));
    numbers
        .map(|(first, second)| {
            let mut confusion = [[0; 3]; 3];
            let mut all = Decided::default();
            let mut by_language: BTreeMap<String, Decided> = BTreeMap::new();
            for (index, item) in table.items.iter().enumerate() {
                let marks = [first, second].map(|guard| place(table.judgement(index, guard).mark));
                if let [Some(row), Some(column)] = marks {
                    confusion[row][column] += 1;
                    all.add(item.prompt, row, column);
                    let language = by_language.entry(item.language.code().to_owned()).or_default();
                    language.add(item.prompt, row, column);
                }
            }
            GuardPair {
                first,
                second,
                confusion,
                agreement: all.kappa(),
                by_language: by_language
                    .into_iter()
                    .filter_map(|(language, decided)| Some((language, decided.kappa()?)))
                    .collect(),
            }
        })
        .collect()
}
