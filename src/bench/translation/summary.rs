//! What a translation came to: scores as in the paper's Table 2, and which translators were chosen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Candidate, Metric,
    estimated::EstimatorInfo,
    flags::Flag,
    select::{Decision, Rule},
};
use crate::bench::{dataset::PromptId, settings::DatasetInfo, taxonomy::Language};

/// `summary.json` of a translation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TranslationSummary {
    /// Version of this program.
    pub client_version: &'static str,
    /// The prompts that were translated.
    pub source: DatasetInfo,
    /// Their language.
    pub from: Language,
    /// The languages that they were translated into.
    pub to: Vec<Language>,
    /// How candidates were chosen.
    pub rule: Rule,
    /// Served translators: name, model, digest of its weights.
    pub served: Vec<[String; 3]>,
    /// Served estimators that gave scores.
    pub quality: Vec<EstimatorInfo>,
    /// Prompts that were to be translated.
    pub prompts: usize,
    /// Prompts in `dataset.jsonl`; absent while nothing has been chosen.
    pub complete: Option<usize>,
    /// Prompts without a good candidate in some language.
    pub excluded: Option<usize>,
    /// Requests to served models that failed.
    pub failed: usize,
    /// Imported candidates of other prompts or languages.
    pub ignored_candidates: usize,
    /// Each translator in each language.
    pub translators: Vec<TranslatorSummary>,
    /// The chosen candidates of each language, and of all; empty while nothing has been chosen.
    pub chosen: Vec<ChosenSummary>,
}

/// Mean and sample standard deviation (n - 1).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MeanSd {
    /// How many values there are.
    pub n: u64,
    /// Their mean.
    pub mean: f64,
    /// Absent of a single value.
    pub sd: Option<f64>,
}

impl MeanSd {
    /// `None` of no values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        // Welford (1962): one pass, no cancellation.
        let (mut n, mut mean, mut squares) = (0u64, 0.0, 0.0);
        for value in values {
            n += 1;
            let from_mean = value - mean;
            mean += from_mean / n as f64;
            squares += from_mean * (value - mean);
        }
        (n > 0).then(|| Self {
            n,
            mean,
            sd: (n > 1).then(|| (squares / (n - 1) as f64).sqrt()),
        })
    }
}

/// One translator in one language.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TranslatorSummary {
    /// The language that was translated into.
    pub language: Language,
    /// The translator's name.
    pub translator: String,
    /// Candidates, empty ones included.
    pub candidates: u64,
    /// Scores of the candidates that have one.
    pub scores: BTreeMap<Metric, MeanSd>,
    /// chrF of the back translations against the prompts, 0 to 100.
    pub back_translation_chrf: Option<MeanSd>,
    /// Candidates that could not be chosen: below the threshold, without a score, or rejected by a flag.
    pub excluded: u64,
    /// Candidates that are in the set.
    pub chosen: u64,
    /// How many candidates have each flag.
    pub flags: BTreeMap<Flag, u64>,
}

/// The chosen candidates of one language, or of all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChosenSummary {
    /// Absent: all languages together.
    pub language: Option<Language>,
    /// Candidates that are in the set.
    pub chosen: u64,
    /// Good candidates that are not, because their prompt has none in another language.
    pub left_out: u64,
    /// Prompts without a good candidate: all candidates fail, or there is none.
    pub without: u64,
    /// Scores of the chosen candidates that have one.
    pub scores: BTreeMap<Metric, MeanSd>,
}

/// Every translator in every language that it has candidates in.
pub fn by_translator(candidates: &[Candidate], decisions: &[Decision]) -> Vec<TranslatorSummary> {
    let mut groups: BTreeMap<(Language, &str), Vec<(&Candidate, &Decision)>> = BTreeMap::new();
    for pair in candidates.iter().zip(decisions) {
        let key = (pair.0.key.language, pair.0.key.translator.as_str());
        groups.entry(key).or_default().push(pair);
    }
    let summary = |((language, translator), members): ((Language, &str), Vec<(&Candidate, &Decision)>)| {
        let count = |holds: &dyn Fn(&Candidate, &Decision) -> bool| {
            members
                .iter()
                .filter(|(candidate, decision)| holds(candidate, decision))
                .count() as u64
        };
        let flags = Flag::ALL.map(|flag| (flag, count(&|candidate, _| candidate.flags.contains(&flag))));
        TranslatorSummary {
            language,
            translator: translator.to_owned(),
            candidates: members.len() as u64,
            scores: scores(members.iter().map(|(candidate, _)| *candidate)),
            back_translation_chrf: MeanSd::of(
                members
                    .iter()
                    .filter_map(|(candidate, _)| Some(candidate.back_translation.as_ref()?.chrf)),
            ),
            excluded: count(&|_, decision| !decision.eligible),
            chosen: count(&|_, decision| decision.chosen),
            flags: flags.into_iter().filter(|(_, count)| *count > 0).collect(),
        }
    };
    groups.into_iter().map(summary).collect()
}

/// The chosen candidates of each language, then those of all languages together.
pub fn of_chosen(
    prompts: &[PromptId],
    languages: &[Language],
    candidates: &[Candidate],
    decisions: &[Decision],
) -> Vec<ChosenSummary> {
    let decided = || candidates.iter().zip(decisions);
    let summary = |language: Option<Language>, expected: usize| {
        let is_own =
            |candidate: &Candidate| language.is_none_or(|language| candidate.key.language == language);
        let own = decided().filter(|(candidate, _)| is_own(candidate));
        let chosen: Vec<&Candidate> = own
            .clone()
            .filter_map(|(candidate, decision)| decision.chosen.then_some(candidate))
            .collect();
        let left_out = own.filter(|(_, decision)| decision.left_out).count();
        ChosenSummary {
            language,
            chosen: chosen.len() as u64,
            left_out: left_out as u64,
            without: expected.saturating_sub(chosen.len() + left_out) as u64,
            scores: scores(chosen.iter().copied()),
        }
    };
    let each = languages
        .iter()
        .map(|language| summary(Some(*language), prompts.len()));
    each.chain([summary(None, prompts.len() * languages.len())])
        .collect()
}

fn scores<'a>(candidates: impl Iterator<Item = &'a Candidate> + Clone) -> BTreeMap<Metric, MeanSd> {
    let of = |metric: Metric| {
        let values = candidates
            .clone()
            .filter_map(|candidate| candidate.scores.get(&metric).copied());
        Some((metric, MeanSd::of(values)?))
    };
    Metric::ALL.into_iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `statistics.mean` and `statistics.stdev` of Python.
    #[test]
    fn means_and_deviations_are_pythons() {
        let some = MeanSd::of([0.84, 0.79, 0.91, 0.65]).unwrap();
        assert!((some.mean - 0.797_5).abs() < 1e-12);
        assert!(
            (some.sd.unwrap() - 0.109_962_114_688_045).abs() < 1e-12,
            "{some:?}"
        );
        assert_eq!(MeanSd::of([0.5]).unwrap().sd, None);
        assert_eq!(MeanSd::of([]), None);
    }
}
