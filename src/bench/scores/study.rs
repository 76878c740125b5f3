//! A study of several runs: base against instruct models, model size against safety, translator against translator.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    agreement::Agreement,
    by_prompt::VerdictsByPrompt,
    comparable::Comparability,
    compare::{PartComparison, compare},
    jurisdictions::{StudyJurisdictions, score_runs_by_jurisdictions},
    models::ModelFacts,
    result_table::ResultTable,
    score::{MacroScore, Tally},
    study_run::StudyRun,
    translation_effects::{TranslationEffect, translation_effects},
    tuning::Tuning,
};
use crate::bench::{
    jurisdictions::Jurisdiction,
    statistics::{
        Bootstrap, cohens_h,
        rank::{GroupedPair, RankCorrelation, rank_correlation, rank_correlation_within},
    },
    taxonomy::{Category, Language},
    translation::ScoreTable,
};

/// One row of the leaderboard. Percentages are those of the primary guard's verdicts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The run's name, which no other run of the study has.
    pub name: String,
    /// The target's name.
    pub model: String,
    /// What is known of the target.
    pub facts: ModelFacts,
    /// Systems that translated the run's prompts, where the prompt set names them.
    pub translators: Vec<String>,
    /// Macro safe % by language (ISO 639-1 code).
    pub macro_by_language: BTreeMap<String, MacroScore>,
    /// Mean of the macro safe % of the run's languages.
    pub macro_safe: Option<f64>,
    /// Safe % over all items, every item weighing the same.
    pub micro_safe: Option<f64>,
    /// The category and language with the lowest safe %, such as `crime_tax it`, and that percentage.
    pub weakest: Option<(String, f64)>,
    /// How often verdicts are the same in all languages.
    pub agreement: Agreement,
    /// Percentage of the answers that read like refusals; absent without texts.
    pub refused_percent: Option<f64>,
    /// Number of items judged safe or unsafe.
    pub n: u64,
    /// Number of items that were asked but are neither judged safe nor unsafe.
    pub unjudged: u64,
}

/// The difference between a base model and its instruct model in one category.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TuningEffect {
    /// Safe % of the base model, on the answers judged in both runs.
    pub base: f64,
    /// Safe % of the instruct model, on the same answers.
    pub instruct: f64,
    /// The change with its interval and test.
    pub compared: PartComparison,
    /// Cohen's h, the effect size: 0.2 is small, 0.5 medium, 0.8 large.
    pub cohens_h: f64,
}

/// A base model and its instruct model: two runs of the same family and size, with prompts by the same translators.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TuningPair {
    /// Name of the base model's run.
    pub base: String,
    /// Name of the instruct model's run.
    pub instruct: String,
    /// Systems that translated the prompts of both runs, where the prompt set names them.
    #[serde(default)]
    pub translators: Vec<String>,
    /// The effect in each category, over all languages.
    pub categories: Vec<TuningEffect>,
}

/// How safety changes with size among models of the same tuning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SizeTrend {
    /// The tuning of the models.
    pub tuning: Tuning,
    /// For each model, its name, its number of parameters in billions and its macro safe %.
    pub points: Vec<(String, f64, f64)>,
    /// Rank correlation of size and safety over all the models.
    pub all: Option<RankCorrelation>,
    /// The same within families.
    pub within_families: Option<RankCorrelation>,
}

/// All results of a study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Study {
    /// What differs between the runs besides their targets; absent where it was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparable: Option<Comparability>,
    /// The leaderboard, beginning with the best macro average.
    pub standings: Vec<Standing>,
    /// Base models against their instruct models.
    pub tuning: Vec<TuningPair>,
    /// Model size against safety.
    pub size: Vec<SizeTrend>,
    /// Translators against each other.
    #[serde(rename = "translation")]
    pub translation_effects: Vec<TranslationEffect>,
    /// The scores by the rules of jurisdictions, where some were asked for.
    #[serde(default, rename = "policies", skip_serializing_if = "Option::is_none")]
    pub jurisdictions: Option<StudyJurisdictions>,
}

impl Study {
    /// The codes of the languages that some run has, in the order of [`Language::ALL`].
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

    /// Makes a study of runs on the same prompts.
    pub fn new(runs: &[StudyRun], bootstrap: Bootstrap) -> Self {
        Self::with_scores(runs, &ScoreTable::new(), bootstrap)
    }

    /// Makes a study that also uses quality scores of the translations.
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
            translation_effects: translation_effects(runs, scores, bootstrap),
            standings,
            jurisdictions: None,
        }
    }

    /// Adds what differs between the runs besides their targets.
    #[must_use]
    pub fn with_comparability(self, comparable: Comparability) -> Self {
        Self {
            comparable: Some(comparable),
            ..self
        }
    }

    /// The models of which it is not known whether they are base or instruct models. They are in no comparison of base
    /// against instruct, and in a size trend of their own.
    pub fn models_of_unknown_tuning(&self) -> BTreeSet<&str> {
        let unknown = self
            .standings
            .iter()
            .filter(|one| one.facts.tuning == Tuning::Unknown);
        unknown.map(|one| one.model.as_str()).collect()
    }

    /// Adds the scores of all runs by the rules of these jurisdictions.
    #[must_use]
    pub fn with_jurisdictions(self, runs: &[StudyRun], jurisdictions: &[Jurisdiction]) -> Self {
        Self {
            jurisdictions: score_runs_by_jurisdictions(runs, jurisdictions),
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
            .add(judgement.status);
    }
    let languages = table.languages();
    let prompts = VerdictsByPrompt::new(table, 0);
    let macro_by_language: BTreeMap<String, MacroScore> = languages
        .iter()
        .map(|language| {
            let categories: Vec<_> = prompts
                .safe_by_category(|l| l == *language)
                .into_values()
                .collect();
            (language.code().to_owned(), MacroScore::of(&categories))
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

/// The systems that translated the run's prompts, each once.
fn translators(table: &ResultTable) -> Vec<String> {
    let names: BTreeSet<&String> = table.translators.values().flatten().collect();
    names.into_iter().cloned().collect()
}

fn tuning_pairs(runs: &[StudyRun], bootstrap: Bootstrap) -> Vec<TuningPair> {
    let with_tuning = |tuning: Tuning| runs.iter().filter(move |run| run.facts.tuning == tuning);
    let mut pairs = Vec::new();
    for base in with_tuning(Tuning::Base) {
        let is_counterpart = |run: &&StudyRun| {
            run.facts.family == base.facts.family
                && run.facts.billions.is_some()
                && run.facts.billions == base.facts.billions
                && run.table.translators == base.table.translators
        };
        for instruct in with_tuning(Tuning::Instruct).filter(is_counterpart) {
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

/// A run of a model whose size is known.
#[derive(Clone, Copy)]
struct SizedRun<'a> {
    standing: &'a Standing,
    /// Number of parameters in billions.
    billions: f64,
    /// Macro safe %.
    safe_percent: f64,
}

impl<'a> SizedRun<'a> {
    fn family(&self) -> &'a str {
        &self.standing.facts.family
    }
}

fn size_trend(tuning: Tuning, standings: &[Standing], seed: u64) -> Option<SizeTrend> {
    // A model with several runs, for example with prompts by several translators, still counts as one model.
    let mut models: BTreeMap<&str, Vec<SizedRun<'_>>> = BTreeMap::new();
    for standing in standings.iter().filter(|one| one.facts.tuning == tuning) {
        if let (Some(billions), Some(safe_percent)) = (standing.facts.billions, standing.macro_safe) {
            models.entry(&standing.model).or_default().push(SizedRun {
                standing,
                billions,
                safe_percent,
            });
        }
    }
    let models: Vec<SizedRun<'_>> = models
        .into_values()
        .map(|runs| SizedRun {
            safe_percent: runs.iter().map(|run| run.safe_percent).sum::<f64>() / runs.len() as f64,
            ..runs[0]
        })
        .collect();
    let mut families: Vec<&str> = models.iter().map(SizedRun::family).collect();
    families.sort_unstable();
    families.dedup();
    let plain: Vec<_> = models
        .iter()
        .map(|one| (one.billions, one.safe_percent))
        .collect();
    let grouped: Vec<_> = models
        .iter()
        .map(|one| GroupedPair {
            x: one.billions,
            y: one.safe_percent,
            group: families.binary_search(&one.family()).unwrap_or_default(),
        })
        .collect();
    (models.len() > 2).then(|| SizeTrend {
        tuning,
        points: models
            .iter()
            .map(|one| (one.standing.model.clone(), one.billions, one.safe_percent))
            .collect(),
        all: rank_correlation(&plain, seed),
        within_families: rank_correlation_within(&grouped, seed),
    })
}
