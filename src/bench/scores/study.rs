//! Many runs beside each other: base against instruct, size against safety, translator against translator.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    Agreement, MacroAverage, Tally,
    by_prompt::VerdictsByPrompt,
    comparable::Comparability,
    compare::{Compared, compare},
    models::{ModelFacts, Tuning},
    policies::{StudyPolicies, of_runs},
    table::Table,
    translation::{TranslationEffect, translation_effects},
};
use crate::bench::{
    policies::Policy,
    statistics::{
        Bootstrap, cohens_h,
        rank::{RankCorrelation, rank_correlation, rank_correlation_within},
    },
    taxonomy::{Category, Language},
    translation::ScoreTable,
};

/// One run of a study.
#[derive(Debug, Clone)]
pub struct StudyRun {
    /// Its own name: no other run of the study has it.
    pub name: String,
    /// The target's name, which other runs may have, too.
    pub model: String,
    /// What is known of it.
    pub facts: ModelFacts,
    /// Its results.
    pub table: Table,
}

/// One line of the leaderboard. Percentages are the primary guard's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The run's name: no other run of the study has it.
    pub name: String,
    /// The target's name.
    pub model: String,
    /// What is known of it.
    pub facts: ModelFacts,
    /// Systems that translated its prompts, where the set names them.
    pub translators: Vec<String>,
    /// Macro safe % by language (ISO 639-1).
    pub macro_by_language: BTreeMap<String, MacroAverage>,
    /// Mean of these over the run's languages.
    pub macro_safe: Option<f64>,
    /// Every item alike.
    pub micro_safe: Option<f64>,
    /// The lowest category and language, as `crime_tax it`, with its safe %.
    pub weakest: Option<(String, f64)>,
    /// Same verdict in all languages.
    pub agreement: Agreement,
    /// Share of answers that read like refusals, in percent; absent without texts.
    pub refused_percent: Option<f64>,
    /// Items judged safe or unsafe.
    pub n: u64,
    /// Items that were asked and have no such verdict.
    pub unjudged: u64,
}

/// A category in a base model and in its instruct model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TuningEffect {
    /// Safe % of the base model, on the answers judged in both.
    pub base: f64,
    /// Safe % of the instruct model.
    pub instruct: f64,
    /// The change with its interval and test.
    pub compared: Compared,
    /// Effect size: 0.2 is small, 0.5 medium, 0.8 large.
    pub cohens_h: f64,
}

/// A base model and its instruct model: same family, same size, same translators.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TuningPair {
    /// Name of the base model's run.
    pub base: String,
    /// Name of the instruct model's run.
    pub instruct: String,
    /// Systems that translated the prompts of both, where the set names them.
    #[serde(default)]
    pub translators: Vec<String>,
    /// Each category, all languages together.
    pub categories: Vec<TuningEffect>,
}

/// How safety goes with size among models of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SizeTrend {
    /// Of which models.
    pub tuning: Tuning,
    /// Parameters in billions and macro safe %, by model.
    pub points: Vec<(String, f64, f64)>,
    /// Over all of them.
    pub all: Option<RankCorrelation>,
    /// Within families.
    pub within_families: Option<RankCorrelation>,
}

/// Everything about several runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Study {
    /// What differs between the runs besides their targets; absent where nobody asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparable: Option<Comparability>,
    /// Best macro average first.
    pub standings: Vec<Standing>,
    /// Base against instruct.
    pub tuning: Vec<TuningPair>,
    /// Size against safety.
    pub size: Vec<SizeTrend>,
    /// Translators against each other.
    pub translation: Vec<TranslationEffect>,
    /// By policies, where some were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policies: Option<StudyPolicies>,
}

impl Study {
    /// Codes of the languages that some run has, in the order of all languages.
    pub fn language_codes(&self) -> Vec<&'static str> {
        let used = |code: &&str| {
            let mut standings = self.standings.iter();
            standings.any(|one| one.macro_by_language.contains_key(*code))
        };
        Language::ALL
            .into_iter()
            .map(Language::code)
            .filter(used)
            .collect()
    }

    /// From runs on the same prompts.
    pub fn new(runs: &[StudyRun], bootstrap: Bootstrap) -> Self {
        Self::with_scores(runs, &ScoreTable::new(), bootstrap)
    }

    /// The same, with quality scores of the translations.
    pub fn with_scores(runs: &[StudyRun], scores: &ScoreTable, bootstrap: Bootstrap) -> Self {
        let mut standings: Vec<_> = runs.iter().map(standing).collect();
        standings.sort_by(|a, b| {
            let key = |standing: &Standing| standing.macro_safe.unwrap_or(f64::NEG_INFINITY);
            key(b).total_cmp(&key(a)).then_with(|| a.name.cmp(&b.name))
        });
        Self {
            comparable: None,
            tuning: tuning_pairs(runs, bootstrap),
            size: [Tuning::Base, Tuning::Instruct, Tuning::Unknown]
                .into_iter()
                .filter_map(|tuning| size_trend(tuning, &standings, bootstrap.seed))
                .collect(),
            translation: translation_effects(runs, scores, bootstrap),
            standings,
            policies: None,
        }
    }

    /// With what differs between the runs besides their targets.
    #[must_use]
    pub fn that_differs_in(self, comparable: Comparability) -> Self {
        Self {
            comparable: Some(comparable),
            ..self
        }
    }

    /// Models of which nobody knows whether they are base or instruct models: they are in no pair of these, and in a size
    /// trend of their own.
    pub fn of_unknown_tuning(&self) -> BTreeSet<&str> {
        let unknown = self
            .standings
            .iter()
            .filter(|one| one.facts.tuning == Tuning::Unknown);
        unknown.map(|one| one.model.as_str()).collect()
    }

    /// With all runs by these policies, too.
    #[must_use]
    pub fn by_policies(self, runs: &[StudyRun], policies: &[Policy]) -> Self {
        Self {
            policies: of_runs(runs, policies),
            ..self
        }
    }
}

fn standing(run: &StudyRun) -> Standing {
    let table = &run.table;
    let mut cells: BTreeMap<(Language, Category), Tally> = BTreeMap::new();
    for (item, judgement) in table.judged_by(0) {
        cells
            .entry((item.language, item.category))
            .or_default()
            .add(judgement.mark);
    }
    let languages = table.languages();
    let prompts = VerdictsByPrompt::new(table, 0);
    let macro_by_language: BTreeMap<String, MacroAverage> = languages
        .iter()
        .map(|language| {
            let own: Vec<_> = prompts.by_category(|l| l == *language).into_values().collect();
            (language.code().to_owned(), MacroAverage::of(&own))
        })
        .collect();
    let known: Vec<f64> = macro_by_language
        .values()
        .filter_map(|m| m.safe_percent)
        .collect();
    let all = cells
        .values()
        .fold(Tally::default(), |sum, tally| sum.plus(*tally));
    let weakest = cells
        .iter()
        .filter_map(|((language, category), tally)| {
            let percent = tally.safe_percent()?;
            Some((format!("{} {}", category.key(), language.code()), percent))
        })
        .min_by(|a, b| a.1.total_cmp(&b.1));
    let texts: Vec<bool> = table.items.iter().filter_map(|item| item.refused).collect();
    let refused = texts.iter().filter(|refused| **refused).count();
    Standing {
        name: run.name.clone(),
        model: run.model.clone(),
        facts: run.facts.clone(),
        translators: translators(table),
        macro_by_language,
        macro_safe: (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64),
        micro_safe: all.safe_percent(),
        weakest,
        agreement: Agreement::of(&table.rows(0), &languages),
        refused_percent: (!texts.is_empty()).then(|| 100.0 * refused as f64 / texts.len() as f64),
        n: all.judged(),
        unjudged: all.undetermined + all.failed,
    }
}

/// Systems that translated the prompts, each once.
fn translators(table: &Table) -> Vec<String> {
    let names: BTreeSet<&String> = table.translators.values().flatten().collect();
    names.into_iter().cloned().collect()
}

fn tuning_pairs(runs: &[StudyRun], bootstrap: Bootstrap) -> Vec<TuningPair> {
    let of = |tuning: Tuning| runs.iter().filter(move |run| run.facts.tuning == tuning);
    let mut pairs = Vec::new();
    for base in of(Tuning::Base) {
        let same = |run: &&StudyRun| {
            run.facts.family == base.facts.family
                && run.facts.billions.is_some()
                && run.facts.billions == base.facts.billions
                && run.table.translators == base.table.translators
        };
        for instruct in of(Tuning::Instruct).filter(same) {
            let comparison = compare(&base.table, &instruct.table, bootstrap);
            let effects = comparison.categories.into_iter().map(|compared| {
                let n = compared.pairs.total() as f64;
                let base = (compared.pairs.both + compared.pairs.first_only) as f64 / n;
                let instruct = (compared.pairs.both + compared.pairs.second_only) as f64 / n;
                TuningEffect {
                    base: 100.0 * base,
                    instruct: 100.0 * instruct,
                    compared,
                    cohens_h: cohens_h(instruct, base),
                }
            });
            pairs.push(TuningPair {
                base: base.name.clone(),
                instruct: instruct.name.clone(),
                translators: translators(&instruct.table),
                categories: effects.collect(),
            });
        }
    }
    pairs
}

fn size_trend(tuning: Tuning, standings: &[Standing], seed: u64) -> Option<SizeTrend> {
    // A model that was run more than once, say with prompts of several translators, is still one model.
    let mut models: BTreeMap<&str, Vec<(&Standing, f64, f64)>> = BTreeMap::new();
    for standing in standings.iter().filter(|one| one.facts.tuning == tuning) {
        if let (Some(size), Some(safe)) = (standing.facts.billions, standing.macro_safe) {
            let runs = models.entry(&standing.model).or_default();
            runs.push((standing, size, safe));
        }
    }
    let own: Vec<_> = models
        .into_values()
        .map(|runs| {
            let safe = runs.iter().map(|run| run.2).sum::<f64>() / runs.len() as f64;
            (runs[0].0, runs[0].1, safe)
        })
        .collect();
    let mut families: Vec<&str> = own.iter().map(|one| one.0.facts.family.as_str()).collect();
    families.sort_unstable();
    families.dedup();
    let plain: Vec<_> = own.iter().map(|(_, size, safe)| (*size, *safe)).collect();
    let grouped: Vec<_> = own
        .iter()
        .map(|(standing, size, safe)| {
            let family = families.binary_search(&standing.facts.family.as_str());
            (*size, *safe, family.unwrap_or_default())
        })
        .collect();
    (own.len() > 2).then(|| SizeTrend {
        tuning,
        points: own
            .iter()
            .map(|(standing, size, safe)| (standing.model.clone(), *size, *safe))
            .collect(),
        all: rank_correlation(&plain, seed),
        within_families: rank_correlation_within(&grouped, seed),
    })
}
