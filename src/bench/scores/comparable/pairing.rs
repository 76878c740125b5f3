//! How many answers of two runs have a counterpart in the other run.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{
    super::result_table::{JudgementStatus, ResultTable},
    facts::hash,
};

/// How many answers of two runs can be compared. As in the comparison itself, the answers to the first seed of each run
/// make pairs, then those to the second seed, and so on. Seeds beyond the shorter list are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pairing {
    /// Number of answers that both runs judged safe or unsafe; each language and seed counts.
    pub paired: u64,
    /// Number of answers of each run, judged or not.
    #[serde(rename = "asked")]
    pub answers: [u64; 2],
}

impl Pairing {
    /// Pairs the answers of two runs.
    pub fn of(first: &ResultTable, second: &ResultTable) -> Self {
        let seeds = first.seeds().len().min(second.seeds().len());
        let (of_first, of_second) = (judged(first, seeds), judged(second, seeds));
        let both = |answer: &u64| of_first.get(answer) == Some(&true) && of_second.get(answer) == Some(&true);
        Self {
            paired: of_first.keys().filter(|answer| both(answer)).count() as u64,
            answers: [of_first.len() as u64, of_second.len() as u64],
        }
    }

    /// For each run, the number of answers without a judged counterpart.
    pub fn unpaired(&self) -> [u64; 2] {
        self.answers.map(|answers| answers.saturating_sub(self.paired))
    }

    /// The same as a proportion of the run's answers; 0 for a run without any.
    pub fn unpaired_proportions(&self) -> [f64; 2] {
        let unpaired = self.unpaired();
        [0, 1].map(|run| unpaired[run] as f64 / self.answers[run].max(1) as f64)
    }
}

/// For each answer to the first `count` seeds, whether it was judged safe or unsafe. Skipped items have no answer.
fn judged(table: &ResultTable, count: usize) -> HashMap<u64, bool> {
    let seeds = table.seeds();
    let seed_index = |seed: u64| seeds.binary_search(&seed).ok().filter(|index| *index < count);
    let judgements = table
        .judged_by(0)
        .filter(|(_, judgement)| judgement.status != JudgementStatus::Skipped);
    judgements
        .filter_map(|(item, judgement)| {
            let prompt = &table.prompts[item.prompt as usize];
            let answer = hash(&(prompt, item.language, seed_index(item.seed)?));
            Some((answer, judgement.status.is_safe().is_some()))
        })
        .collect()
}
