//! Whether verdicts are the same across languages and across seeds, and what leaving categories out changes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    Agreement,
    by_prompt::{VerdictsByPrompt, equal_verdicts},
    table::{PromptRow, Table},
};
use crate::bench::{
    statistics::{Interval, Share, disjoint_difference},
    taxonomy::{Category, Language},
};

/// Pairs of two different languages, in table order.
pub fn pairs() -> impl Iterator<Item = (Language, Language)> {
    let later = |first: Language| Language::ALL.into_iter().filter(move |second| *second > first);
    Language::ALL
        .into_iter()
        .flat_map(move |first| later(first).map(move |second| (first, second)))
}

/// Pairs of these languages, in table order.
pub fn pairs_of(languages: &[Language]) -> impl Iterator<Item = (Language, Language)> {
    pairs().filter(|(a, b)| languages.contains(a) && languages.contains(b))
}

/// The figures with a set of categories left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exclusion {
    /// Keys of the categories that were left out.
    pub categories: Vec<String>,
    /// Prompts that this leaves out.
    pub prompts: u64,
    /// Exact-match rates: each pair, such as `en-de`, and `all`.
    pub agreement: BTreeMap<String, WithAndWithout>,
    /// Safe % by language.
    pub safe: BTreeMap<String, WithAndWithout>,
}

/// A figure with everything, with something left out, and what that changes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WithAndWithout {
    /// Percent with everything.
    pub with: f64,
    /// Percent without.
    pub without: f64,
    /// `without - with`, in points.
    pub change: f64,
    /// 95 %, over prompts; absent with too few of them.
    pub interval_95: Option<Interval>,
}

/// How often the seeds of one language agree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeedConsistency {
    /// The language.
    pub language: Language,
    /// Prompts with the same verdict for every seed, of those decided for every seed.
    pub all_seeds: Agreement,
    /// Mean share of seed pairs with equal verdicts, in percent: what two answers to the same prompt have.
    pub pair_percent: Option<f64>,
}

/// What is left of a share without a part of its prompts. The whole is both together, so that leaving the part out moves it
/// by the part's weight times the difference of two shares that have no prompt in common. `None` where nothing is left.
fn without(kept: Share, left_out: Share) -> Option<WithAndWithout> {
    let all = kept.plus(left_out);
    let (with, without) = (100.0 * all.estimate()?, 100.0 * kept.estimate()?);
    let weight = 100.0 * left_out.trials as f64 / all.trials as f64;
    let interval_95 = match kept.mean().zip(left_out.mean()) {
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

/// What `of` says of each pair of languages, by a name such as `en-de`, and of `all`.
fn by_pair<T>(languages: &[Language], of: impl Fn(&[Language]) -> T) -> BTreeMap<String, T> {
    let name = |a: Language, b: Language| format!("{}-{}", a.code(), b.code());
    let pairs = pairs_of(languages).map(|(a, b)| (name(a, b), of(&[a, b])));
    pairs.chain([("all".to_owned(), of(languages))]).collect()
}

/// How often verdicts are equal: of each pair of the run's languages, such as `en-de`, and of `all`.
pub fn agreement(rows: &[PromptRow], languages: &[Language]) -> BTreeMap<String, Agreement> {
    by_pair(languages, |of| Agreement::of(rows, of))
}

/// What leaving categories out changes in a run's verdicts, which are given by row and by prompt.
pub fn exclusion(
    rows: &[PromptRow],
    verdicts: &VerdictsByPrompt,
    languages: &[Language],
    categories: &[Category],
) -> Exclusion {
    let (left_out, kept): (Vec<PromptRow>, Vec<PromptRow>) =
        rows.iter().partition(|row| categories.contains(&row.category));
    let agreement = by_pair(languages, |of| {
        without(equal_verdicts(&kept, of), equal_verdicts(&left_out, of))
    });
    let safe = languages.iter().map(|language| {
        let part = |is_kept: bool| {
            let wanted = |category: Category| categories.contains(&category) != is_kept;
            verdicts.safe(wanted, |l| l == *language)
        };
        (language.code().to_owned(), without(part(true), part(false)))
    });
    let known = |(name, change): (String, Option<WithAndWithout>)| Some((name, change?));
    let prompts: BTreeSet<u32> = left_out.iter().map(|row| row.prompt).collect();
    Exclusion {
        categories: categories
            .iter()
            .map(|category| category.key().to_owned())
            .collect(),
        prompts: prompts.len() as u64,
        agreement: agreement.into_iter().filter_map(known).collect(),
        safe: safe.filter_map(known).collect(),
    }
}

/// Agreement over seeds within each language; empty with one seed.
pub fn over_seeds(table: &Table, guard: usize) -> Vec<SeedConsistency> {
    let seeds = table.seeds().len();
    if seeds < 2 {
        return Vec::new();
    }
    let rows = table.rows(guard);
    let by_prompt = |language: Language| {
        let mut verdicts: BTreeMap<u32, Vec<Option<bool>>> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.marks[language as usize].is_some()) {
            verdicts.entry(row.prompt).or_default().push(row.safe(language));
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
