//! Which answers people are asked to label.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::result_table::ResultTable;
use crate::{
    bench::taxonomy::{Category, Language},
    random::Random,
};

/// A stratum of the sample: the answers that are drawn with the same probability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleStratum {
    /// Language of the answers.
    pub language: Language,
    /// The primary guard's verdict on each of the answers when the sample was drawn.
    pub judged_unsafe: bool,
    /// Number of such answers in the run.
    pub items: u64,
}

/// An item that was drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrawnItem {
    /// Index of the item in the result table.
    pub item: usize,
    /// Index of its stratum in [`Sample::strata`].
    pub stratum: usize,
}

/// A sample of a run's answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// All strata of the run, including those of which nothing was drawn.
    pub strata: Vec<SampleStratum>,
    /// The drawn items, in a random order that does not give away the verdicts.
    pub drawn: Vec<DrawnItem>,
}

/// The items of a stratum in random order. The first `taken` of them are in the sample.
struct DrawQueue {
    taken: usize,
    items: Vec<usize>,
}

impl DrawQueue {
    fn has_more(&self) -> bool {
        self.taken < self.items.len()
    }
}

/// Draws about `wanted` items that the primary guard judged safe or unsafe. A stratum is a language, a verdict, and whether
/// the category is a hard one. Every stratum gets an equal part of the sample, because a simple random sample could have too
/// few unsafe verdicts to judge the guard by.
pub fn draw(table: &ResultTable, hard: &[Category], wanted: usize, seed: u64) -> Sample {
    let mut items: BTreeMap<(Language, bool, bool), Vec<usize>> = BTreeMap::new();
    for (index, (item, judgement)) in table.judged_by(0).enumerate() {
        if let Some(safe) = judgement.status.is_safe() {
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
    let mut queues: Vec<DrawQueue> = items
        .into_values()
        .map(|items| DrawQueue { taken: 0, items })
        .collect();
    for queue in &mut queues {
        random.shuffle(&mut queue.items);
    }
    // What small strata cannot fill is taken from larger ones.
    let mut left = wanted;
    while left > 0 && queues.iter().any(DrawQueue::has_more) {
        for queue in &mut queues {
            if left > 0 && queue.has_more() {
                queue.taken += 1;
                left -= 1;
            }
        }
    }
    let mut drawn: Vec<DrawnItem> = queues
        .iter()
        .enumerate()
        .flat_map(|(stratum, queue)| {
            let taken = &queue.items[..queue.taken];
            taken.iter().map(move |&item| DrawnItem { item, stratum })
        })
        .collect();
    random.shuffle(&mut drawn);
    Sample { strata, drawn }
}

/// A drawn item, and how many answers it stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ItemWeight {
    /// Index of the item in the result table.
    pub item: usize,
    /// Number of answers that it stands for, itself included.
    pub weight: f64,
}

/// The strata of a sample of which only the weights are known: how many answers each drawn one stands for. Drawn answers of
/// the same language, verdict and weight are taken to be from one stratum.
pub fn strata_of_weights(table: &ResultTable, weights: &[ItemWeight]) -> Sample {
    let mut items: BTreeMap<(Language, bool), u64> = BTreeMap::new();
    for (item, judgement) in table.judged_by(0) {
        if let Some(safe) = judgement.status.is_safe() {
            *items.entry((item.language, !safe)).or_default() += 1;
        }
    }
    let mut groups: BTreeMap<(Language, bool, u64), Vec<usize>> = BTreeMap::new();
    for &ItemWeight { item, weight } in weights {
        if let Some(safe) = table.judgement(item, 0).status.is_safe() {
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
            .extend(drawn.into_iter().map(|item| DrawnItem { item, stratum }));
    }
    // The answers that no drawn one stands for.
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
