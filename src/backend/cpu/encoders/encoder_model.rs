//! One type for all encoders.

use serde_json::Value;

use super::{
    classifier::{self, Classifier},
    comet::{self, CometKiwi},
    info::EncoderInfo,
    metricx::{self, MetricX},
    tensor_reader::Kept,
};
use crate::{
    backend::{Reading, Readout, cpu::compute::Compute, read_row},
    model::{
        ConfigError, EncoderKind, LoadFault, Tensors, WeightSummary, estimator::EstimatorKind,
        spec::Precision,
    },
};

/// A resident encoder.
pub(super) enum EncoderModel {
    CometKiwi(Box<CometKiwi>),
    MetricX(Box<MetricX>),
    Classifier(Box<Classifier>),
}

/// What an encoder computes of a sequence.
pub(super) enum EncoderOutput {
    Score(f32),
    /// One logit for each label.
    Logits(Vec<f32>),
}

impl EncoderOutput {
    /// What a readout that the encoder has gives of it; `None` for a readout of nothing.
    pub(super) fn read(&self, readout: &Readout) -> Option<Reading> {
        match self {
            Self::Score(score) => Some(Reading::Score(*score)),
            Self::Logits(logits) => read_row(readout, 0, logits),
        }
    }
}

impl EncoderModel {
    /// The sizes that the encoder's configuration says.
    ///
    /// # Errors
    /// When no encoder can be made of it; names the key.
    pub(super) fn info(kind: EncoderKind, config: &Value) -> Result<EncoderInfo, ConfigError> {
        match kind {
            EncoderKind::Estimator(EstimatorKind::CometKiwi) => comet::info(config),
            EncoderKind::Estimator(EstimatorKind::MetricX23 | EstimatorKind::MetricX24) => {
                metricx::info(kind.name(), config)
            }
            EncoderKind::Classifier => classifier::info(config),
        }
    }

    /// What the encoder keeps of the tensor with this name in memory.
    pub(super) fn kept(kind: EncoderKind, tensor: &str) -> Kept {
        match kind {
            EncoderKind::Estimator(EstimatorKind::CometKiwi) => comet::kept(tensor),
            EncoderKind::Estimator(EstimatorKind::MetricX23 | EstimatorKind::MetricX24) => {
                metricx::kept(tensor)
            }
            EncoderKind::Classifier => classifier::kept(tensor),
        }
    }

    /// Reads and repacks all weights.
    ///
    /// # Errors
    /// When the configuration or a tensor cannot be used; names the key or tensor.
    pub(super) fn read(
        kind: EncoderKind,
        config: &Value,
        tensors: &Tensors,
        compute: Compute,
        precision: Precision,
    ) -> Result<(Self, WeightSummary), LoadFault> {
        match kind {
            EncoderKind::Estimator(EstimatorKind::CometKiwi) => {
                let (model, summary) = CometKiwi::read(config, tensors, compute, precision)?;
                Ok((Self::CometKiwi(Box::new(model)), summary))
            }
            EncoderKind::Estimator(EstimatorKind::MetricX23 | EstimatorKind::MetricX24) => {
                let (model, summary) = MetricX::read(config, tensors, compute, precision)?;
                Ok((Self::MetricX(Box::new(model)), summary))
            }
            EncoderKind::Classifier => {
                let (model, summary) = Classifier::read(config, tensors, compute, precision)?;
                Ok((Self::Classifier(Box::new(model)), summary))
            }
        }
    }

    /// Whether the encoder has what this readout asks for. A classifier is to the engine a model whose next token is the label, with
    /// the labels' indices as tokens.
    pub(super) fn has(&self, readout: &Readout) -> bool {
        match self {
            Self::CometKiwi(_) | Self::MetricX(_) => *readout == Readout::Score,
            Self::Classifier(_) => matches!(readout, Readout::Probe { .. }),
        }
    }

    /// An output for each sequence of tokens. Each sequence has at least one token and is no longer than the window, and its
    /// tokens are in the vocabulary.
    pub(super) fn compute(&mut self, sequences: &[&[u32]]) -> Vec<EncoderOutput> {
        let scores = |scores: Vec<f32>| scores.into_iter().map(EncoderOutput::Score).collect();
        match self {
            Self::CometKiwi(model) => scores(model.score(sequences)),
            Self::MetricX(model) => scores(model.score(sequences)),
            Self::Classifier(model) => {
                let logits = model.logits(sequences).into_iter();
                logits.map(EncoderOutput::Logits).collect()
            }
        }
    }
}
