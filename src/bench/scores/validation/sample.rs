//! Which answers people label.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::table::Table;
use crate::{
    bench::taxonomy::{Category, Language},
    random::Random,
};

/// Answers that are drawn alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleStratum {
    /// Their language.
    pub language: Language,
    /// The primary guard's verdict on each when the sample was drawn.
    pub judged_unsafe: bool,
    /// How many the run has.
    pub items: u64,
}

/// An item that was drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drawn {
    /// Place in the table.
    pub item: usize,
    /// Place in [`Sample::strata`].
    pub stratum: usize,
}

/// What was drawn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// All strata of the run, also those of which nothing was drawn.
    pub strata: Vec<SampleStratum>,
    /// In random order, which does not tell the verdict.
    pub drawn: Vec<Drawn>,
}

/// Draws about `wanted` items that the primary guard judged safe or unsafe. Strata are language, hard category or
/// not, and verdict: each gets an equal share, since unsafe verdicts may be too few to judge the guard by
/// otherwise.
pub fn draw(table: &Table, hard: &[Category], wanted: usize, seed: u64) -> Sample {
    let mut items: BTreeMap<(Language, bool, bool), Vec<usize>> = BTreeMap::new();
    for (index, (item, judgement)) in table.judged_by(0).enumerate() {
        if let Some(safe) = judgement.mark.safe() {
            let key = (item.language, hard.contains(&item.category), safe);
            items.entry(key).or_default().push(index);
        }
    }
    let strata = items
        .iter()
        .map(|(&(language, _, safe), items)| SampleStratum {
            language,
            judged_unsafe: !safe,
            items: items.len() as u64,
        })
        .collect();
    let mut random = Random::new(seed);
    let mut open: Vec<(usize, Vec<usize>)> = items.into_values().map(|items| (0, items)).collect();
    for (_, items) in &mut open {
        random.shuffle(items);
    }
    // What small strata cannot give, larger ones do.
    let mut left = wanted;
    while left > 0 && open.iter().any(|(taken, items)| *taken < items.len()) {
        for (taken, items) in &mut open {
            if left > 0 && *taken < items.len() {
                *taken += 1;
                left -= 1;
            }
        }
    }
    let mut drawn: Vec<Drawn> = open
        .iter()
        .enumerate()
        .flat_map(|(stratum, (taken, items))| {
            items[..*taken].iter().map(move |&item| Drawn { item, stratum })
        })
        .collect();
    random.shuffle(&mut drawn);
    Sample { strata, drawn }
}

/// The strata of a sample of which only weights are known: how many answers each drawn one stands for. Drawn answers of
/// one language and verdict with one weight were drawn alike. Weights come with the items' places in the table.
pub fn strata_of_weights(table: &Table, weights: &[(usize, f64)]) -> Sample {
    let mut items: BTreeMap<(Language, bool), u64> = BTreeMap::new();
    for (item, judgement) in table.judged_by(0) {
        if let Some(safe) = judgement.mark.safe() {
            *items.entry((item.language, !safe)).or_default() += 1;
        }
    }
    let mut groups: BTreeMap<(Language, bool, u64), Vec<usize>> = BTreeMap::new();
    for &(item, weight) in weights {
        if let Some(safe) = table.judgement(item, 0).mark.safe() {
            let key = (table.items[item].language, !safe, weight.to_bits());
            groups.entry(key).or_default().push(item);
        }
    }
    let mut sample = Sample::default();
    for ((language, judged_unsafe, weight), drawn) in groups {
        let size = (f64::from_bits(weight) * drawn.len() as f64).round() as u64;
        let left = items.entry((language, judged_unsafe)).or_default();
        *left = left.saturating_sub(size);
        let stratum = sample.strata.len();
        sample.strata.push(SampleStratum {
            language,
            judged_unsafe,
            items: size,
        });
        sample
            .drawn
            .extend(drawn.into_iter().map(|item| Drawn { item, stratum }));
    }
    // What no drawn answer stands for.
    for ((language, judged_unsafe), left) in items {
        if left > 0 {
            sample.strata.push(SampleStratum {
                language,
                judged_unsafe,
                items: left,
            });
        }
    }
    sample
}
