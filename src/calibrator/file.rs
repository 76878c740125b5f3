//! The file of a calibrator, and what a calibrator says of a score.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    conformal::{ErrorRates, PredictionBounds, PredictionSet},
    curve::Curve,
};
use crate::{digest, files};

/// The version of the file's format.
const FORMAT: &str = "babelward-calibrator/2";

/// Bytes of the largest file that is read: isotonic curves of a million labels.
const MAX_BYTES: u64 = 64 << 20;

/// How scores become probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CalibrationMethod {
    /// A logistic curve with two parameters. It needs few labels, and can only shift and stretch the scores' log-odds.
    Platt,
    /// Any curve that does not fall. It needs about a thousand labels (Niculescu-Mizil & Caruana 2005), and says 0 and 1 where all
    /// labels are the same.
    Isotonic,
}

/// What a calibrator was fitted for: scores that anything else computed are other scores. Digests are `sha256:<hex>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FittedFor {
    /// Of the guard's weights.
    pub model_digest: String,
    /// Of the LoRA adapter that changes the weights; empty where there is none.
    pub adapter_digest: String,
    /// Of the tokenizer.
    pub tokenizer_digest: String,
    /// Of the guard's prompt template.
    pub template_digest: String,
    /// Of the policy that the guard judged by; empty for its own.
    pub policy_digest: String,
    /// In which it computed: `mixed`, `int8`, `bf16` or `f32`.
    pub precision: String,
    /// Whose messages it judged. A guard's scores of prompts mean something else than those of answers.
    pub judged: JudgedSide,
}

/// Whose messages a guard judges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JudgedSide {
    /// A user's.
    Prompt,
    /// An assistant's.
    #[default]
    Answer,
}

impl JudgedSide {
    /// Its name in files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Answer => "answer",
        }
    }
}

/// Something that is not as it was when a calibrator was fitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Which, as its field is called.
    pub what: &'static str,
    /// What the calibrator was fitted for.
    pub fitted: String,
    /// What it is now.
    pub has: String,
}

impl FittedFor {
    /// What differs in `other`.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let fields = |one: &Self| {
            [
                ("model_digest", one.model_digest.clone()),
                ("adapter_digest", one.adapter_digest.clone()),
                ("tokenizer_digest", one.tokenizer_digest.clone()),
                ("template_digest", one.template_digest.clone()),
                ("policy_digest", one.policy_digest.clone()),
                ("precision", one.precision.clone()),
                ("judged", one.judged.name().to_owned()),
            ]
        };
        let pairs = fields(self).into_iter().zip(fields(other));
        let differing = pairs.filter(|((_, fitted), (_, has))| fitted != has);
        differing
            .map(|((what, fitted), (_, has))| Difference { what, fitted, has })
            .collect()
    }
}

/// What a calibrator was fitted on. Digests are `sha256:<hex>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FittedOn {
    /// Of the run's `results.jsonl`, which has the scores.
    pub results_digest: String,
    /// Of the run's `labels.json`.
    pub labels_digest: String,
}

/// Numbers of labels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelCounts {
    /// Texts that people call safe.
    pub safe: u64,
    /// Texts that people call unsafe.
    #[serde(rename = "unsafe")]
    pub unsafe_: u64,
}

/// What all languages together result in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PooledCalibration {
    /// The labels that it was fitted on.
    pub labels: LabelCounts,
    /// From scores to probabilities.
    pub curve: Curve,
    /// Of the prediction sets.
    pub bounds: PredictionBounds,
}

/// What the texts of a language result in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LanguageCalibration {
    /// The labels that it was fitted on.
    pub labels: LabelCounts,
    /// From scores to probabilities; absent where there were too few labels, so that the curve of all languages holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curve: Option<Curve>,
    /// Of the prediction sets.
    pub bounds: PredictionBounds,
}

/// What a calibrator says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibratorText {
    /// The guard whose scores it is for.
    pub fitted_for: FittedFor,
    /// The labelled texts.
    pub fitted_on: FittedOn,
    /// How scores become probabilities.
    pub method: CalibrationMethod,
    /// Fewest labels from which a curve was fitted.
    pub min_labels: u64,
    /// Of the prediction sets.
    pub error_rates: ErrorRates,
    /// For texts whose language is not known.
    pub pooled: PooledCalibration,
    /// By BCP 47 tag.
    pub languages: BTreeMap<String, LanguageCalibration>,
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: String,
    digest: String,
    calibrator: CalibratorText,
}

/// A valid calibrator.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibrator {
    text: CalibratorText,
    digest: String,
}

/// What a calibrator says of a score.
#[derive(Debug, Clone, PartialEq)]
pub struct CalibratedScore {
    /// The probability that the text is unsafe, from 0 to 1.
    pub probability: f64,
    /// The labels that the text may have.
    pub set: PredictionSet,
    /// The language whose curve it is; `None` for that of all languages.
    pub curve_language: Option<String>,
}

/// Why a file is no calibrator.
#[derive(Debug, thiserror::Error)]
pub enum CalibratorError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is no JSON, or does not have the fields of a calibrator.
    #[error("{path}: no calibrator in JSON: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file was written by another version of this program.
    #[error(
        "{path}: the format is `{format}`, this program reads `{FORMAT}`: fit it again with `babelward validate calibrate`"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The format that it states.
        format: String,
    },
    /// The file was changed after it was fitted.
    #[error("{path}: it was changed after it was fitted: its digest is {has}, not {stated}")]
    Altered {
        /// The file.
        path: PathBuf,
        /// The digest that the file states.
        stated: String,
        /// The digest of what it says.
        has: String,
    },
    /// A value is not possible.
    #[error("{path}: {reason}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Calibrator {
    pub(super) fn fitted(text: CalibratorText) -> Self {
        // All keys are text, so that this cannot fail.
        let written = serde_json::to_vec(&text).unwrap_or_default();
        Self {
            text,
            digest: digest::of_bytes(written),
        }
    }

    /// `sha256:<hex>` of what it says, as compact JSON.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What it says.
    pub fn text(&self) -> &CalibratorText {
        &self.text
    }

    /// The guard whose scores it is for.
    pub fn fitted_for(&self) -> &FittedFor {
        &self.text.fitted_for
    }

    /// The content of its file.
    pub fn to_json(&self) -> String {
        let written = Written {
            format: FORMAT.to_owned(),
            digest: self.digest.clone(),
            calibrator: self.text.clone(),
        };
        serde_json::to_string_pretty(&written).unwrap_or_default() + "\n"
    }

    /// What an unsafe score says of a text in a language.
    ///
    /// The probability is by the language's own curve where it has one, and else by that of all languages. The prediction set is by
    /// the language's own bounds; for a language without any labels it is always [`PredictionSet::Both`], because nothing is
    /// known of it. Without a language it is by the bounds of all languages, which hold for texts in the languages' proportions in
    /// the labelled texts.
    pub fn calibrate(&self, score: f64, language: Option<&str>) -> CalibratedScore {
        let pooled = &self.text.pooled;
        let Some(named) = language else {
            return CalibratedScore {
                probability: pooled.curve.probability(score),
                set: pooled.bounds.set(score),
                curve_language: None,
            };
        };
        let own = self.of_language(named);
        let curve = own.and_then(|(tag, language)| Some((tag, language.curve.as_ref()?)));
        CalibratedScore {
            probability: curve.map_or(&pooled.curve, |(_, curve)| curve).probability(score),
            set: own.map_or(PredictionSet::Both, |(_, language)| language.bounds.set(score)),
            curve_language: curve.map(|(tag, _)| tag.to_owned()),
        }
    }

    /// What is known of a language: by its whole tag, or by a beginning of it, so that `pt-BR` finds `pt`.
    fn of_language(&self, language: &str) -> Option<(&str, &LanguageCalibration)> {
        let mut tag = language;
        loop {
            let mut known = self.text.languages.iter();
            let found = known.find(|(known, _)| known.eq_ignore_ascii_case(tag));
            match (found, tag.rfind('-')) {
                (Some((known, calibration)), _) => return Some((known, calibration)),
                (None, Some(end)) => tag = &tag[..end],
                (None, None) => return None,
            }
        }
    }
}

/// Reads a calibrator from its file.
///
/// # Errors
/// [`CalibratorError`].
pub fn read_calibrator(path: &Path) -> Result<Calibrator, CalibratorError> {
    /// The field that every version of the format has.
    #[derive(Deserialize)]
    struct AnyFormat {
        format: String,
    }
    let text = files::read_text(path, MAX_BYTES).map_err(|source| CalibratorError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let malformed = |error: serde_json::Error| CalibratorError::Malformed {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let AnyFormat { format } = serde_json::from_str(&text).map_err(malformed)?;
    if format != FORMAT {
        return Err(CalibratorError::Format {
            path: path.to_owned(),
            format,
        });
    }
    let Written {
        digest, calibrator, ..
    } = serde_json::from_str(&text).map_err(malformed)?;
    let read = Calibrator::fitted(calibrator);
    if read.digest != digest {
        return Err(CalibratorError::Altered {
            path: path.to_owned(),
            stated: digest,
            has: read.digest,
        });
    }
    match problem(&read.text) {
        Some(reason) => Err(CalibratorError::Invalid {
            path: path.to_owned(),
            reason,
        }),
        None => Ok(read),
    }
}

/// What is wrong with what a calibrator says; `None` where nothing is.
fn problem(text: &CalibratorText) -> Option<String> {
    let at = |place: String| move |reason: String| format!("{place}: {reason}");
    let pooled = text
        .pooled
        .curve
        .problem()
        .or_else(|| text.pooled.bounds.problem());
    let in_languages = || {
        text.languages.iter().find_map(|(tag, language)| {
            let curve = language.curve.as_ref().and_then(Curve::problem);
            let problem = curve.or_else(|| language.bounds.problem());
            problem.map(at(format!("languages.{}", tag.escape_debug())))
        })
    };
    let rates = text.error_rates;
    let wrong_rate = [rates.safe, rates.unsafe_]
        .into_iter()
        .any(|rate| !(rate > 0.0 && rate < 1.0));
    pooled
        .map(at("pooled".to_owned()))
        .or_else(in_languages)
        .or_else(|| wrong_rate.then(|| "error_rates must be above 0 and below 1".to_owned()))
}
