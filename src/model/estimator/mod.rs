//! Translation quality estimators, as their files describe them: encoders that read a source and its translation, and
//! answer with one score.

mod comet;
mod kind;
mod metricx;
mod position;

pub use self::kind::EstimatorKind;
pub(crate) use self::{
    comet::{CometConfig, MixTransform, SentenceLayer},
    metricx::{MetricXConfig, Version},
};
