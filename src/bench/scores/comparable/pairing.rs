//! How many answers of two runs have a partner.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{
    super::table::{Mark, Table},
    facts::hash,
};

/// How many answers of two runs can be compared: those to the first seeds make pairs, to the second ones, and so on, as in
/// the comparison itself. Seeds that only one of the runs has are no part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pairing {
    /// Answers, each language and seed counted, that both runs judged safe or unsafe.
    pub paired: u64,
    /// Answers of each run, judged or not.
    pub asked: [u64; 2],
}

impl Pairing {
    /// Of two runs.
    pub fn of(first: &Table, second: &Table) -> Self {
        let seeds = first.seeds().len().min(second.seeds().len());
        let (ours, theirs) = (judged(first, seeds), judged(second, seeds));
        let both = |(key, judged): &(&u64, &bool)| **judged && theirs.get(key) == Some(&true);
        Self {
            paired: ours.iter().filter(both).count() as u64,
            asked: [ours.len() as u64, theirs.len() as u64],
        }
    }

    /// Answers of each run without a judged partner.
    pub fn without(&self) -> [u64; 2] {
        self.asked.map(|asked| asked.saturating_sub(self.paired))
    }

    /// The same as a share of the run's answers; 0 of a run without any.
    pub fn shares(&self) -> [f64; 2] {
        let without = self.without();
        [0, 1].map(|run| without[run] as f64 / self.asked[run].max(1) as f64)
    }
}

/// Whether each answer to so many first seeds was judged safe or unsafe. What was left out on purpose was not asked.
fn judged(table: &Table, count: usize) -> HashMap<u64, bool> {
    let seeds = table.seeds();
    let place = |seed: u64| seeds.binary_search(&seed).ok().filter(|place| *place < count);
    let asked = table
        .judged_by(0)
        .filter(|(_, judgement)| judgement.mark != Mark::Skipped);
    asked
        .filter_map(|(item, judgement)| {
            let prompt = &table.prompts[item.prompt as usize];
            let answer = hash(&(prompt, item.language, place(item.seed)?));
            Some((answer, judgement.mark.safe().is_some()))
        })
        .collect()
}
