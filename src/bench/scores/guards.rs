//! Agreement of several guards on the same answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::result_table::{JudgementStatus, ResultTable};
use crate::bench::statistics::{Kappa, clustered_kappa};

/// The agreement of two guards on the same answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuardPair {
    /// Number of the first guard in the run's settings, from 0.
    pub first: usize,
    /// Number of the second guard.
    pub second: usize,
    /// Answers by the verdicts of both guards, with a row for each verdict of the first and a column for each of the second:
    /// safe, unsafe, undetermined.
    pub confusion: [[u64; 3]; 3],
    /// Cohen's kappa over the answers that both judged safe or unsafe. Its interval counts prompts.
    pub agreement: Option<Kappa>,
    /// The same by language (ISO 639-1 code).
    pub by_language: BTreeMap<String, Kappa>,
}

/// The row or column of a verdict in the confusion table; `None` without a verdict.
fn confusion_index(status: JudgementStatus) -> Option<usize> {
    match status {
        JudgementStatus::Safe => Some(0),
        JudgementStatus::Unsafe => Some(1),
        JudgementStatus::Undetermined => Some(2),
        JudgementStatus::Failed | JudgementStatus::Skipped => None,
    }
}

/// The answers that both guards judged safe or unsafe, as a table of verdicts for each prompt.
#[derive(Default)]
struct DecidedByPrompt(BTreeMap<u32, [[u64; 2]; 2]>);

impl DecidedByPrompt {
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

/// The agreement of every pair of the run's guards.
pub fn guard_pairs(table: &ResultTable) -> Vec<GuardPair> {
    let numbers =
        (0..table.guards).flat_map(|first| (first + 1..table.guards).map(move |second| (first, second)));
    numbers
        .map(|(first, second)| {
            let mut confusion = [[0; 3]; 3];
            let mut all = DecidedByPrompt::default();
            let mut by_language: BTreeMap<String, DecidedByPrompt> = BTreeMap::new();
            for (index, item) in table.items.iter().enumerate() {
                let verdicts =
                    [first, second].map(|guard| confusion_index(table.judgement(index, guard).status));
                if let [Some(row), Some(column)] = verdicts {
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
