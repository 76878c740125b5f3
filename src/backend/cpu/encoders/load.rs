//! Loads encoders, and computes how much memory they will take.

use std::path::Path;

use serde_json::Value;

use super::{
    encoder_model::EncoderModel,
    info::EncoderInfo,
    scoring_model::{self, ScoringModel},
    tensor_reader::resident_bytes,
};
use crate::{
    backend::{
        Determinism, Footprint, LoadOptions, LoadedModel,
        cpu::{compute::Compute, kernels::BLOCK_TOKENS},
    },
    model::{CONFIG, EncoderKind, LoadError, LoadFault, Tensors, read_json, spec::Precision},
};

/// An encoder whose weights are not read yet.
struct EncoderFiles {
    config: Value,
    tensors: Tensors,
    info: EncoderInfo,
}

impl EncoderFiles {
    fn open(kind: EncoderKind, folder: &Path, options: &LoadOptions) -> Result<Self, LoadFault> {
        let config = read_json(folder, CONFIG)?;
        let tensors = Tensors::open(folder)?;
        let mut info = EncoderModel::info(kind, &config).map_err(|error| error.of(CONFIG))?;
        info.window = info.window.min(options.max_context.unwrap_or(usize::MAX));
        Ok(Self {
            config,
            tensors,
            info,
        })
    }
}

/// The memory that the encoder in the folder `path` will take, from the headers of its files.
pub(in crate::backend::cpu) fn footprint(
    kind: EncoderKind,
    path: &Path,
    options: &LoadOptions,
) -> Result<Footprint, LoadError> {
    estimated(kind, path, options).map_err(|fault| fault.at(path.display().to_string()))
}

fn estimated(kind: EncoderKind, folder: &Path, options: &LoadOptions) -> Result<Footprint, LoadFault> {
    let EncoderFiles { tensors, info, .. } = EncoderFiles::open(kind, folder, options)?;
    Ok(Footprint {
        context_length: info.window,
        held_tokens: info.window,
        weight_bytes: resident_bytes(&tensors, |tensor| EncoderModel::kept(kind, tensor))?
            .saturating_add(info.derived_bytes),
        scratch_bytes: scoring_model::scratch_bytes(info.window, info.row_bytes),
        kv_block_bytes: scoring_model::BLOCK_BYTES,
        kv_most_bytes: Some(scoring_model::most_bytes(info.window)),
        block_tokens: BLOCK_TOKENS,
        architecture: info.architecture,
    })
}

/// The precision that an encoder is computed in when `requested` is asked for: its files have float weights only, and
/// products in integers are for quantised weights. `mixed`, which is what auto may mean, is not more exact for an encoder than
/// `bf16`, which estimators do not use unasked.
pub(in crate::backend::cpu) fn effective_precision(requested: Precision) -> Precision {
    match requested {
        Precision::Mixed | Precision::Int8 | Precision::F32 => Precision::F32,
        Precision::Bf16 => Precision::Bf16,
    }
}

/// Loads the encoder in the folder `path`, to compute on so many threads.
pub(in crate::backend::cpu) fn load(
    kind: EncoderKind,
    path: &Path,
    options: &LoadOptions,
    threads: usize,
) -> Result<LoadedModel, LoadError> {
    loaded(kind, path, options, threads).map_err(|fault| fault.at(path.display().to_string()))
}

fn loaded(
    kind: EncoderKind,
    folder: &Path,
    options: &LoadOptions,
    threads: usize,
) -> Result<LoadedModel, LoadFault> {
    let EncoderFiles {
        config,
        tensors,
        info,
    } = EncoderFiles::open(kind, folder, options)?;
    let precision = effective_precision(options.precision);
    let compute = Compute::start(threads)?;
    let (encoder, summary) = EncoderModel::read(kind, &config, &tensors, compute, precision)?;
    let model = ScoringModel::new(encoder, &info, options.kv_bytes)?;
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
