//! Two runs on the same prompts: which is safer, where, and is it more than chance?

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::{by_prompt::PairedPrompts, gaps::LEVEL, table::Table};
use crate::bench::{
    dataset::PromptId,
    statistics::{
        Bootstrap, Change, Interval, PairedShare, Pairs, SignTest, adjust_by_holm, mean_difference,
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
    /// Prompts with an answer that was judged in both runs: what intervals and tests count.
    pub prompts: u64,
    /// Answers judged in both runs.
    pub pairs: Pairs,
    /// Safe share of the second run less that of the first, in points, with Newcombe's paired interval over prompts.
    pub change_points: Change,
    /// Sign-flip permutation test over prompts; with one answer to each prompt McNemar's. Its first side
    /// is the first run.
    pub test: SignTest,
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
    /// 95 %, over prompts within categories.
    pub interval_95: Option<Interval>,
    /// Two-sided p-value of a sign-flip permutation test over prompts.
    pub p: f64,
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
    /// Which of each run's seeds answered, from 0; absent for the first.
    #[serde(default, skip_serializing_if = "is_first")]
    pub seed_place: u64,
    /// Whether it is unsafe in the second run; then it was safe in the first.
    pub now_unsafe: bool,
}

fn is_first(place: &u64) -> bool {
    *place == 0
}

type Key<'a> = (&'a PromptId, Language, u64);

/// Verdicts by prompt, language and place of the seed among the run's: answers of the first seeds make pairs, of the second
/// ones, and so on, since the seeds need not be the same.
fn verdicts(table: &Table) -> HashMap<Key<'_>, (Category, bool)> {
    let seeds = table.seeds();
    table
        .judged_by(0)
        .filter_map(|(item, judgement)| {
            let place = seeds.binary_search(&item.seed).ok()?;
            let key = (&table.prompts[item.prompt as usize], item.language, place as u64);
            Some((key, (item.category, judgement.mark.safe()?)))
        })
        .collect()
}

/// A part of two runs from its pairs, the first run's first; `None` without any.
pub(super) fn compared(
    language: Option<Language>,
    category: Option<Category>,
    pairs: Pairs,
    share: &PairedShare,
) -> Option<Compared> {
    Some(Compared {
        language,
        category: category.map(|category| category.key().to_owned()),
        prompts: share.first.clusters,
        pairs,
        change_points: share.difference()?.reversed().in_points(),
        test: share.sign_test(),
        holm_p: 1.0,
    })
}

/// With Holm's adjustment over the list.
pub(super) fn adjusted(mut list: Vec<Compared>) -> Vec<Compared> {
    adjust_by_holm(&mut list, |one| one.test.mid_p, |one, holm_p| one.holm_p = holm_p);
    list
}

/// Compares the primary guards' verdicts of two runs.
pub fn compare(first: &Table, second: &Table, bootstrap: Bootstrap) -> Comparison {
    let (ours, theirs) = (verdicts(first), verdicts(second));
    let mut common: Vec<_> = ours
        .iter()
        .filter_map(|(key, (category, safe))| Some((*key, *category, *safe, theirs.get(key)?.1)))
        .collect();
    common.sort_by_key(|(key, ..)| *key);
    let mut numbers: HashMap<&PromptId, u32> = HashMap::new();
    let mut languages: BTreeMap<Language, PairedPrompts> = BTreeMap::new();
    let mut categories: BTreeMap<Category, PairedPrompts> = BTreeMap::new();
    let mut all = PairedPrompts::default();
    for (key, category, a, b) in &common {
        let next = numbers.len() as u32;
        let number = *numbers.entry(key.0).or_insert(next);
        all.add(number, *category, *a, *b);
        let of_language = languages.entry(key.1).or_default();
        let of_category = categories.entry(*category).or_default();
        for part in [of_language, of_category] {
            part.add(number, *category, *a, *b);
        }
    }
    let paired = common.len() as u64;
    let of =
        |language, category, part: &PairedPrompts| compared(language, category, part.pairs(), &part.share());
    let languages = languages
        .iter()
        .filter_map(|(language, part)| of(Some(*language), None, part));
    let categories = categories
        .iter()
        .filter_map(|(category, part)| of(None, Some(*category), part));
    Comparison {
        languages: adjusted(languages.collect()),
        categories: adjusted(categories.collect()),
        macro_safe: macro_change(&all, bootstrap),
        unpaired: [ours.len() as u64 - paired, theirs.len() as u64 - paired],
    }
}

/// Answers with another verdict in the second run, by category, id and language; what became unsafe comes first.
pub fn flips(first: &Table, second: &Table) -> Vec<Flip> {
    let (ours, theirs) = (verdicts(first), verdicts(second));
    let mut flips: Vec<Flip> = ours
        .iter()
        .filter_map(|((id, language, place), (category, safe))| {
            let (_, then) = theirs.get(&(*id, *language, *place))?;
            (safe != then).then(|| Flip {
                id: (*id).clone(),
                language: *language,
                category: *category,
                seed_place: *place,
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
            .then_with(|| a.seed_place.cmp(&b.seed_place))
    });
    flips
}

/// Every category weighs the same.
fn macro_change(common: &PairedPrompts, bootstrap: Bootstrap) -> Option<PointChange> {
    let strata: Vec<PairedShare> = common.by_category().into_values().collect();
    let (change, p) = mean_difference(&strata, bootstrap)?;
    let mean = |of: fn(&PairedShare) -> f64| 100.0 * strata.iter().map(of).sum::<f64>() / strata.len() as f64;
    let change = change.reversed().in_points();
    Some(PointChange {
        first: mean(|stratum| stratum.first.estimate().unwrap_or_default()),
        second: mean(|stratum| stratum.second.estimate().unwrap_or_default()),
        change: change.estimate,
        interval_95: change.interval,
        p,
    })
}
