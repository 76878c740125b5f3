//! Two runs on the same prompts: which is safer, where, and is it more than chance?

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::{
    gaps::{LEVEL, in_points},
    table::Table,
};
use crate::bench::{
    dataset::PromptId,
    statistics::{
        Bootstrap, Clusters, Difference, Interval, McNemar, Pairs, holm, mcnemar, paired_difference,
    },
    taxonomy::{Category, Language},
};

/// A part of two runs, compared on the prompts that both judged safe or unsafe. Success is safe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// The language; absent for all together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<Language>,
    /// The category's key; absent for all together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// Answers judged in both runs.
    pub pairs: Pairs,
    /// Safe share of the second run less that of the first, in points.
    pub change_points: Difference,
    /// McNemar's test.
    pub test: McNemar,
    /// Its mid-p value after Holm's adjustment within the list it stands in.
    pub holm_p: f64,
}

impl Compared {
    /// Whether the change is more than chance would give.
    pub fn is_found(&self) -> bool {
        self.holm_p < LEVEL
    }
}

/// A change with its interval, in points.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PointChange {
    /// Of the first run, in percent.
    pub first: f64,
    /// Of the second run.
    pub second: f64,
    /// `second - first`.
    pub change: f64,
    /// 95 %, by the bootstrap over prompt ids within categories.
    pub interval_95: Option<Interval>,
}

/// Two runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Each language.
    pub languages: Vec<Compared>,
    /// Each category, all languages together.
    pub categories: Vec<Compared>,
    /// Macro safe % over all languages, on the common answers.
    pub macro_safe: Option<PointChange>,
    /// Answers of one run without a partner in the other, by the first or second.
    pub unpaired: [u64; 2],
}

/// An answer that one run judged safe and the other unsafe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flip {
    /// The prompt.
    pub id: PromptId,
    /// Its language.
    pub language: Language,
    /// Its category.
    pub category: Category,
    /// Whether it is unsafe in the second run; then it was safe in the first.
    pub now_unsafe: bool,
}

type Key<'a> = (&'a PromptId, Language, u64);

/// Pairs the answers of the first seed of each run: seeds need not be the same.
fn verdicts(table: &Table) -> HashMap<Key<'_>, (Category, bool)> {
    let first = table.seeds().first().copied();
    table
        .judged_by(0)
        .filter(|(item, _)| Some(item.seed) == first)
        .filter_map(|(item, judgement)| {
            let key = (&table.prompts[item.prompt as usize], item.language, 0);
            Some((key, (item.category, judgement.mark.safe()?)))
        })
        .collect()
}

/// A part of two runs from its pairs; `None` without any.
pub(super) fn compared(
    language: Option<Language>,
    category: Option<Category>,
    pairs: Pairs,
) -> Option<Compared> {
    // The second run comes first: a positive difference is an improvement.
    let swapped = Pairs {
        first_only: pairs.second_only,
        second_only: pairs.first_only,
        ..pairs
    };
    Some(Compared {
        language,
        category: category.map(|category| category.key().to_owned()),
        pairs,
        change_points: in_points(paired_difference(swapped)?),
        test: mcnemar(pairs.first_only, pairs.second_only),
        holm_p: 1.0,
    })
}

/// With Holm's adjustment over the list.
pub(super) fn adjusted(list: Vec<Compared>) -> Vec<Compared> {
    let p_values: Vec<f64> = list.iter().map(|one| one.test.mid_p).collect();
    list.into_iter()
        .zip(holm(&p_values))
        .map(|(one, holm_p)| Compared { holm_p, ..one })
        .collect()
}

/// Compares the primary guards' verdicts of two runs.
pub fn compare(first: &Table, second: &Table, bootstrap: Bootstrap) -> Comparison {
    let (ours, theirs) = (verdicts(first), verdicts(second));
    let mut common: Vec<_> = ours
        .iter()
        .filter_map(|(key, (category, safe))| Some((*key, *category, *safe, theirs.get(key)?.1)))
        .collect();
    common.sort_by_key(|(key, ..)| *key);
    let mut languages: BTreeMap<Language, Pairs> = BTreeMap::new();
    let mut categories: BTreeMap<Category, Pairs> = BTreeMap::new();
    for (key, category, a, b) in &common {
        languages.entry(key.1).or_default().add(*a, *b);
        categories.entry(*category).or_default().add(*a, *b);
    }
    let paired = common.len() as u64;
    Comparison {
        languages: adjusted(
            languages
                .into_iter()
                .filter_map(|(language, pairs)| compared(Some(language), None, pairs))
                .collect(),
        ),
        macro_safe: macro_change(&common, &categories, bootstrap),
        categories: adjusted(
            categories
                .into_iter()
                .filter_map(|(category, pairs)| compared(None, Some(category), pairs))
                .collect(),
        ),
        unpaired: [ours.len() as u64 - paired, theirs.len() as u64 - paired],
    }
}

/// Answers with another verdict in the second run, by category, id and language; what became unsafe comes first.
pub fn flips(first: &Table, second: &Table) -> Vec<Flip> {
    let (ours, theirs) = (verdicts(first), verdicts(second));
    let mut flips: Vec<Flip> = ours
        .iter()
        .filter_map(|((id, language, seed), (category, safe))| {
            let (_, then) = theirs.get(&(*id, *language, *seed))?;
            (safe != then).then(|| Flip {
                id: (*id).clone(),
                language: *language,
                category: *category,
                now_unsafe: *safe,
            })
        })
        .collect();
    flips.sort_by(|a, b| {
        let key = |flip: &Flip| (!flip.now_unsafe, flip.category);
        key(a)
            .cmp(&key(b))
            .then_with(|| a.id.cmp(&b.id))
            .then_with(|| a.language.cmp(&b.language))
    });
    flips
}

/// Every category weighs the same; its prompts are resampled within it, all languages of a prompt together.
fn macro_change(
    common: &[(Key<'_>, Category, bool, bool)],
    categories: &BTreeMap<Category, Pairs>,
    bootstrap: Bootstrap,
) -> Option<PointChange> {
    let known: Vec<Category> = categories
        .keys()
        .copied()
        .filter(|c| *c != Category::UNKNOWN)
        .collect();
    let mut units: BTreeMap<(usize, &PromptId), [f64; 2]> = BTreeMap::new();
    for (key, category, a, b) in common {
        let Some(stratum) = known.iter().position(|known| known == category) else {
            continue;
        };
        let weight = 100.0 / (known.len() as f64 * categories[category].total() as f64);
        let unit = units.entry((stratum, key.0)).or_default();
        unit[0] += if *a { weight } else { 0.0 };
        unit[1] += if *b { weight } else { 0.0 };
    }
    let mut clusters = Clusters::new(2);
    for ((stratum, _), sums) in &units {
        clusters.push(*stratum, sums);
    }
    let sums = clusters.sums();
    let [interval_95] = clusters.intervals(bootstrap, |sums| [sums[1] - sums[0]]);
    (!known.is_empty()).then(|| PointChange {
        first: sums[0],
        second: sums[1],
        change: sums[1] - sums[0],
        interval_95,
    })
}
