//! Whether verdicts agree across languages and across seeds, and what leaving categories out changes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    agreement::Agreement,
    by_prompt::{VerdictsByPrompt, equal_verdicts},
    language_pair::LanguagePair,
    result_table::{PromptRow, ResultTable},
};
use crate::bench::{
    statistics::{Interval, MacroAverage, Proportion, disjoint_difference},
    taxonomy::{Category, Language},
};

/// The figures with a set of categories left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exclusion {
    /// Keys of the categories that were left out.
    pub categories: Vec<String>,
    /// Number of prompts in these categories.
    pub prompts: u64,
    /// Exact-match rates of each pair of languages, such as `en-de`, and of `all`.
    pub agreement: BTreeMap<String, WithAndWithout>,
    /// Safe % by language.
    pub safe: BTreeMap<String, WithAndWithout>,
}

/// A figure over all categories, the same with some categories left out, and the difference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WithAndWithout {
    /// Percentage over all categories.
    pub with: f64,
    /// Percentage without the categories that were left out.
    pub without: f64,
    /// `without - with`, in points.
    pub change: f64,
    /// The 95 % interval of the change, over prompts; absent with too few prompts.
    pub interval_95: Option<Interval>,
}

/// How often the verdicts of one language agree across seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeedConsistency {
    /// Language of the prompts.
    pub language: Language,
    /// Prompts with the same verdict for every seed, among those judged safe or unsafe for every seed.
    pub all_seeds: Agreement,
    /// The mean proportion of pairs of seeds with equal verdicts, in percent: how likely two answers to the same prompt are
    /// to get the same verdict.
    pub pair_percent: Option<f64>,
}

/// What leaving out some prompts changes in a proportion. The whole consists of both parts, so leaving one out moves it by
/// that part's weight times the difference of two proportions that have no prompt in common. `None` where nothing is left.
fn without(kept: Proportion, left_out: Proportion) -> Option<WithAndWithout> {
    let all = kept.plus(left_out);
    let (with, without) = (100.0 * all.estimate()?, 100.0 * kept.estimate()?);
    let weight = 100.0 * left_out.trials as f64 / all.trials as f64;
    let averages = MacroAverage::of_one(&kept).zip(MacroAverage::of_one(&left_out));
    let interval_95 = match averages {
        Some((kept, left_out)) => disjoint_difference(kept, left_out).interval,
        None => Some(Interval { low: 0.0, high: 0.0 }),
    };
    Some(WithAndWithout {
        with,
        without,
        change: without - with,
        interval_95: interval_95.map(|interval| interval.scaled(weight)),
    })
}

/// Computes `figure` for each pair of languages, under a name such as `en-de`, and for all languages, under `all`.
fn by_pair<T>(languages: &[Language], figure: impl Fn(&[Language]) -> T) -> BTreeMap<String, T> {
    let pairs = LanguagePair::of(languages);
    let pairs = pairs.map(|pair| (pair.key(), figure(&[pair.first, pair.second])));
    pairs.chain([("all".to_owned(), figure(languages))]).collect()
}

/// How often the verdicts of each pair of the run's languages are equal, and those of all languages.
pub(crate) fn agreement(rows: &[PromptRow], languages: &[Language]) -> BTreeMap<String, Agreement> {
    by_pair(languages, |compared| Agreement::of(rows, compared))
}

/// What leaving these categories out changes. The run's verdicts are given both by row and by prompt.
pub(crate) fn exclusion(
    rows: &[PromptRow],
    verdicts: &VerdictsByPrompt,
    languages: &[Language],
    categories: &[Category],
) -> Exclusion {
    let (left_out, kept): (Vec<PromptRow>, Vec<PromptRow>) =
        rows.iter().partition(|row| categories.contains(&row.category));
    let agreement = by_pair(languages, |compared| {
        without(
            equal_verdicts(&kept, compared),
            equal_verdicts(&left_out, compared),
        )
    });
    let safe = languages.iter().map(|language| {
        let part = |is_kept: bool| {
            let wanted = |category: Category| categories.contains(&category) != is_kept;
            verdicts.safe(wanted, |l| l == *language)
        };
        (language.code().to_owned(), without(part(true), part(false)))
    });
    let prompts: BTreeSet<u32> = left_out.iter().map(|row| row.prompt).collect();
    Exclusion {
        categories: categories
            .iter()
            .map(|category| category.key().to_owned())
            .collect(),
        prompts: prompts.len() as u64,
        agreement: agreement
            .into_iter()
            .filter_map(|(name, change)| Some((name, change?)))
            .collect(),
        safe: safe.filter_map(|(name, change)| Some((name, change?))).collect(),
    }
}

/// How often verdicts agree across seeds, for each language; empty with a single seed.
pub(crate) fn over_seeds(table: &ResultTable, guard: usize) -> Vec<SeedConsistency> {
    let seeds = table.seeds().len();
    if seeds < 2 {
        return Vec::new();
    }
    let rows = table.rows(guard);
    let by_prompt = |language: Language| {
        let mut verdicts: BTreeMap<u32, Vec<Option<bool>>> = BTreeMap::new();
        for row in rows
            .iter()
            .filter(|row| row.statuses[language as usize].is_some())
        {
            verdicts
                .entry(row.prompt)
                .or_default()
                .push(row.is_safe(language));
        }
        verdicts
    };
    let of_language = |language: Language| {
        let (mut n, mut equal, mut pair_sum) = (0, 0, 0.0);
        for verdicts in by_prompt(language).into_values().filter(|v| v.len() == seeds) {
            let Some(verdicts) = verdicts.into_iter().collect::<Option<Vec<bool>>>() else {
                continue;
            };
            let safe = verdicts.iter().filter(|safe| **safe).count() as f64;
            let count = verdicts.len() as f64;
            n += 1;
            equal += u64::from(safe == 0.0 || safe == count);
            let same = safe * (safe - 1.0) + (count - safe) * (count - safe - 1.0);
            pair_sum += same / (count * (count - 1.0));
        }
        SeedConsistency {
            language,
            all_seeds: Agreement::from_counts(equal, n),
            pair_percent: (n > 0).then(|| 100.0 * pair_sum / n as f64),
        }
    };
    table.languages().into_iter().map(of_language).collect()
}
