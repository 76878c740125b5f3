//! Translation quality estimation: neural models that read a source and its translation, and answer with one number.
//!
//! To the engine an estimator is a model like any other, whose row after a sequence is one score instead of logits:
//! queues, deadlines, fairness, batching and the memory budget are the same ([`sequences`]). What differs between
//! estimators is in [`Estimator`].

mod comet;
mod metricx;
mod pair;
mod sequences;

pub use self::pair::PairEncoder;

use std::path::Path;

use serde_json::Value;

use self::{comet::CometKiwi, metricx::MetricX, sequences::Sequences};
use crate::{
    backend::cpu::kernels::{Isa, ThreadPool},
    model::spec::Precision,
    model::{
        Census,
        estimate::Estimate,
        load::{LoadError, LoadOptions, LoadedModel, read_config},
        tensors::Tensors,
    },
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

/// What products are computed with.
struct Compute {
    pool: ThreadPool,
    isa: Isa,
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
            "MT5ForRegression" => Some(match metricx::Version::of_config(config) {
                Some(metricx::Version::V23) => Self::MetricX23,
                Some(metricx::Version::V24) | None => Self::MetricX24,
            }),
            _ => None,
        }
    }
}

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
        pool: ThreadPool,
        precision: Precision,
    ) -> Result<(Self, Census), String> {
        match kind {
            EstimatorKind::CometKiwi => {
                let (model, census) = CometKiwi::read(config, tensors, pool, precision)?;
                Ok((Self::CometKiwi(Box::new(model)), census))
            }
            EstimatorKind::MetricX23 | EstimatorKind::MetricX24 => {
                let (model, census) = MetricX::read(config, tensors, pool, precision)?;
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
pub fn estimate(kind: EstimatorKind, path: &Path, options: &LoadOptions) -> Result<Estimate, LoadError> {
    let (config, tensors) = open(path)?;
    let facts = facts(kind, path, &config, options)?;
    let read = |tensor: &str| match kind {
        EstimatorKind::CometKiwi => true,
        EstimatorKind::MetricX23 | EstimatorKind::MetricX24 => metricx::reads(tensor),
    };
    Ok(Estimate {
        context_length: facts.window,
        held_tokens: facts.window,
        weight_bytes: tensors
            .resident_bytes(read)
            .map_err(|reason| invalid(path, reason))?,
        scratch_bytes: sequences::scratch_bytes(facts.window, facts.row_bytes),
        kv_block_bytes: sequences::BLOCK_BYTES,
        kv_most_bytes: Some(sequences::most_bytes(facts.window)),
        block_tokens: sequences::BLOCK_TOKENS,
        architecture: facts.architecture,
    })
}

/// How an estimator computes when it is asked to compute so: files have floats only, and integers are for weights
/// that are quantised.
pub fn effective_precision(asked: Precision) -> Precision {
    match asked {
        Precision::Int8 | Precision::F32 => Precision::F32,
        Precision::Bf16 => Precision::Bf16,
    }
}

/// Loads the estimator in the folder `path`.
pub fn load(kind: EstimatorKind, path: &Path, options: &LoadOptions) -> Result<LoadedModel, LoadError> {
    let (config, tensors) = open(path)?;
    let facts = facts(kind, path, &config, options)?;
    let pool = ThreadPool::new(options.threads)
        .map_err(|error| invalid(path, format!("cannot start compute threads: {error}")))?;
    let precision = effective_precision(options.precision);
    let (estimator, census) =
        Estimator::read(kind, &config, &tensors, pool, precision).map_err(|reason| invalid(path, reason))?;
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
