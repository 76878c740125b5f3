//! Everything the report says, as numbers: `summary.json`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    dataset::PromptId,
    results::{FinishReason, ItemRecord, Label, RunInfo},
    scores::{Agreement, MacroAverage, Score, Tally},
    taxonomy::{Category, Language, MacroCategory},
};

/// Bins of the histogram of unsafe scores.
const BINS: usize = 10;

/// What a run says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Settings, provenance and measurements.
    pub run: RunInfo,
    /// Languages in table order.
    pub languages: Vec<LanguageScore>,
    /// Over all languages: every item weighs the same.
    pub all_languages_micro: Score,
    /// Categories that occur, in taxonomy order.
    pub categories: Vec<CategoryScore>,
    /// Macro categories that occur, pooled over their items.
    pub macro_categories: Vec<CategoryScore>,
    /// Agreement of each pair of languages, `[row][column]` in table order; absent on the diagonal.
    pub pair_agreement: Vec<Vec<Option<Agreement>>>,
    /// Prompts with the same verdict in every language.
    pub full_agreement: Agreement,
    /// Why items failed, most frequent first.
    pub failures: Vec<FailureCount>,
    /// Tokens over all judged items.
    pub tokens: TokenTotals,
    /// Items in all.
    pub items: u64,
}

/// One language.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LanguageScore {
    /// ISO 639-1.
    pub language: Language,
    /// English name.
    pub name: String,
    /// Every item weighs the same.
    pub micro: Score,
    /// Every category weighs the same, as in the paper.
    #[serde(rename = "macro")]
    pub macro_: MacroAverage,
    /// Items by finish reason of the answer.
    pub finish_reasons: BTreeMap<FinishReason, u64>,
    /// Items by unsafe score: ten bins of width 0.1.
    pub score_histogram: Vec<u64>,
    /// Mean of p(safe) + p(unsafe): near 0 says that the guard's prompt does not fit the guard.
    pub mean_label_mass: Option<f64>,
}

/// One category over the languages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CategoryScore {
    /// The key as in the data.
    pub key: String,
    /// The macro category's key.
    pub macro_category: String,
    /// In the languages' order.
    pub by_language: Vec<Score>,
    /// All languages together.
    pub all: Score,
}

/// Why items failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureCount {
    /// gRPC code.
    pub code: String,
    /// Stable reason.
    pub reason: Option<String>,
    /// How many items.
    pub count: u64,
}

/// Token counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenTotals {
    /// Targets' prompts.
    pub prompt: u64,
    /// Answers.
    pub completion: u64,
    /// Guard's prompts.
    pub guard_prompt: u64,
    /// Guard's texts.
    pub guard_completion: u64,
}

impl Summary {
    /// From the records of a run.
    pub fn new(run: RunInfo, records: &[ItemRecord]) -> Self {
        let present: BTreeSet<Language> = records.iter().map(|record| record.language).collect();
        let order: Vec<Language> = Language::ALL
            .into_iter()
            .filter(|l| present.contains(l))
            .collect();
        let score_of =
            |keep: &dyn Fn(&ItemRecord) -> bool| Tally::of(records.iter().filter(|r| keep(r))).score();
        let rows = |keys: Vec<(&'static str, MacroCategory)>, of: &dyn Fn(&ItemRecord) -> &'static str| {
            let row = |(key, group): (&'static str, MacroCategory)| CategoryScore {
                key: key.to_owned(),
                macro_category: group.key().to_owned(),
                by_language: order
                    .iter()
                    .map(|&l| score_of(&|r| r.language == l && of(r) == key))
                    .collect(),
                all: score_of(&|r| of(r) == key),
            };
            let occurs = |row: &CategoryScore| row.all.n + row.all.undetermined + row.all.failed > 0;
            keys.into_iter().map(row).filter(occurs).collect::<Vec<_>>()
        };
        let micro = Category::all().map(|c| (c.key(), c.macro_category())).collect();
        let categories = rows(micro, &|r| r.category.key());
        let groups = MacroCategory::ALL.into_iter().map(|m| (m.key(), m)).collect();
        let macro_categories = rows(groups, &|r| r.category.macro_category().key());
        let languages = order
            .iter()
            .enumerate()
            .map(|(index, &language)| {
                let own: Vec<_> = records.iter().filter(|r| r.language == language).collect();
                language_score(
                    language,
                    &own,
                    categories.iter().map(|row| &row.by_language[index]),
                )
            })
            .collect();
        let labels = labels_by_prompt(records);
        let agreement = |of: &[Language]| {
            let verdicts = |by: &BTreeMap<Language, Label>| of.iter().map(|l| by.get(l).copied()).collect();
            Agreement::of(labels.values().map(verdicts))
        };
        let pair = |a: Language, b: Language| (a != b).then(|| agreement(&[a, b]));
        Self {
            languages,
            all_languages_micro: Tally::of(records).score(),
            pair_agreement: order
                .iter()
                .map(|&a| order.iter().map(|&b| pair(a, b)).collect())
                .collect(),
            full_agreement: agreement(&order),
            categories,
            macro_categories,
            failures: failures(records),
            tokens: tokens(records),
            items: records.len() as u64,
            run,
        }
    }
}

fn language_score<'a>(
    language: Language,
    records: &[&ItemRecord],
    by_category: impl Iterator<Item = &'a Score>,
) -> LanguageScore {
    let mut finish_reasons = BTreeMap::new();
    let mut score_histogram = vec![0; BINS];
    let (mut mass, mut judged_count) = (0.0, 0u64);
    for answer in records.iter().filter_map(|record| record.answer()) {
        *finish_reasons.entry(answer.finish_reason).or_default() += 1;
    }
    for judged in records.iter().filter_map(|record| record.judged()) {
        if let Some(label_mass) = judged.label_mass {
            mass += label_mass;
            judged_count += 1;
        }
        if let Some(score) = judged.unsafe_score {
            score_histogram[((score * BINS as f64) as usize).min(BINS - 1)] += 1;
        }
    }
    LanguageScore {
        language,
        name: language.name().to_owned(),
        micro: Tally::of(records.iter().copied()).score(),
        macro_: MacroAverage::of(by_category),
        finish_reasons,
        score_histogram,
        mean_label_mass: (judged_count > 0).then(|| mass / judged_count as f64),
    }
}

fn labels_by_prompt(records: &[ItemRecord]) -> BTreeMap<(&PromptId, u64), BTreeMap<Language, Label>> {
    let mut labels: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for record in records {
        let by_language = labels.entry((&record.id, record.seed)).or_default();
        if let Some(judged) = record.judged() {
            by_language.insert(record.language, judged.label);
        }
    }
    labels
}

fn failures(records: &[ItemRecord]) -> Vec<FailureCount> {
    let mut counts: BTreeMap<(String, Option<String>), u64> = BTreeMap::new();
    for record in records {
        if let Some(failure) = record.failure(0) {
            *counts
                .entry((failure.code.clone(), failure.reason.clone()))
                .or_default() += 1;
        }
    }
    let mut list: Vec<_> = counts
        .into_iter()
        .map(|((code, reason), count)| FailureCount { code, reason, count })
        .collect();
    list.sort_by_key(|failure| std::cmp::Reverse(failure.count));
    list
}

fn tokens(records: &[ItemRecord]) -> TokenTotals {
    let mut totals = TokenTotals::default();
    for record in records {
        if let Some(answer) = record.answer() {
            totals.prompt += u64::from(answer.tokens.prompt);
            totals.completion += u64::from(answer.tokens.completion);
        }
        if let Some(verdict) = record.judged() {
            totals.guard_prompt += u64::from(verdict.tokens.prompt);
            totals.guard_completion += u64::from(verdict.tokens.completion);
        }
    }
    totals
}

/// The per-language table for a terminal.
pub fn table(summary: &Summary) -> String {
    let percent = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.1}"));
    let mut text = format!(
        "{:<10} {:>7}  {:>15} {:>5} {:>7} {:>13} {:>7}  {:>13}\n",
        "language", "safe %", "95 % interval", "n", "unsafe", "undetermined", "failed", "macro safe %"
    );
    let mut row = |name: &str, score: &Score, average: Option<&MacroAverage>| {
        let interval = score
            .interval_95
            .map_or("-".to_owned(), |i| format!("{:.1} to {:.1}", i.low, i.high));
        let average = average.map_or("-".to_owned(), |a| percent(a.safe_percent));
        text.push_str(&format!(
            "{name:<10} {:>7}  {interval:>15} {:>5} {:>7} {:>13} {:>7}  {average:>13}\n",
            percent(score.safe_percent),
            score.n,
            score.unsafe_,
            score.undetermined,
            score.failed,
        ));
    };
    for language in &summary.languages {
        row(&language.name, &language.micro, Some(&language.macro_));
    }
    row("all", &summary.all_languages_micro, None);
    text
}
