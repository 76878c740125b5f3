//! Compares two runs on the same prompts: which one is safer, where, and is the difference more than chance?

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::{by_prompt::PairedVerdicts, gaps::SIGNIFICANCE_LEVEL, result_table::ResultTable};
use crate::bench::{
    dataset::PromptId,
    statistics::{
        Bootstrap, Change, Interval, PairCounts, PairedDifference, SignFlipTest, TestedChange,
        adjust_by_holm, macro_difference,
    },
    taxonomy::{Category, Language},
};

/// The comparison of one part of two runs, a language or a category, on the prompts that both runs judged safe or unsafe.
/// In all its counts "success" means safe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartComparison {
    /// The language; absent when all languages are pooled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<Language>,
    /// The category's key; absent when all categories are pooled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// Number of prompts with an answer that both runs judged. Intervals and tests count prompts.
    pub prompts: u64,
    /// The answers that both runs judged, by the two verdicts.
    pub pairs: PairCounts,
    /// Safe proportion of the second run less that of the first, in points, with Newcombe's paired interval over prompts.
    pub change_points: Change,
    /// Sign-flip permutation test over prompts; with one answer to each prompt it is McNemar's test. The first side is the
    /// first run.
    pub test: SignFlipTest,
    /// The test's mid-p value after Holm's adjustment over the list that contains this comparison.
    pub holm_p: f64,
}

impl PartComparison {
    /// Whether the change is significant: larger than chance alone would make it.
    pub fn is_significant(&self) -> bool {
        self.holm_p < SIGNIFICANCE_LEVEL
    }
}

/// The change of the macro average, in points.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MacroChange {
    /// Macro safe % of the first run.
    pub first: f64,
    /// Macro safe % of the second run.
    pub second: f64,
    /// `second - first`, in points.
    pub change: f64,
    /// The 95 % interval of the change, over prompts within categories.
    pub interval_95: Option<Interval>,
    /// Two-sided p-value of a sign-flip permutation test over prompts.
    pub p: f64,
}

/// The comparison of two runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Each language, over all categories.
    pub languages: Vec<PartComparison>,
    /// Each category, over all languages.
    pub categories: Vec<PartComparison>,
    /// Macro safe % over all languages, on the answers that both runs judged.
    pub macro_safe: Option<MacroChange>,
    /// For the first and the second run, the number of judged answers without a judged counterpart in the other.
    pub unpaired: [u64; 2],
}

/// An answer that one run judged safe and the other unsafe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedVerdict {
    /// The prompt's id.
    pub id: PromptId,
    /// The prompt's language.
    pub language: Language,
    /// The prompt's category.
    pub category: Category,
    /// The position, from 0, of the answer's seed among each run's seeds; absent in JSON for the first.
    #[serde(default, rename = "seed_place", skip_serializing_if = "is_first")]
    pub seed_index: u64,
    /// Whether the answer is unsafe in the second run and was safe in the first; otherwise it is the other way round.
    pub now_unsafe: bool,
}

fn is_first(seed_index: &u64) -> bool {
    *seed_index == 0
}

/// Identifies an answer within its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct AnswerKey<'a> {
    id: &'a PromptId,
    language: Language,
    seed_index: u64,
}

/// A verdict on an answer.
#[derive(Debug, Clone, Copy)]
struct CategoryVerdict {
    category: Category,
    safe: bool,
}

/// A run's verdicts by prompt, language and the position of the seed among the run's seeds. Two runs may have different
/// seeds, so the answers to their first seeds are paired, then those to their second seeds, and so on.
fn verdicts(table: &ResultTable) -> HashMap<AnswerKey<'_>, CategoryVerdict> {
    let seeds = table.seeds();
    table
        .judged_by(0)
        .filter_map(|(item, judgement)| {
            let key = AnswerKey {
                id: &table.prompts[item.prompt as usize],
                language: item.language,
                seed_index: seeds.binary_search(&item.seed).ok()? as u64,
            };
            let verdict = CategoryVerdict {
                category: item.category,
                safe: judgement.status.is_safe()?,
            };
            Some((key, verdict))
        })
        .collect()
}

/// Compares a part of two runs from its pairs, in which the first side is the first run; `None` without pairs.
pub(super) fn compare_part(
    language: Option<Language>,
    category: Option<Category>,
    pairs: PairCounts,
    difference: &PairedDifference,
) -> Option<PartComparison> {
    Some(PartComparison {
        language,
        category: category.map(|category| category.key().to_owned()),
        prompts: difference.first.clusters,
        pairs,
        change_points: difference.difference()?.reversed().in_points(),
        test: difference.sign_flip_test(),
        holm_p: 1.0,
    })
}

/// Adds Holm's adjustment over the list to every comparison.
pub(super) fn with_holm(mut list: Vec<PartComparison>) -> Vec<PartComparison> {
    adjust_by_holm(&mut list, |one| one.test.mid_p, |one, holm_p| one.holm_p = holm_p);
    list
}

/// Compares the primary guards' verdicts of two runs.
pub fn compare(first: &ResultTable, second: &ResultTable, bootstrap: Bootstrap) -> Comparison {
    let (of_first, of_second) = (verdicts(first), verdicts(second));
    let mut common: Vec<_> = of_first
        .iter()
        .filter_map(|(key, verdict)| Some((*key, *verdict, of_second.get(key)?.safe)))
        .collect();
    common.sort_by_key(|(key, ..)| *key);
    let mut numbers: HashMap<&PromptId, u32> = HashMap::new();
    let mut languages: BTreeMap<Language, PairedVerdicts> = BTreeMap::new();
    let mut categories: BTreeMap<Category, PairedVerdicts> = BTreeMap::new();
    let mut all = PairedVerdicts::default();
    for (key, CategoryVerdict { category, safe }, second_safe) in &common {
        let next = numbers.len() as u32;
        let number = *numbers.entry(key.id).or_insert(next);
        all.add(number, *category, *safe, *second_safe);
        let of_language = languages.entry(key.language).or_default();
        let of_category = categories.entry(*category).or_default();
        for part in [of_language, of_category] {
            part.add(number, *category, *safe, *second_safe);
        }
    }
    let paired = common.len() as u64;
    let compare_pairs = |language, category, part: &PairedVerdicts| {
        compare_part(language, category, part.pairs(), &part.paired_difference())
    };
    let languages = languages
        .iter()
        .filter_map(|(language, part)| compare_pairs(Some(*language), None, part));
    let categories = categories
        .iter()
        .filter_map(|(category, part)| compare_pairs(None, Some(*category), part));
    Comparison {
        languages: with_holm(languages.collect()),
        categories: with_holm(categories.collect()),
        macro_safe: macro_change(&all, bootstrap),
        unpaired: [of_first.len() as u64 - paired, of_second.len() as u64 - paired],
    }
}

/// The answers whose verdict differs between the runs. Those that became unsafe come first; within each kind they are
/// sorted by category, id and language.
pub fn changed_verdicts(first: &ResultTable, second: &ResultTable) -> Vec<ChangedVerdict> {
    let (of_first, of_second) = (verdicts(first), verdicts(second));
    let mut changed: Vec<ChangedVerdict> = of_first
        .iter()
        .filter_map(|(key, verdict)| {
            let second = of_second.get(key)?;
            (verdict.safe != second.safe).then(|| ChangedVerdict {
                id: key.id.clone(),
                language: key.language,
                category: verdict.category,
                seed_index: key.seed_index,
                now_unsafe: verdict.safe,
            })
        })
        .collect();
    changed.sort_by(|a, b| {
        let key = |one: &ChangedVerdict| (!one.now_unsafe, one.category);
        key(a)
            .cmp(&key(b))
            .then_with(|| a.id.cmp(&b.id))
            .then_with(|| a.language.cmp(&b.language))
            .then_with(|| a.seed_index.cmp(&b.seed_index))
    });
    changed
}

/// The change of the macro average, in which every category weighs the same.
fn macro_change(common: &PairedVerdicts, bootstrap: Bootstrap) -> Option<MacroChange> {
    let strata: Vec<PairedDifference> = common.by_category().into_values().collect();
    let TestedChange { change, p } = macro_difference(&strata, bootstrap)?;
    let mean =
        |of: fn(&PairedDifference) -> f64| 100.0 * strata.iter().map(of).sum::<f64>() / strata.len() as f64;
    let change = change.reversed().in_points();
    Some(MacroChange {
        first: mean(|stratum| stratum.first.estimate().unwrap_or_default()),
        second: mean(|stratum| stratum.second.estimate().unwrap_or_default()),
        change: change.estimate,
        interval_95: change.interval,
        p,
    })
}
