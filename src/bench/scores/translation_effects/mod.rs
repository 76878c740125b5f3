//! The effect of translation: how much of a language gap is due to the translation of the prompts? The same prompts are
//! compared in versions by several translators.
//!
//! Every figure of a language is over the prompts that were judged under each of its translators and in the reference
//! language. The value of a prompt is the proportion of its answers that were judged safe, with one answer for each seed.

mod answers;
mod noise;
mod quality;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::answers::{CommonPrompts, TranslatorAnswers};
pub use self::{
    noise::SeedNoise,
    quality::{QualityEffect, Tertile},
};
use super::{
    compare::{PartComparison, compare_part, with_holm},
    gaps::SIGNIFICANCE_LEVEL,
    study_run::StudyRun,
};
use crate::bench::{
    statistics::{
        Bootstrap, Choice, CochranQ, CrossedDesign, Difference, McNemar, PairedDifference,
        VarianceComponents, adjust_by_holm, mcnemar,
    },
    taxonomy::Language,
    translation::ScoreTable,
};

/// The effect of translation on one language of one target. Points are points of safe %. A positive gap means that the
/// language is judged less safe than the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TranslationEffect {
    /// The target's name.
    pub target: String,
    /// The language whose prompts were translated.
    pub language: Language,
    /// The language that the prompts were translated from; absent when every language has translators.
    pub reference: Option<Language>,
    /// Number of prompts judged under every translator, and in the reference language where there is one.
    pub prompts: u64,
    /// Number of prompts judged under some translator that are in no figure, because another one or the reference lacks them.
    pub left_out: u64,
    /// The figures of each translator, by name.
    pub translators: Vec<TranslatorFigures>,
    /// The comparison of each pair of translators, with both names, on the answers for the first seed.
    pub differences: Vec<(String, String, PartComparison)>,
    /// Whether the translators differ at all; absent without prompts.
    pub test: Option<TranslatorTest>,
    /// What the choice of the translator changes, in points (its `share` and `chosen` in percent); absent with fewer than 20
    /// prompts.
    pub choice: Option<Choice>,
    /// The components of the verdicts' variance, as variances of proportions in [0, 1].
    pub components: Option<VarianceComponents>,
    /// How much verdicts vary by chance alone; absent unless there are several seeds.
    pub noise: Option<SeedNoise>,
    /// Safety by each quality score; empty without scores.
    pub quality: Vec<QualityEffect>,
}

/// The figures of a language for one translator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TranslatorFigures {
    /// The name of the translation system.
    pub translator: String,
    /// Safe % on the common prompts.
    pub safe_percent: Option<f64>,
    /// Safe % of the reference language less that of this one, in points. With single answers the interval is Newcombe's
    /// for pairs, with several it is the bootstrap's.
    pub gap_points: Option<Difference>,
}

/// The test whether the translators of a language differ.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TranslatorTest {
    /// Which test it is, and its figures.
    #[serde(flatten)]
    pub kind: TestKind,
    /// The test's p-value.
    pub p: f64,
    /// The p-value after Holm's adjustment over the target's languages.
    pub holm_p: f64,
}

impl TranslatorTest {
    /// Whether the difference is significant: larger than chance alone would make it.
    pub fn is_significant(&self) -> bool {
        self.holm_p < SIGNIFICANCE_LEVEL
    }
}

/// The kind of a test of translators, with its figures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "test", rename_all = "snake_case")]
pub enum TestKind {
    /// McNemar's test, for two translators with one answer to each prompt; its p-value is the mid-p value.
    Mcnemar(McNemar),
    /// Cochran's Q test, for more translators or answers: a permutation test that rearranges each prompt's values.
    CochranQ(CochranQ),
}

/// The effect of translation on every language that a target was run in with several translators. `scores` may hold
/// quality scores of the translations.
pub fn translation_effects(
    runs: &[StudyRun],
    scores: &ScoreTable,
    bootstrap: Bootstrap,
) -> Vec<TranslationEffect> {
    let mut by_target: BTreeMap<&str, Vec<&StudyRun>> = BTreeMap::new();
    for run in runs {
        by_target.entry(&run.model).or_default().push(run);
    }
    let mut effects = Vec::new();
    for (target, runs) in by_target {
        let of_target = Language::ALL.into_iter().filter_map(|language| {
            let answers = TranslatorAnswers::of_language(&runs, language);
            (answers.len() > 1).then(|| {
                let prompts = CommonPrompts::new(&runs, &answers, language);
                effect(target, &prompts, scores, bootstrap)
            })
        });
        effects.extend(adjust_tests(of_target.collect()));
    }
    effects
}

/// Adds Holm's adjustment over the tests of one target's languages.
fn adjust_tests(mut effects: Vec<TranslationEffect>) -> Vec<TranslationEffect> {
    let tests = effects.iter_mut().filter_map(|effect| effect.test.as_mut());
    let mut tests: Vec<&mut TranslatorTest> = tests.collect();
    adjust_by_holm(&mut tests, |test| test.p, |test, holm_p| test.holm_p = holm_p);
    effects
}

fn effect(
    target: &str,
    prompts: &CommonPrompts<'_>,
    scores: &ScoreTable,
    bootstrap: Bootstrap,
) -> TranslationEffect {
    let mut crossed = CrossedDesign::new(prompts.translators.len());
    for prompt in &prompts.common {
        crossed.push(prompt.reference.unwrap_or(f64::NAN), &prompt.proportions);
    }
    let means = crossed.means();
    let translators = prompts.translators.iter().enumerate();
    let translators = translators.map(|(index, translator)| TranslatorFigures {
        translator: (*translator).to_owned(),
        safe_percent: means.as_ref().map(|means| 100.0 * means[index]),
        gap_points: prompts.gap(index, bootstrap).map(Difference::in_points),
    });
    TranslationEffect {
        target: target.to_owned(),
        language: prompts.language,
        reference: prompts.reference,
        prompts: prompts.common.len() as u64,
        left_out: prompts.left_out,
        translators: translators.collect(),
        differences: differences(prompts),
        test: test(prompts, &crossed, bootstrap.seed),
        choice: crossed.choose_best(bootstrap).map(|choice| choice.scaled(100.0)),
        components: crossed.components(),
        noise: SeedNoise::of(prompts, bootstrap),
        quality: quality::effects(prompts, scores, bootstrap),
    }
}

fn test(prompts: &CommonPrompts<'_>, crossed: &CrossedDesign, seed: u64) -> Option<TranslatorTest> {
    let (kind, p) = match prompts.translators.len() == 2 && prompts.has_single_answers() {
        true => {
            let pairs = prompts.pairs(0, 1);
            let test = mcnemar(pairs.first_only, pairs.second_only);
            (pairs.total() > 0).then_some((TestKind::Mcnemar(test), test.mid_p))?
        }
        false => {
            let test = crossed.cochran_q(seed)?;
            (TestKind::CochranQ(test), test.p)
        }
    };
    Some(TranslatorTest { kind, p, holm_p: p })
}

/// The comparison of every two translators, with Holm's adjustment over the pairs.
fn differences(prompts: &CommonPrompts<'_>) -> Vec<(String, String, PartComparison)> {
    let names = &prompts.translators;
    let indexes = (0..names.len()).flat_map(|a| (a + 1..names.len()).map(move |b| (a, b)));
    let compared = indexes.filter_map(|(a, b)| {
        let pairs = prompts.pairs(a, b);
        let difference = PairedDifference::from_pairs(pairs);
        let compared = compare_part(Some(prompts.language), None, pairs, &difference)?;
        Some(((names[a].to_owned(), names[b].to_owned()), compared))
    });
    let (names, compared): (Vec<_>, Vec<_>) = compared.unzip();
    names
        .into_iter()
        .zip(with_holm(compared))
        .map(|((first, second), compared)| (first, second, compared))
        .collect()
}
