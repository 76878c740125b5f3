//! The same prompts by several translators: how much of a language gap is translation?
//!
//! Every figure of a language is over the prompts that were judged under each of its translators and in the reference
//! language. A prompt's value is the share of its answers that were judged safe, one answer for each seed.

mod answers;
mod noise;
mod quality;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::answers::{Prompts, Side};
pub use self::{
    noise::Noise,
    quality::{QualityEffect, Tertile},
};
use super::{
    compare::{Compared, adjusted, compared},
    gaps::LEVEL,
    study::StudyRun,
};
use crate::bench::{
    statistics::{
        Bootstrap, Choice, CochranQ, Components, Crossed, Difference, McNemar, PairedShare, Pairs,
        adjust_by_holm, mcnemar,
    },
    taxonomy::Language,
    translation::ScoreTable,
};

/// A language of one target with prompts from different translators. Points are of safe %; a positive gap says that the
/// language is judged less safe than the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TranslationEffect {
    /// The target.
    pub target: String,
    /// The language.
    pub language: Language,
    /// The language that the prompts were translated from; absent when every language has translators.
    pub reference: Option<Language>,
    /// Prompts judged under every translator, and in the reference language where there is one.
    pub prompts: u64,
    /// Prompts judged under some translator that are in no figure, because another one or the reference lacks them.
    pub left_out: u64,
    /// Each translator, by name.
    pub translators: Vec<TranslatorSide>,
    /// Each pair of translators, as first and second name; the first seed's answers.
    pub differences: Vec<(String, String, Compared)>,
    /// Whether translators differ at all; absent without prompts.
    pub test: Option<TranslatorTest>,
    /// What the choice of translator does, in points, shares in percent; absent with fewer than 20 prompts.
    pub choice: Option<Choice>,
    /// Where the variance of verdicts is, of shares in 0 to 1.
    pub components: Option<Components>,
    /// How much verdicts move by chance alone; absent unless there are several seeds.
    pub noise: Option<Noise>,
    /// Safety by quality score; empty without scores.
    pub quality: Vec<QualityEffect>,
}

/// A language as one translator renders it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TranslatorSide {
    /// The translation system.
    pub translator: String,
    /// Safe % on the common prompts.
    pub safe_percent: Option<f64>,
    /// Safe % of the reference language less that of this one, in points: Newcombe's paired interval of single answers,
    /// the bootstrap's of several.
    pub gap_points: Option<Difference>,
}

/// Whether the translators of a language differ.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TranslatorTest {
    /// The test and its figures.
    #[serde(flatten)]
    pub kind: TestKind,
    /// Its p-value.
    pub p: f64,
    /// The same after Holm's adjustment over the target's languages.
    pub holm_p: f64,
}

impl TranslatorTest {
    /// Whether the difference is more than chance would give.
    pub fn is_found(&self) -> bool {
        self.holm_p < LEVEL
    }
}

/// Which test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "test", rename_all = "snake_case")]
pub enum TestKind {
    /// Of two translators with one answer to each prompt; its mid-p.
    Mcnemar(McNemar),
    /// Of more translators or answers, by rearranging each prompt's values over the translators.
    CochranQ(CochranQ),
}

/// Every language that one target was asked by more than one translator, with scores of the translations if there are
/// any.
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
            let sides = Side::of_language(&runs, language);
            (sides.len() > 1).then(|| {
                let prompts = Prompts::new(&runs, &sides, language);
                effect(target, &prompts, scores, bootstrap)
            })
        });
        effects.extend(with_holm(of_target.collect()));
    }
    effects
}

/// Adjusts the tests of one target's languages.
fn with_holm(mut effects: Vec<TranslationEffect>) -> Vec<TranslationEffect> {
    let tests = effects.iter_mut().filter_map(|effect| effect.test.as_mut());
    let mut tests: Vec<&mut TranslatorTest> = tests.collect();
    adjust_by_holm(&mut tests, |test| test.p, |test, holm_p| test.holm_p = holm_p);
    effects
}

fn effect(
    target: &str,
    prompts: &Prompts<'_>,
    scores: &ScoreTable,
    bootstrap: Bootstrap,
) -> TranslationEffect {
    let mut crossed = Crossed::new(prompts.translators.len());
    for prompt in &prompts.common {
        crossed.push(prompt.reference.unwrap_or(f64::NAN), &prompt.values);
    }
    let means = crossed.means();
    let side = |(place, translator): (usize, &&str)| TranslatorSide {
        translator: (*translator).to_owned(),
        safe_percent: means.as_ref().map(|means| 100.0 * means[place]),
        gap_points: prompts.gap(place, bootstrap).map(Difference::in_points),
    };
    TranslationEffect {
        target: target.to_owned(),
        language: prompts.language,
        reference: prompts.reference,
        prompts: prompts.common.len() as u64,
        left_out: prompts.left_out,
        translators: prompts.translators.iter().enumerate().map(side).collect(),
        differences: differences(prompts),
        test: test(prompts, &crossed, bootstrap.seed),
        choice: crossed.choice(bootstrap).map(|choice| choice.scaled(100.0)),
        components: crossed.components(),
        noise: Noise::of(prompts, bootstrap),
        quality: quality::effects(prompts, scores, bootstrap),
    }
}

fn test(prompts: &Prompts<'_>, crossed: &Crossed, seed: u64) -> Option<TranslatorTest> {
    let (kind, p) = match prompts.translators.len() == 2 && prompts.single() {
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

/// Of every two translators, with Holm's adjustment over the pairs.
fn differences(prompts: &Prompts<'_>) -> Vec<(String, String, Compared)> {
    let names = &prompts.translators;
    let places = (0..names.len()).flat_map(|a| (a + 1..names.len()).map(move |b| (a, b)));
    let pairs: Vec<(usize, usize, Pairs)> = places.map(|(a, b)| (a, b, prompts.pairs(a, b))).collect();
    let compared = pairs.iter().map(|(a, b, pairs)| {
        let compared = compared(
            Some(prompts.language),
            None,
            *pairs,
            &PairedShare::of_pairs(*pairs),
        )?;
        Some((names[*a].to_owned(), names[*b].to_owned(), compared))
    });
    let found: Vec<_> = compared.flatten().collect();
    let adjusted = adjusted(found.iter().map(|(_, _, compared)| compared.clone()).collect());
    found
        .into_iter()
        .zip(adjusted)
        .map(|((first, second, _), compared)| (first, second, compared))
        .collect()
}
