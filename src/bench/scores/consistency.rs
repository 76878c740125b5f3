//! Whether verdicts are the same across languages and across seeds, and what leaving categories out changes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Agreement,
    table::{PromptRow, Table},
};
use crate::bench::{
    statistics::{Bootstrap, Clusters, Interval},
    taxonomy::{Category, Language},
};

/// What a bootstrap gives for each of: safe % of five languages, agreement of ten pairs, agreement of all.
const FIGURES: usize = 16;

/// Pairs of two different languages, in table order.
pub fn pairs() -> impl Iterator<Item = (Language, Language)> {
    let later = |first: Language| Language::ALL.into_iter().filter(move |second| *second > first);
    Language::ALL
        .into_iter()
        .flat_map(move |first| later(first).map(move |second| (first, second)))
}

/// The figures with a set of categories left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exclusion {
    /// Keys of the categories that were left out.
    pub categories: Vec<String>,
    /// Prompts that this leaves out.
    pub prompts: u64,
    /// Exact-match rates: each pair, such as `en-de`, and `all`.
    pub agreement: BTreeMap<String, Change>,
    /// Safe % by language.
    pub safe: BTreeMap<String, Change>,
}

/// A figure with everything, with something left out, and what that changes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Percent with everything.
    pub with: f64,
    /// Percent without.
    pub without: f64,
    /// `without - with`, in points.
    pub change: f64,
    /// 95 %, by the cluster bootstrap.
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

/// Decided and equal, of the languages given.
fn equal(row: &PromptRow, languages: &[Language]) -> Option<bool> {
    let verdicts: Option<Vec<bool>> = languages.iter().map(|language| row.safe(*language)).collect();
    let verdicts = verdicts?;
    Some(verdicts.windows(2).all(|pair| pair[0] == pair[1]))
}

/// (numerator, denominator) of each figure.
fn counts(row: &PromptRow, present: &[Language]) -> [(f64, f64); FIGURES] {
    let safe = Language::ALL.into_iter().map(|language| row.safe(language));
    let pairs = pairs().map(|(a, b)| equal(row, &[a, b]));
    let mut all = safe.chain(pairs).chain([equal(row, present)]);
    std::array::from_fn(|_| match all.next().flatten() {
        Some(yes) => (f64::from(u8::from(yes)), 1.0),
        None => (0.0, 0.0),
    })
}

fn clusters(rows: &[PromptRow], present: &[Language], excluded: &[Category]) -> Clusters {
    let mut clusters = Clusters::new(4 * FIGURES);
    // Rows of one prompt are one unit, wherever they stand.
    let mut by_prompt: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for row in rows {
        let vector = by_prompt
            .entry(row.prompt)
            .or_insert_with(|| vec![0.0; 4 * FIGURES]);
        let kept = !excluded.contains(&row.category);
        for (figure, (part, whole)) in counts(row, present).into_iter().enumerate() {
            vector[2 * figure] += part;
            vector[2 * figure + 1] += whole;
            if kept {
                vector[2 * (FIGURES + figure)] += part;
                vector[2 * (FIGURES + figure) + 1] += whole;
            }
        }
    }
    for vector in by_prompt.values() {
        clusters.push(0, vector);
    }
    clusters
}

/// 100 * share of each figure; NaN where nothing is decided.
fn shares(sums: &[f64]) -> [f64; FIGURES] {
    std::array::from_fn(|figure| 100.0 * sums[2 * figure] / sums[2 * figure + 1])
}

/// Names of the figures, languages first.
fn names() -> (Vec<String>, Vec<String>) {
    let safe = Language::ALL.map(|language| language.code().to_owned()).to_vec();
    let pairs = pairs().map(|(a, b)| format!("{}-{}", a.code(), b.code()));
    (safe, pairs.chain(["all".to_owned()]).collect())
}

fn named<T: Copy>(values: &[Option<T>; FIGURES]) -> (BTreeMap<String, T>, BTreeMap<String, T>) {
    let (safe, agreement) = names();
    let languages = safe.len();
    let collect = |names: Vec<String>, from: usize| {
        names
            .into_iter()
            .enumerate()
            .filter_map(|(index, name)| Some((name, values[from + index]?)))
            .collect()
    };
    (collect(safe, 0), collect(agreement, languages))
}

/// How often verdicts are equal: of each pair of the run's languages, such as `en-de`, and of `all`.
pub fn agreement(rows: &[PromptRow], languages: &[Language]) -> BTreeMap<String, Agreement> {
    let has = |pair: &(Language, Language)| languages.contains(&pair.0) && languages.contains(&pair.1);
    let of_pair = |(a, b): (Language, Language)| {
        let name = format!("{}-{}", a.code(), b.code());
        (name, Agreement::of(rows, &[a, b]))
    };
    let all = ("all".to_owned(), Agreement::of(rows, languages));
    pairs().filter(has).map(of_pair).chain([all]).collect()
}

/// What leaving categories out changes.
pub fn exclusion(table: &Table, guard: usize, categories: &[Category], bootstrap: Bootstrap) -> Exclusion {
    let rows = table.rows(guard);
    let clusters = clusters(&rows, &table.languages(), categories);
    let without = |sums: &[f64]| shares(&sums[2 * FIGURES..]);
    let change = |sums: &[f64]| -> [f64; FIGURES] {
        let (with, without) = (shares(sums), without(sums));
        std::array::from_fn(|figure| without[figure] - with[figure])
    };
    let sums = clusters.sums();
    let (with, without) = (shares(&sums), without(&sums));
    let intervals = clusters.intervals(bootstrap, change);
    let (safe, agreement) = named(&std::array::from_fn(|figure| {
        let change = without[figure] - with[figure];
        (!change.is_nan()).then_some(Change {
            with: with[figure],
            without: without[figure],
            change,
            interval_95: intervals[figure],
        })
    }));
    let dropped: std::collections::BTreeSet<u32> = rows
        .iter()
        .filter(|row| categories.contains(&row.category))
        .map(|row| row.prompt)
        .collect();
    Exclusion {
        categories: categories
            .iter()
            .map(|category| category.key().to_owned())
            .collect(),
        prompts: dropped.len() as u64,
        agreement,
        safe,
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
