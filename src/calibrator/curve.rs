//! Curves from a guard's unsafe score to the probability that a text with this score is unsafe.

use serde::{Deserialize, Serialize};

/// Scores nearer to 0 or 1 than this count as being this far away, where their log-odds are taken. Scores come from
/// probabilities with 24 bits, whose last bits say nothing.
const NEAREST: f64 = 1.0 / (1 << 20) as f64;

/// A point of an isotonic curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurvePoint {
    /// The unsafe score, from 0 to 1.
    pub score: f64,
    /// The probability of unsafe at this score, from 0 to 1.
    pub probability: f64,
}

/// A curve that never falls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Curve {
    /// Straight lines between points, and flat before the first and after the last.
    Isotonic {
        /// Scores rise from point to point, and probabilities do not fall.
        points: Vec<CurvePoint>,
    },
    /// A logistic curve of the score's log-odds: `1 / (1 + exp(-(slope * log_odds + intercept)))`.
    Platt {
        /// How steep it is, more than 0; 1 leaves the log-odds as they are.
        slope: f64,
        /// What is added to the log-odds, in their unit.
        intercept: f64,
    },
}

impl Curve {
    /// The probability that a text with this unsafe score is unsafe. A higher score never has a lower one.
    pub fn probability(&self, score: f64) -> f64 {
        match self {
            Self::Isotonic { points } => interpolated(points, score),
            Self::Platt { slope, intercept } => logistic(slope * log_odds(score) + intercept),
        }
    }

    /// What is wrong with a curve that somebody has written; `None` where nothing is.
    pub(super) fn problem(&self) -> Option<String> {
        match self {
            Self::Platt { slope, intercept } => {
                let valid = slope.is_finite() && *slope > 0.0 && intercept.is_finite();
                (!valid).then(|| {
                    "platt must have a slope of more than 0 and an intercept, both finite".to_owned()
                })
            }
            Self::Isotonic { points } => {
                let inside = |value: f64| (0.0..=1.0).contains(&value);
                let valid = points
                    .iter()
                    .all(|point| inside(point.score) && inside(point.probability));
                let rising = points
                    .windows(2)
                    .all(|pair| pair[0].score < pair[1].score && pair[0].probability <= pair[1].probability);
                (points.is_empty() || !valid || !rising).then(|| {
                    "isotonic must have points from 0 to 1 whose scores rise and whose probabilities do not fall".to_owned()
                })
            }
        }
    }
}

fn interpolated(points: &[CurvePoint], score: f64) -> f64 {
    let after = points.partition_point(|point| point.score < score);
    match (
        after.checked_sub(1).and_then(|at| points.get(at)),
        points.get(after),
    ) {
        (Some(low), Some(high)) => {
            let share = (score - low.score) / (high.score - low.score);
            let between = low.probability + (high.probability - low.probability) * share;
            between.clamp(low.probability, high.probability)
        }
        (None, Some(only)) | (Some(only), None) => only.probability,
        (None, None) => score,
    }
}

/// `ln(score / (1 - score))`, finite for every score from 0 to 1.
pub(super) fn log_odds(score: f64) -> f64 {
    let inside = score.clamp(NEAREST, 1.0 - NEAREST);
    (inside / (1.0 - inside)).ln()
}

/// `1 / (1 + exp(-x))`, without overflow.
pub(super) fn logistic(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let exp = x.exp();
        exp / (1.0 + exp)
    }
}
