//! Platt's logistic curve (Platt 1999), fitted to the log-odds of scores by Newton's method with step halving as in Lin, Lin &
//! Weng 2007, with weights. The targets are Platt's: `(N+ + 1) / (N+ + 2)` for unsafe texts and `1 / (N- + 2)` for safe ones, so
//! that the curve stays finite where the labels can be told apart by the score.

use super::{
    curve::{log_odds, logistic},
    labelled::LabelledScore,
};

/// Most steps. Newton's method needs about ten.
const STEPS: usize = 100;
/// It has converged when neither part of the gradient, for each text, is larger than this.
const GRADIENT: f64 = 1e-12;
/// Added to the diagonal of the matrix of second derivatives, so that it can be inverted.
const RIDGE: f64 = 1e-12;
/// The shortest step, as a share of Newton's.
const SHORTEST: f64 = 1e-10;

/// `slope` and `intercept` of a curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Line {
    pub(super) slope: f64,
    pub(super) intercept: f64,
}

/// A text as it enters the fit.
struct Term {
    log_odds: f64,
    target: f64,
    weight: f64,
}

/// The curve with the least weighted cross-entropy to Platt's targets. Its slope is not positive where higher scores do not mean
/// more unsafe texts.
pub(super) fn fit(texts: &[LabelledScore]) -> Line {
    let weight_of = |is_unsafe: bool| -> f64 {
        let labelled = texts.iter().filter(|text| text.is_unsafe == is_unsafe);
        labelled.map(|text| text.weight).sum()
    };
    let (unsafe_weight, safe_weight) = (weight_of(true), weight_of(false));
    let (unsafe_target, safe_target) = (
        (unsafe_weight + 1.0) / (unsafe_weight + 2.0),
        1.0 / (safe_weight + 2.0),
    );
    let terms: Vec<Term> = texts
        .iter()
        .map(|text| Term {
            log_odds: log_odds(text.score),
            target: if text.is_unsafe {
                unsafe_target
            } else {
                safe_target
            },
            weight: text.weight,
        })
        .collect();
    let tolerance = GRADIENT * (unsafe_weight + safe_weight);
    let mut line = Line {
        slope: 0.0,
        intercept: ((unsafe_weight + 1.0) / (safe_weight + 1.0)).ln(),
    };
    let mut loss = cross_entropy(&terms, line);
    for _ in 0..STEPS {
        let (mut slope_gradient, mut intercept_gradient) = (0.0, 0.0);
        let (mut slopes, mut mixed, mut intercepts) = (RIDGE, 0.0, RIDGE);
        for term in &terms {
            let probability = logistic(line.slope * term.log_odds + line.intercept);
            let error = term.weight * (probability - term.target);
            slope_gradient += error * term.log_odds;
            intercept_gradient += error;
            let curvature = term.weight * probability * (1.0 - probability);
            slopes += curvature * term.log_odds * term.log_odds;
            mixed += curvature * term.log_odds;
            intercepts += curvature;
        }
        if slope_gradient.abs() <= tolerance && intercept_gradient.abs() <= tolerance {
            break;
        }
        let determinant = slopes * intercepts - mixed * mixed;
        let slope_step = -(intercepts * slope_gradient - mixed * intercept_gradient) / determinant;
        let intercept_step = -(slopes * intercept_gradient - mixed * slope_gradient) / determinant;
        let descent = slope_gradient * slope_step + intercept_gradient * intercept_step;
        let mut share = 1.0;
        let moved = loop {
            let tried = Line {
                slope: line.slope + share * slope_step,
                intercept: line.intercept + share * intercept_step,
            };
            let tried_loss = cross_entropy(&terms, tried);
            if tried_loss < loss + 1e-4 * share * descent {
                break Some((tried, tried_loss));
            }
            share /= 2.0;
            if share < SHORTEST {
                break None;
            }
        };
        let Some((next, next_loss)) = moved else { break };
        (line, loss) = (next, next_loss);
    }
    line
}

/// The weighted cross-entropy, written so that nothing overflows.
fn cross_entropy(terms: &[Term], line: Line) -> f64 {
    let of = |term: &Term| {
        let x = line.slope * term.log_odds + line.intercept;
        let softplus = x.max(0.0) + (-x.abs()).exp().ln_1p();
        term.weight * (softplus - term.target * x)
    };
    terms.iter().map(of).sum()
}
