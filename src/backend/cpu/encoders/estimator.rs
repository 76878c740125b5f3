//! One type for all estimators.

use serde_json::Value;

use super::{
    comet::{self, CometKiwi},
    info::EstimatorInfo,
    metricx::{self, MetricX},
    tensor_reader::Kept,
};
use crate::{
    backend::cpu::compute::Compute,
    model::{ConfigError, LoadFault, Tensors, WeightSummary, estimator::EstimatorKind, spec::Precision},
};

/// A resident estimator.
pub(super) enum Estimator {
    CometKiwi(Box<CometKiwi>),
    MetricX(Box<MetricX>),
}

impl Estimator {
    /// The sizes that the estimator's configuration says.
    ///
    /// # Errors
    /// When no estimator can be made of it; names the key.
    pub(super) fn info(kind: EstimatorKind, config: &Value) -> Result<EstimatorInfo, ConfigError> {
        match kind {
            EstimatorKind::CometKiwi => comet::info(config),
            EstimatorKind::MetricX23 | EstimatorKind::MetricX24 => metricx::info(kind.name(), config),
        }
    }

    /// What the estimator keeps of the tensor with this name in memory.
    pub(super) fn kept(kind: EstimatorKind, tensor: &str) -> Kept {
        match kind {
            EstimatorKind::CometKiwi => comet::kept(tensor),
            EstimatorKind::MetricX23 | EstimatorKind::MetricX24 => metricx::kept(tensor),
        }
    }

    /// Reads and repacks all weights.
    ///
    /// # Errors
    /// When the configuration or a tensor cannot be used; names the key or tensor.
    pub(super) fn read(
        kind: EstimatorKind,
        config: &Value,
        tensors: &Tensors,
        compute: Compute,
        precision: Precision,
    ) -> Result<(Self, WeightSummary), LoadFault> {
        match kind {
            EstimatorKind::CometKiwi => {
                let (model, summary) = CometKiwi::read(config, tensors, compute, precision)?;
                Ok((Self::CometKiwi(Box::new(model)), summary))
            }
            EstimatorKind::MetricX23 | EstimatorKind::MetricX24 => {
                let (model, summary) = MetricX::read(config, tensors, compute, precision)?;
                Ok((Self::MetricX(Box::new(model)), summary))
            }
        }
    }

    /// A score for each sequence of tokens. Each sequence has at least one token and is no longer than the window, and its
    /// tokens are in the vocabulary.
    pub(super) fn score(&mut self, sequences: &[&[u32]]) -> Vec<f32> {
        match self {
            Self::CometKiwi(model) => model.score(sequences),
            Self::MetricX(model) => model.score(sequences),
        }
    }
}
