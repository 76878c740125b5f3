//! Fits a calibrator to labelled texts: a curve for all languages together and one for each language with enough labels, and
//! for every language the bounds of its prediction sets.

use std::collections::BTreeMap;

use super::{
    conformal::{ErrorRates, PredictionBounds},
    curve::Curve,
    file::{
        CalibrationMethod, Calibrator, CalibratorText, FittedFor, FittedOn, LabelCounts, LanguageCalibration,
        PooledCalibration,
    },
    isotonic,
    labelled::LabelledScore,
    platt,
};

/// Fewest labels from which a curve is fitted, unless somebody asks for another number.
pub const MIN_LABELS: u64 = 100;

/// Fewest labels of each of safe and unsafe from which a curve is fitted: fewer do not say where one turns into the other.
const MIN_OF_EACH: u64 = 10;

/// A labelled text.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledText {
    /// BCP 47 tag of its language.
    pub language: String,
    /// Its score and label.
    pub score: LabelledScore,
}

/// How to fit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitOptions {
    /// How scores become probabilities.
    pub method: CalibrationMethod,
    /// Fewest labels from which a curve is fitted; a language with fewer has the curve of all languages.
    pub min_labels: u64,
    /// Of the prediction sets.
    pub error_rates: ErrorRates,
}

/// Why nothing can be fitted.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum FitError {
    /// There are too few labels.
    #[error(
        "{safe} safe and {unsafe_} unsafe labels are too few: a curve needs {needed} of both together, and {MIN_OF_EACH} of each"
    )]
    TooFewLabels {
        /// Number of texts that are labelled safe.
        safe: u64,
        /// Number of texts that are labelled unsafe.
        unsafe_: u64,
        /// Number of labels that are needed.
        needed: u64,
    },
    /// Texts with higher scores are no more often unsafe.
    #[error(
        "texts with higher scores are not more often unsafe by these labels, so no probability can be made of the scores; \
         are the labels those of this run?"
    )]
    NotRising,
    /// An error rate is not between 0 and 1.
    #[error("an error rate of {0} is not above 0 and below 1")]
    ErrorRate(f64),
}

/// Fits a calibrator.
///
/// # Errors
/// [`FitError`].
pub fn fit(
    fitted_for: FittedFor,
    fitted_on: FittedOn,
    texts: &[LabelledText],
    options: FitOptions,
) -> Result<Calibrator, FitError> {
    let FitOptions {
        method,
        min_labels,
        error_rates,
    } = options;
    for rate in [error_rates.safe, error_rates.unsafe_] {
        if !(rate > 0.0 && rate < 1.0) {
            return Err(FitError::ErrorRate(rate));
        }
    }
    let all: Vec<LabelledScore> = texts.iter().map(|text| text.score).collect();
    let labels = counts(&all);
    if !enough(labels, min_labels) {
        return Err(FitError::TooFewLabels {
            safe: labels.safe,
            unsafe_: labels.unsafe_,
            needed: min_labels,
        });
    }
    let pooled = PooledCalibration {
        labels,
        curve: curve(&all, method).ok_or(FitError::NotRising)?,
        bounds: PredictionBounds::of(&all, error_rates),
    };
    let mut by_language: BTreeMap<&str, Vec<LabelledScore>> = BTreeMap::new();
    for text in texts {
        by_language.entry(&text.language).or_default().push(text.score);
    }
    let languages = by_language.into_iter().map(|(language, scores)| {
        let labels = counts(&scores);
        let own = enough(labels, min_labels)
            .then(|| curve(&scores, method))
            .flatten();
        let calibration = LanguageCalibration {
            labels,
            curve: own,
            bounds: PredictionBounds::of(&scores, error_rates),
        };
        (language.to_owned(), calibration)
    });
    let languages = languages.collect();
    Ok(Calibrator::fitted(CalibratorText {
        fitted_for,
        fitted_on,
        method,
        min_labels,
        error_rates,
        pooled,
        languages,
    }))
}

fn counts(scores: &[LabelledScore]) -> LabelCounts {
    let unsafe_ = scores.iter().filter(|score| score.is_unsafe).count() as u64;
    LabelCounts {
        safe: scores.len() as u64 - unsafe_,
        unsafe_,
    }
}

fn enough(labels: LabelCounts, min_labels: u64) -> bool {
    labels.safe + labels.unsafe_ >= min_labels && labels.safe.min(labels.unsafe_) >= MIN_OF_EACH
}

/// The curve of some texts; `None` where it does not rise. Weights are made to add up to the number of texts, so that few labels
/// that stand for many texts are not taken for many labels.
fn curve(scores: &[LabelledScore], method: CalibrationMethod) -> Option<Curve> {
    let total: f64 = scores.iter().map(|score| score.weight).sum();
    let scale = scores.len() as f64 / total;
    let scaled: Vec<LabelledScore> = scores
        .iter()
        .map(|score| LabelledScore {
            weight: score.weight * scale,
            ..*score
        })
        .collect();
    match method {
        CalibrationMethod::Platt => {
            let platt::Line { slope, intercept } = platt::fit(&scaled);
            let curve = Curve::Platt { slope, intercept };
            curve.problem().is_none().then_some(curve)
        }
        CalibrationMethod::Isotonic => {
            let points = isotonic::fit(&scaled);
            let rises = points.first()?.probability < points.last()?.probability;
            rises.then_some(Curve::Isotonic { points })
        }
    }
}
