//! Calibrators: what turns a guard's unsafe scores into probabilities that mean what they say, and says where a score decides
//! nothing. A calibrator is fitted on labelled texts, is a file with a digest, and holds for one guard in one precision with one
//! prompt and policy, judging one side of conversations.
//!
//! This module is arithmetic and a file's format. Who labelled the texts and how they were drawn is the benchmark's matter
//! (`bench::labelling`), and what is done about a probability is a decision policy's (`guard::DecisionPolicy`).

mod conformal;
mod curve;
mod file;
mod fit;
mod isotonic;
mod labelled;
mod platt;
#[cfg(test)]
mod tests;

pub use conformal::{ErrorRates, PredictionBounds, PredictionSet};
pub use curve::{Curve, CurvePoint};
pub use file::{
    CalibratedScore, CalibrationMethod, Calibrator, CalibratorError, CalibratorText, Difference, FittedFor,
    FittedOn, JudgedSide, LabelCounts, LanguageCalibration, PooledCalibration, read_calibrator,
};
pub use fit::{FitError, FitOptions, LabelledText, MIN_LABELS, fit};
pub use labelled::LabelledScore;
