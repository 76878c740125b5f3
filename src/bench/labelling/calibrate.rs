//! Fits a calibrator to the labels of a run.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
};

use super::{
    error::LabelError,
    key::ItemNames,
    stored::{self, LABELS},
};
use crate::{
    bench::{
        analysis::LoadedRun,
        results::{ModelProvenance, RunInfo},
        scores::{
            result_table::ResultTable,
            validation::{LabelledItem, SampleStratum, item_name},
        },
        statistics::calibration::{Calibration, calibration},
    },
    calibrator::{
        self, Calibrator, FitOptions, FittedFor, FittedOn, JudgedSide, LabelledScore, LabelledText,
        PredictionSet,
    },
    digest,
};

/// Number of parts of the labels, each of which is left out once to see what the others say of it.
const FOLDS: u32 = 5;

/// A calibrator, and how good it is.
#[derive(Debug)]
pub struct FittedCalibrator {
    /// The calibrator.
    pub calibrator: Calibrator,
    /// How well the guard's own scores match the labels.
    pub raw: Option<Calibration>,
    /// How a calibrator does on labels that it was not fitted on; absent where too few are left for fitting.
    pub held_out: Option<HeldOut>,
}

/// How calibrators do on labels that they were not fitted on: each prompt is left out once, with all of its answers.
#[derive(Debug)]
pub struct HeldOut {
    /// How well the calibrated probabilities match the labels.
    pub calibration: Option<Calibration>,
    /// The prediction sets, by language (ISO 639-1 code).
    pub sets: BTreeMap<String, SetCounts>,
}

/// Numbers of labelled texts by their prediction sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetCounts {
    /// Labelled safe.
    pub safe: u64,
    /// Of these, those whose set lacks safe.
    pub safe_missed: u64,
    /// Labelled unsafe.
    pub unsafe_: u64,
    /// Of these, those whose set lacks unsafe.
    pub unsafe_missed: u64,
    /// Of all, those whose set is both or neither.
    pub uncertain: u64,
}

impl SetCounts {
    fn add(&mut self, is_unsafe: bool, set: PredictionSet) {
        let (labelled, missed, lacks) = match is_unsafe {
            true => (&mut self.unsafe_, &mut self.unsafe_missed, PredictionSet::Safe),
            false => (&mut self.safe, &mut self.safe_missed, PredictionSet::Unsafe),
        };
        *labelled += 1;
        *missed += u64::from(set == lacks || set == PredictionSet::Neither);
        self.uncertain += u64::from(matches!(set, PredictionSet::Both | PredictionSet::Neither));
    }
}

/// Fits a calibrator of the primary guard to the labels in a run's folder. Labels that people have not decided are left out. Each
/// label stands for as many answers as the sample says.
///
/// # Errors
/// [`LabelError`].
pub fn calibrate(run: &Path, options: FitOptions) -> Result<FittedCalibrator, LabelError> {
    let LoadedRun { folder, info, table } = LoadedRun::read(run).map_err(LabelError::Run)?;
    let path = folder.file(LABELS);
    if !path.exists() {
        return Err(LabelError::NotLabelled(run.to_owned()));
    }
    let read = |path: &Path| {
        digest::of_file(path).map_err(|source| LabelError::Io {
            path: path.to_owned(),
            source,
        })
    };
    let fitted_on = FittedOn {
        results_digest: match &info.results_digest {
            Some(digest) => digest.clone(),
            None => read(&folder.file("results.jsonl"))?,
        },
        labels_digest: read(&path)?,
    };
    let fitted_for = guard(&info).ok_or(LabelError::UnknownGuard)?;
    let (strata, labelled) = stored::read_labels(&path, &table)?.resolve(&ItemNames::new(&table))?;
    let decided = decided(&strata, &labelled);
    // As the guard gave them: the table has what the run's settings count as unsafe.
    let mut scores: HashMap<usize, f64> = HashMap::new();
    let names = ItemNames::new(&table);
    for record in folder.records().map_err(LabelError::Run)? {
        let record = record.map_err(LabelError::Run)?;
        let index = names.index(&item_name(&record))?;
        let score = record.primary_verdict().and_then(|verdict| verdict.unsafe_score);
        scores.extend(
            score
                .filter(|_| decided.contains_key(&index))
                .map(|score| (index, score)),
        );
    }
    let prompts: Vec<Prompted> = decided
        .into_iter()
        .filter_map(|(item, label)| prompted(&table, item, *scores.get(&item)?, label))
        .collect();
    let texts: Vec<LabelledText> = prompts.iter().map(|one| one.text.clone()).collect();
    let calibrator = calibrator::fit(fitted_for.clone(), fitted_on.clone(), &texts, options)?;
    let raw = calibration(texts.iter().map(|text| (text.score.score, text.score.is_unsafe)));
    Ok(FittedCalibrator {
        calibrator,
        raw,
        held_out: held_out(&prompts, |others| {
            calibrator::fit(fitted_for.clone(), fitted_on.clone(), others, options).ok()
        }),
    })
}

/// The guard whose verdicts the run has; `None` where that is not one, or not known by its digests.
fn guard(info: &RunInfo) -> Option<FittedFor> {
    let fitted_for = |guard: &ModelProvenance| FittedFor {
        model_digest: guard.model_digest.clone(),
        adapter_digest: guard.adapter_digest.clone(),
        tokenizer_digest: guard.tokenizer_digest.clone(),
        template_digest: guard.template_digest.clone(),
        policy_digest: guard.policy_digest.clone(),
        precision: guard.precision.clone(),
        // A run's verdicts are on answers.
        judged: JudgedSide::Answer,
    };
    let mut guards = info.primary_guards().map(fitted_for);
    let first = guards.next()?;
    let known = [
        &first.model_digest,
        &first.tokenizer_digest,
        &first.template_digest,
    ]
    .into_iter()
    .all(|digest| digest::is_digest(digest));
    (known && !first.precision.is_empty() && guards.all(|other| other == first)).then_some(first)
}

/// What people decided on an answer.
#[derive(Debug, Clone, Copy)]
struct DecidedLabel {
    is_unsafe: bool,
    /// Number of answers that it stands for.
    weight: f64,
}

/// The decided labels by the index of their item.
fn decided(strata: &[SampleStratum], labelled: &[LabelledItem]) -> BTreeMap<usize, DecidedLabel> {
    let mut counts = vec![0u64; strata.len()];
    let decided = labelled
        .iter()
        .filter_map(|one| Some((one, one.outcome().decided()?)))
        .inspect(|(one, _)| counts[one.stratum] += 1)
        .collect::<Vec<_>>();
    decided
        .into_iter()
        .map(|(one, is_unsafe)| {
            let answers = strata[one.stratum].items.max(counts[one.stratum]);
            let label = DecidedLabel {
                is_unsafe,
                weight: answers as f64 / counts[one.stratum] as f64,
            };
            (one.item, label)
        })
        .collect()
}

/// A labelled text with its prompt.
struct Prompted {
    /// Index of the prompt in the run's table.
    prompt: u32,
    text: LabelledText,
}

fn prompted(table: &ResultTable, item: usize, score: f64, label: DecidedLabel) -> Option<Prompted> {
    let item = table.items.get(item)?;
    Some(Prompted {
        prompt: item.prompt,
        text: LabelledText {
            language: item.language.code().to_owned(),
            score: LabelledScore {
                score,
                is_unsafe: label.is_unsafe,
                weight: label.weight,
            },
        },
    })
}

/// What `fit` makes of all other texts, on each fold.
fn held_out(prompts: &[Prompted], fit: impl Fn(&[LabelledText]) -> Option<Calibrator>) -> Option<HeldOut> {
    let different: BTreeSet<u32> = prompts.iter().map(|one| one.prompt).collect();
    let folds: HashMap<u32, u32> = different.into_iter().zip((0..FOLDS).cycle()).collect();
    let mut probabilities = Vec::new();
    let mut sets: BTreeMap<String, SetCounts> = BTreeMap::new();
    for fold in 0..FOLDS {
        let is_in_fold = |one: &&Prompted| folds.get(&one.prompt) == Some(&fold);
        let others: Vec<LabelledText> = prompts
            .iter()
            .filter(|one| !is_in_fold(one))
            .map(|one| one.text.clone())
            .collect();
        let calibrator = fit(&others)?;
        for one in prompts.iter().filter(is_in_fold) {
            let LabelledText { language, score } = &one.text;
            let found = calibrator.calibrate(score.score, Some(language));
            probabilities.push((found.probability, score.is_unsafe));
            sets.entry(language.clone())
                .or_default()
                .add(score.is_unsafe, found.set);
        }
    }
    Some(HeldOut {
        calibration: calibration(probabilities),
        sets,
    })
}
