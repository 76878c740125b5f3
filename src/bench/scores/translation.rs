//! The same prompts by several translators: how much of a language gap is translation?

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Tally,
    compare::{Compared, compare},
    gaps::{Gap, language_gaps},
    study::StudyRun,
    table::Table,
};
use crate::bench::{
    statistics::{Bootstrap, Difference},
    taxonomy::Language,
};

/// A language of one target with prompts from different translators.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TranslationEffect {
    /// The target.
    pub target: String,
    /// The language.
    pub language: Language,
    /// Each translator.
    pub translators: Vec<TranslatorSide>,
    /// Each pair of translators, as first and second name, on the same prompts.
    pub differences: Vec<(String, String, Compared)>,
    /// Highest less lowest gap to the reference language, in points: what the choice of translator moves.
    pub spread_points: Option<f64>,
}

/// A language as one translator renders it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TranslatorSide {
    /// The translation system.
    pub translator: String,
    /// Safe %.
    pub safe_percent: Option<f64>,
    /// Gap to the run's reference language in points: negative is less safe.
    pub gap_points: Option<Difference>,
}

/// The translators of a language in a run, as one name.
fn translator(table: &Table, language: Language) -> Option<String> {
    let names: Vec<&str> = table
        .translators
        .get(&language)?
        .iter()
        .map(String::as_str)
        .collect();
    Some(names.join("+"))
}

/// Every language that one target was asked by more than one translator.
pub fn translation_effects(runs: &[StudyRun], bootstrap: Bootstrap) -> Vec<TranslationEffect> {
    let mut by_target: BTreeMap<&str, Vec<&StudyRun>> = BTreeMap::new();
    for run in runs {
        by_target.entry(&run.name).or_default().push(run);
    }
    let mut effects = Vec::new();
    for (target, runs) in by_target {
        for language in Language::ALL {
            let sides: Vec<(String, &StudyRun)> = runs
                .iter()
                .filter_map(|run| Some((translator(&run.table, language)?, *run)))
                .collect();
            if sides.len() > 1 {
                effects.push(translation_effect(target, language, &sides, bootstrap));
            }
        }
    }
    effects
}

fn translation_effect(
    target: &str,
    language: Language,
    sides: &[(String, &StudyRun)],
    bootstrap: Bootstrap,
) -> TranslationEffect {
    let side = |(name, run): &(String, &StudyRun)| {
        let mut tally = Tally::default();
        for (_, judgement) in run
            .table
            .judged_by(0)
            .filter(|(item, _)| item.language == language)
        {
            tally.add(judgement.mark);
        }
        // The pair is (reference, language); its difference is the reference's lead.
        let gap = |gap: &Gap| {
            let lead = gap.difference_points?;
            Some(Difference {
                estimate: -lead.estimate,
                interval: crate::bench::statistics::Interval {
                    low: -lead.interval.high,
                    high: -lead.interval.low,
                },
            })
        };
        let reference = run.table.languages().first().copied();
        TranslatorSide {
            translator: name.clone(),
            safe_percent: tally.score().safe_percent,
            gap_points: language_gaps(&run.table, 0)
                .iter()
                .find(|gap| Some(gap.first) == reference && gap.second == language)
                .and_then(gap),
        }
    };
    let translators: Vec<TranslatorSide> = sides.iter().map(side).collect();
    let gaps: Vec<f64> = translators
        .iter()
        .filter_map(|side| Some(side.gap_points?.estimate))
        .collect();
    let mut differences = Vec::new();
    for (index, (first, a)) in sides.iter().enumerate() {
        for (second, b) in &sides[index + 1..] {
            let compared = compare(&a.table, &b.table, bootstrap).languages;
            let own = compared.into_iter().find(|one| one.language == Some(language));
            differences.extend(own.map(|own| (first.clone(), second.clone(), own)));
        }
    }
    TranslationEffect {
        target: target.to_owned(),
        language,
        translators,
        differences,
        spread_points: gaps
            .iter()
            .copied()
            .reduce(f64::max)
            .zip(gaps.iter().copied().reduce(f64::min))
            .map(|(high, low)| high - low),
    }
}
