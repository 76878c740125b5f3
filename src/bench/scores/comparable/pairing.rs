//! How many answers of two runs have a partner.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{
    super::table::{Mark, Table},
    facts::hash,
};

/// How many answers of two runs can be compared: those to the first seeds, as in the comparison itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pairing {
    /// Prompts, each language counted, that both runs judged safe or unsafe.
    pub paired: u64,
    /// Prompts of each run that were asked, judged or not.
    pub asked: [u64; 2],
}

impl Pairing {
    /// Of two runs.
    pub fn of(first: &Table, second: &Table) -> Self {
        let (ours, theirs) = (judged(first), judged(second));
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

/// Whether each prompt of the first seed was judged safe or unsafe. What was left out on purpose was not asked.
fn judged(table: &Table) -> HashMap<u64, bool> {
    let first = table.seeds().first().copied();
    let of_first = table.judged_by(0).filter(|(item, _)| Some(item.seed) == first);
    let asked = of_first.filter(|(_, judgement)| judgement.mark != Mark::Skipped);
    asked
        .map(|(item, judgement)| {
            let prompt = hash(&(&table.prompts[item.prompt as usize], item.language));
            (prompt, judgement.mark.safe().is_some())
        })
        .collect()
}
