//! Which estimator a folder holds.

use std::path::Path;

use serde_json::Value;

use super::metricx::Version;
use crate::model::json_file::{CONFIG, read_json};

/// The estimators that can be computed.
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
    /// The name in provenance and in `ModelService`.
    pub fn name(self) -> &'static str {
        match self {
            Self::CometKiwi => "comet-kiwi",
            Self::MetricX23 => "metricx-23",
            Self::MetricX24 => "metricx-24",
        }
    }

    /// The estimator in the folder `path`, by `architectures` of its `config.json`; `None` when there is something else, or
    /// nothing that can be read.
    pub fn detect(path: &Path) -> Option<Self> {
        Self::of_config(&read_json(path, CONFIG).ok()?)
    }

    pub(in crate::model) fn of_config(config: &Value) -> Option<Self> {
        match config["architectures"][0].as_str()? {
            "UnifiedMetric" => Some(Self::CometKiwi),
            // Without a version it cannot be loaded; the error of that says so.
            "MT5ForRegression" => Some(match Version::of_config(config) {
                Some(Version::V23) => Self::MetricX23,
                Some(Version::V24) | None => Self::MetricX24,
            }),
            _ => None,
        }
    }
}
