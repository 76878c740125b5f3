//! Which encoder a folder holds: models that read a whole text at once, and answer with a score or with a label.

use std::path::Path;

use serde_json::Value;

use super::{
    classifier::ClassifierFamily,
    estimator::EstimatorKind,
    json_file::{CONFIG, read_json},
};

/// The encoders that can be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EncoderKind {
    /// It scores translations.
    Estimator(EstimatorKind),
    /// It labels texts.
    Classifier,
}

impl EncoderKind {
    /// What it is called in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Estimator(kind) => kind.name(),
            Self::Classifier => "classifier",
        }
    }

    /// The encoder in the folder `path`, by `architectures` of its `config.json`; `None` when there is something else, or
    /// nothing that can be read.
    pub fn detect(path: &Path) -> Option<Self> {
        Self::of_config(&read_json(path, CONFIG).ok()?)
    }

    fn of_config(config: &Value) -> Option<Self> {
        match ClassifierFamily::of_config(config) {
            Some(_) => Some(Self::Classifier),
            None => EstimatorKind::of_config(config).map(Self::Estimator),
        }
    }
}
