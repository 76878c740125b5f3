//! Loads estimators, and computes how much memory they will take.

use std::path::Path;

use serde_json::Value;

use super::{
    estimator::Estimator,
    info::EstimatorInfo,
    scoring_model::{self, ScoringModel},
    tensor_reader::resident_bytes,
};
use crate::{
    backend::{
        Determinism, Footprint, LoadOptions, LoadedModel,
        cpu::{compute::Compute, kernels::BLOCK_TOKENS},
    },
    model::{CONFIG, LoadError, LoadFault, Tensors, estimator::EstimatorKind, read_json, spec::Precision},
};

/// An estimator whose weights are not read yet.
struct EstimatorFiles {
    config: Value,
    tensors: Tensors,
    info: EstimatorInfo,
}

impl EstimatorFiles {
    fn open(kind: EstimatorKind, folder: &Path, options: &LoadOptions) -> Result<Self, LoadFault> {
        let config = read_json(folder, CONFIG)?;
        let tensors = Tensors::open(folder)?;
        let mut info = Estimator::info(kind, &config).map_err(|error| error.of(CONFIG))?;
        info.window = info.window.min(options.max_context.unwrap_or(usize::MAX));
        Ok(Self {
            config,
            tensors,
            info,
        })
    }
}

/// The memory that the estimator in the folder `path` will take, from the headers of its files.
pub(in crate::backend::cpu) fn footprint(
    kind: EstimatorKind,
    path: &Path,
    options: &LoadOptions,
) -> Result<Footprint, LoadError> {
    estimated(kind, path, options).map_err(|fault| fault.at(path.display().to_string()))
}

fn estimated(kind: EstimatorKind, folder: &Path, options: &LoadOptions) -> Result<Footprint, LoadFault> {
    let EstimatorFiles { tensors, info, .. } = EstimatorFiles::open(kind, folder, options)?;
    Ok(Footprint {
        context_length: info.window,
        held_tokens: info.window,
        weight_bytes: resident_bytes(&tensors, |tensor| Estimator::kept(kind, tensor))?,
        scratch_bytes: scoring_model::scratch_bytes(info.window, info.row_bytes),
        kv_block_bytes: scoring_model::BLOCK_BYTES,
        kv_most_bytes: Some(scoring_model::most_bytes(info.window)),
        block_tokens: BLOCK_TOKENS,
        architecture: info.architecture,
    })
}

/// The precision that an estimator is computed in when `requested` is asked for: its files have float weights only, and
/// products in integers are for quantised weights.
pub(in crate::backend::cpu) fn effective_precision(requested: Precision) -> Precision {
    match requested {
        Precision::Int8 | Precision::F32 => Precision::F32,
        Precision::Bf16 => Precision::Bf16,
    }
}

/// Loads the estimator in the folder `path`, to compute on so many threads.
pub(in crate::backend::cpu) fn load(
    kind: EstimatorKind,
    path: &Path,
    options: &LoadOptions,
    threads: usize,
) -> Result<LoadedModel, LoadError> {
    loaded(kind, path, options, threads).map_err(|fault| fault.at(path.display().to_string()))
}

fn loaded(
    kind: EstimatorKind,
    folder: &Path,
    options: &LoadOptions,
    threads: usize,
) -> Result<LoadedModel, LoadFault> {
    let EstimatorFiles {
        config,
        tensors,
        info,
    } = EstimatorFiles::open(kind, folder, options)?;
    let precision = effective_precision(options.precision);
    let compute = Compute::start(threads)?;
    let (estimator, summary) = Estimator::read(kind, &config, &tensors, compute, precision)?;
    let model = ScoringModel::new(estimator, &info, options.kv_bytes)?;
    Ok(LoadedModel {
        kv_bytes: model.kv_bytes(),
        model: Box::new(model),
        architecture: info.architecture,
        layers: info.layers,
        parameters: summary.parameters,
        dtype: summary.dtype,
        precision,
        determinism: Determinism::BatchInvariant,
        weight_bytes: summary.bytes,
        adapters: Vec::new(),
    })
}
