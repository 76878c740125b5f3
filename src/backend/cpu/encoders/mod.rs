//! Encoders that score translations ([`EstimatorKind`]): neural models that read a sequence as a whole, in both directions.
//!
//! To the engine an encoder is a model like any other, whose readout is a score: queues, deadlines, fairness, batching and
//! the memory budget are the same ([`sequences`]). What differs between them is in [`Estimator`].

mod comet;
mod metricx;
mod sequences;
mod tensor_reader;

use std::path::Path;

use serde_json::Value;

use self::{comet::CometKiwi, metricx::MetricX, sequences::Sequences, tensor_reader::resident_bytes};
use super::{Compute, CpuBackend, kernels::BLOCK_TOKENS};
use crate::{
    backend::{Footprint, LoadOptions, LoadedModel},
    model::{Census, LoadError, Tensors, estimator::EstimatorKind, read_config, spec::Precision},
};

/// A resident estimator.
enum Estimator {
    CometKiwi(Box<CometKiwi>),
    MetricX(Box<MetricX>),
}

/// What is known of an estimator before its weights are read.
struct Facts {
    architecture: String,
    vocab_size: usize,
    /// Longest sequence, in tokens.
    window: usize,
    /// Layers.
    layers: usize,
    /// Bytes that each token of a batch takes on its way.
    row_bytes: usize,
}

impl Estimator {
    fn facts(kind: EstimatorKind, config: &Value) -> Result<Facts, String> {
        match kind {
            EstimatorKind::CometKiwi => comet::facts(config),
            EstimatorKind::MetricX23 | EstimatorKind::MetricX24 => metricx::facts(kind.name(), config),
        }
    }

    fn read(
        kind: EstimatorKind,
        config: &Value,
        tensors: &Tensors,
        compute: Compute,
        precision: Precision,
    ) -> Result<(Self, Census), String> {
        match kind {
            EstimatorKind::CometKiwi => {
                let (model, census) = CometKiwi::read(config, tensors, compute, precision)?;
                Ok((Self::CometKiwi(Box::new(model)), census))
            }
            EstimatorKind::MetricX23 | EstimatorKind::MetricX24 => {
                let (model, census) = MetricX::read(config, tensors, compute, precision)?;
                Ok((Self::MetricX(Box::new(model)), census))
            }
        }
    }

    /// A score for each sequence of tokens. Each has at least one token, is no longer than the window, and its tokens
    /// are in the vocabulary.
    fn score(&mut self, sequences: &[&[u32]]) -> Vec<f32> {
        match self {
            Self::CometKiwi(model) => model.score(sequences),
            Self::MetricX(model) => model.score(sequences),
        }
    }
}

/// What an estimator will take in memory, from what its files say of themselves.
pub(super) fn footprint(
    kind: EstimatorKind,
    path: &Path,
    options: &LoadOptions,
) -> Result<Footprint, LoadError> {
    let (config, tensors) = open(path)?;
    let facts = facts(kind, path, &config, options)?;
    let read = |tensor: &str| match kind {
        EstimatorKind::CometKiwi => true,
        EstimatorKind::MetricX23 | EstimatorKind::MetricX24 => metricx::reads(tensor),
    };
    Ok(Footprint {
        context_length: facts.window,
        held_tokens: facts.window,
        weight_bytes: resident_bytes(&tensors, read).map_err(|reason| invalid(path, reason))?,
        scratch_bytes: sequences::scratch_bytes(facts.window, facts.row_bytes),
        kv_block_bytes: sequences::BLOCK_BYTES,
        kv_most_bytes: Some(sequences::most_bytes(facts.window)),
        block_tokens: BLOCK_TOKENS,
        architecture: facts.architecture,
    })
}

/// How an estimator computes when it is asked to compute so: files have floats only, and integers are for weights
/// that are quantised.
pub(super) fn effective_precision(asked: Precision) -> Precision {
    match asked {
        Precision::Int8 | Precision::F32 => Precision::F32,
        Precision::Bf16 => Precision::Bf16,
    }
}

/// Loads the estimator in the folder `path`.
pub(super) fn load(
    backend: &CpuBackend,
    kind: EstimatorKind,
    path: &Path,
    options: &LoadOptions,
) -> Result<LoadedModel, LoadError> {
    let (config, tensors) = open(path)?;
    let facts = facts(kind, path, &config, options)?;
    let compute = backend.compute().map_err(|reason| invalid(path, reason))?;
    let precision = effective_precision(options.precision);
    let (estimator, census) = Estimator::read(kind, &config, &tensors, compute, precision)
        .map_err(|reason| invalid(path, reason))?;
    let model =
        Sequences::new(estimator, &facts, options.kv_bytes).map_err(|reason| invalid(path, reason))?;
    Ok(LoadedModel {
        kv_bytes: model.kv_bytes(),
        model: Box::new(model),
        architecture: facts.architecture,
        layers: facts.layers,
        parameters: census.parameters,
        dtype: census.dtype,
        precision,
        weight_bytes: census.bytes,
        adapters: Vec::new(),
    })
}

fn facts(
    kind: EstimatorKind,
    path: &Path,
    config: &Value,
    options: &LoadOptions,
) -> Result<Facts, LoadError> {
    let facts = Estimator::facts(kind, config);
    let mut facts = facts.map_err(|reason| invalid(path, format!("config.json: {reason}")))?;
    facts.window = facts.window.min(options.max_context.unwrap_or(usize::MAX));
    Ok(facts)
}

fn open(path: &Path) -> Result<(Value, Tensors), LoadError> {
    let config = read_config(path).map_err(|reason| invalid(path, reason))?;
    let tensors = Tensors::open(path).map_err(|reason| invalid(path, reason))?;
    Ok((config, tensors))
}

fn invalid(path: &Path, reason: String) -> LoadError {
    LoadError::Invalid {
        path: path.display().to_string(),
        reason,
    }
}
