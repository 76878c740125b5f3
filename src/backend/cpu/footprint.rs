//! What a decoder will take in memory, before it is loaded: from its configuration and its tensors' shapes.

use std::collections::HashSet;

use super::{
    kernels::{BLOCK_TOKENS, PackedMatrix},
    kv_cache::KvCache,
};
use crate::{
    backend::{BatchLimits, Footprint, ModelLimits},
    model::{
        LayerTensor, Tensor, WeightSource,
        spec::{HeadNorms, KvFormat, ModelConfig},
    },
};

/// Errors name the tensor.
pub(super) fn of_decoder(
    config: &ModelConfig,
    source: &dyn WeightSource,
    kv_format: KvFormat,
    batch: BatchLimits,
) -> Result<Footprint, String> {
    Ok(Footprint {
        architecture: config.architecture.clone(),
        context_length: config.context_length,
        held_tokens: held_tokens(config),
        weight_bytes: weight_bytes(config, source)?,
        scratch_bytes: scratch_bytes(config, batch),
        kv_block_bytes: KvCache::block_bytes(config, kv_format) as u64,
        kv_most_bytes: None,
        block_tokens: BLOCK_TOKENS,
    })
}

fn held_tokens(config: &ModelConfig) -> usize {
    let most = ModelLimits::of_decoder(config, BLOCK_TOKENS, usize::MAX).most_blocks();
    config.context_length.min(most.saturating_mul(BLOCK_TOKENS))
}

/// Tensors that a layer may have by themselves.
const SINGLE: [LayerTensor; 13] = [
    LayerTensor::AttentionNorm,
    LayerTensor::AttentionNormBias,
    LayerTensor::QueryNorm,
    LayerTensor::KeyNorm,
    LayerTensor::AttentionOutput,
    LayerTensor::AttentionOutputBias,
    LayerTensor::AttentionPostNorm,
    LayerTensor::FfnNorm,
    LayerTensor::FfnNormBias,
    LayerTensor::UpBias,
    LayerTensor::Down,
    LayerTensor::DownBias,
    LayerTensor::FfnPostNorm,
];

/// Tensors that a file has as one or in parts.
const FUSED: [(LayerTensor, &[LayerTensor]); 3] = [
    (
        LayerTensor::Qkv,
        &[LayerTensor::Query, LayerTensor::Key, LayerTensor::Value],
    ),
    (LayerTensor::GateUp, &[LayerTensor::Gate, LayerTensor::Up]),
    (
        LayerTensor::QkvBias,
        &[
            LayerTensor::QueryBias,
            LayerTensor::KeyBias,
            LayerTensor::ValueBias,
        ],
    ),
];

fn weight_bytes(config: &ModelConfig, source: &dyn WeightSource) -> Result<u64, String> {
    let mut bytes = 0;
    let mut seen = HashSet::new();
    let mut add = |tensor: Tensor| -> Result<bool, String> {
        let info = source.info(tensor);
        let info = info.map_err(|error| format!("tensor `{}`: {error}", source.name(tensor)))?;
        let Some((shape, format)) = info else {
            return Ok(false);
        };
        // Norms have the same name in different places.
        if !seen.insert(source.name(tensor)) {
            return Ok(true);
        }
        bytes += match shape[..] {
            [rows, cols] if !is_head_norm(tensor) => PackedMatrix::bytes_for(format, rows, cols) as u64,
            _ => 4 * (shape.iter().product::<usize>() * copies(config, tensor)) as u64,
        };
        Ok(true)
    };
    add(Tensor::Embedding)?;
    add(Tensor::OutputNorm)?;
    add(Tensor::OutputNormBias)?;
    if config.learned_positions {
        add(Tensor::Positions)?;
    }
    if !config.tied_embeddings {
        add(Tensor::Output)?;
    }
    for layer in 0..config.layers.len() {
        for part in SINGLE {
            add(Tensor::Layer(layer, part))?;
        }
        for (whole, parts) in FUSED {
            if !add(Tensor::Layer(layer, whole))? {
                for &part in parts {
                    add(Tensor::Layer(layer, part))?;
                }
            }
        }
    }
    Ok(bytes)
}

fn is_head_norm(tensor: Tensor) -> bool {
    matches!(
        tensor,
        Tensor::Layer(_, LayerTensor::QueryNorm | LayerTensor::KeyNorm)
    )
}

/// A norm that all heads share is kept once for each.
fn copies(config: &ModelConfig, tensor: Tensor) -> usize {
    match (config.head_norms, tensor) {
        (HeadNorms::Shared, Tensor::Layer(_, LayerTensor::QueryNorm)) => config.sizes.heads,
        (HeadNorms::Shared, Tensor::Layer(_, LayerTensor::KeyNorm)) => config.sizes.kv_heads,
        _ => 1,
    }
}

/// A batch's rows on their way through the layers, and the logits.
fn scratch_bytes(config: &ModelConfig, batch: BatchLimits) -> u64 {
    let sizes = config.sizes;
    let (queries, keys) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
    // The stream, its norm and what joins it; queries, keys, values and what was attended; gate, up and their
    // product. A quarter of the widest of them once more, as integers.
    let row = 3 * sizes.hidden + 2 * queries + 2 * keys + 3 * sizes.ffn;
    let integers = sizes.ffn.max(sizes.hidden).max(queries) / 4;
    let head = sizes.vocab + 2 * sizes.hidden;
    4 * (batch.tokens * (row + integers) + batch.sequences * head) as u64
}
