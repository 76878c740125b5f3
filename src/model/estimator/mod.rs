//! Translation quality estimators, as their files describe them: encoders that read a source and its translation, and
//! answer with one score.

mod comet;
mod metricx;
mod position;

use std::path::Path;

use serde_json::Value;

use super::open::read_config;

pub(crate) use self::{
    comet::{CometConfig, EncoderConfig, MixTransform, NormPlacement, SentenceLayer},
    metricx::{MetricXConfig, Version},
};

/// The estimators that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EstimatorKind {
    /// Reference-free COMET (arXiv 2209.06243).
    CometKiwi,
    /// MetricX-23-QE (<https://aclanthology.org/2023.wmt-1.63>).
    MetricX23,
    /// MetricX-24 without a reference (<https://aclanthology.org/2024.wmt-1.35>).
    MetricX24,
}

impl EstimatorKind {
    /// As provenance and `ModelService` write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::CometKiwi => "comet-kiwi",
            Self::MetricX23 => "metricx-23",
            Self::MetricX24 => "metricx-24",
        }
    }

    /// By `architectures` of a folder's `config.json`; `None` for everything else, whatever it is.
    pub fn detect(path: &Path) -> Option<Self> {
        Self::of_config(&read_config(path).ok()?)
    }

    fn of_config(config: &Value) -> Option<Self> {
        match config["architectures"][0].as_str()? {
            "UnifiedMetric" => Some(Self::CometKiwi),
            // Loading one without a version says so.
            "MT5ForRegression" => Some(match Version::of_config(config) {
                Some(Version::V23) => Self::MetricX23,
                Some(Version::V24) | None => Self::MetricX24,
            }),
            _ => None,
        }
    }
}
