//! The figures of a summary, as `summary.json` has them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bench::{
    paper::PaperModel,
    results::{FinishReason, RunInfo},
    scores::{
        Agreement, Exclusion, LanguageGap, MacroGap, MacroScore, Score, SeedConsistency, guards::GuardPair,
        jurisdictions::JurisdictionScore, result_table::TokenTotals, validation::Validation, what_if::WhatIf,
    },
    statistics::Interval,
    taxonomy::Language,
};

/// The summary of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The run's settings, provenance and measurements.
    pub run: RunInfo,
    /// The languages, in the order of [`Language::ALL`].
    pub languages: Vec<LanguageScore>,
    /// The score over all languages, in which every item weighs the same.
    pub all_languages_micro: Score,
    /// The categories that occur, in the order of the taxonomy; `unknown` is last.
    pub categories: Vec<CategoryScore>,
    /// The macro categories that occur, each pooled over its items.
    pub macro_categories: Vec<CategoryScore>,
    /// Which of the 32 categories have no judged item in any language, so that no average includes them.
    pub missing_categories: Vec<String>,
    /// How often verdicts are equal, for each pair of languages, such as `en-de`, and for `all`.
    pub agreement: BTreeMap<String, Agreement>,
    /// How often verdicts agree across seeds, for each language; empty with a single seed.
    pub over_seeds: Vec<SeedConsistency>,
    /// The gap between the macro averages of every pair of languages, with its test.
    #[serde(default)]
    pub macro_gaps: Vec<MacroGap>,
    /// The gap of every pair of languages with every answer weighing the same, with its test.
    pub language_gaps: Vec<LanguageGap>,
    /// The gap of every language to the first one in every category, with its test.
    pub category_gaps: Vec<LanguageGap>,
    /// The agreement without some categories; absent when the run has none of them.
    pub exclusion: Option<Exclusion>,
    /// The agreement of every pair of guards; empty with a single guard.
    pub guard_pairs: Vec<GuardPair>,
    /// The scores by each jurisdiction's rules.
    #[serde(rename = "policies")]
    pub jurisdictions: Vec<JurisdictionScore>,
    /// Safe % by threshold on the unsafe score.
    pub threshold_curve: Vec<CurvePoint>,
    /// The effect of each filter on the answers.
    pub what_if: Vec<WhatIf>,
    /// The guard against people's labels.
    pub validation: Option<Validation>,
    /// The paper's figures of the same model.
    pub paper: Option<PaperModel>,
    /// Why items failed, the most frequent reason first.
    pub failures: Vec<FailureCount>,
    /// Numbers of tokens over all items.
    pub tokens: TokenTotals,
    /// Number of items.
    pub items: u64,
    /// How many answers the first guard calls controversial. They count as safe or as unsafe, as the run's settings say.
    #[serde(default)]
    pub controversial: u64,
}

/// The scores of one language.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LanguageScore {
    /// The language, written as its ISO 639-1 code.
    pub language: Language,
    /// The language's English name.
    pub name: String,
    /// The score in which every item weighs the same.
    pub micro: Score,
    /// The score in which every category weighs the same, as in the paper.
    #[serde(rename = "macro")]
    pub macro_: MacroScore,
    /// The answers that read like refusals.
    pub refusals: Refusals,
    /// Number of answers by finish reason.
    pub finish_reasons: BTreeMap<FinishReason, u64>,
    /// Number of items by unsafe score, in ten bins of width 0.1.
    pub score_histogram: Vec<u64>,
    /// Mean of p(safe) + p(unsafe). A value near 0 means that the guard's prompt does not fit the guard.
    pub mean_label_mass: Option<f64>,
    /// Translation systems of the language's prompts, where the prompt set names them.
    pub translators: Vec<String>,
}

/// Counts of answers that read like refusals, by a heuristic on their text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Refusals {
    /// Number of answers with a text.
    pub n: u64,
    /// Number of these that read like a refusal.
    pub refused: u64,
    /// 100 * refused / n; absent without texts.
    pub percent: Option<f64>,
    /// Wilson's 95 % interval of the percentage, over prompts.
    pub interval_95: Option<Interval>,
    /// Number of refusals that the guard judged unsafe; in most of these either the heuristic or the guard is wrong.
    pub refused_unsafe: u64,
    /// Number of answers that are no refusals and were judged safe: the model answered, and safely.
    pub answered_safe: u64,
}

/// The scores of one category.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CategoryScore {
    /// The category's key, as in the data.
    pub key: String,
    /// The key of its macro category.
    pub macro_category: String,
    /// The score of each language, in the order of the summary's languages.
    pub by_language: Vec<Score>,
    /// The score over all languages.
    pub all: Score,
    /// The answers, in all languages, that read like refusals.
    pub refusals: Refusals,
}

/// Safe % if every item with a score of at least the threshold were unsafe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// The threshold on the unsafe score.
    pub threshold: f64,
    /// Safe % of each language, in the order of the summary's languages; absent without scores.
    pub safe_percent: Vec<Option<f64>>,
}

/// How many items failed for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureCount {
    /// The gRPC status code by its name.
    pub code: String,
    /// The stable name of the error.
    pub reason: Option<String>,
    /// Number of items.
    pub count: u64,
}
