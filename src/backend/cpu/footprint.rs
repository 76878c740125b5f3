//! The memory that a decoder will take, computed from its configuration and its tensors' shapes before it is loaded.

use std::collections::HashSet;

use super::{
    kernels::{BLOCK_TOKENS, PackedMatrix},
    kv_cache::KvCache,
};
use crate::{
    backend::{BatchLimits, Footprint, ModelLimits},
    model::{
        LayerTensor, Tensor, TensorError, WeightSource,
        spec::{HeadNorms, KvFormat, ModelConfig},
    },
};

/// The memory that a decoder will take whose largest batches are `batch`.
///
/// # Errors
/// When a tensor cannot be used; names it.
pub(super) fn of_decoder(
    config: &ModelConfig,
    source: &dyn WeightSource,
    kv_format: KvFormat,
    batch: BatchLimits,
) -> Result<Footprint, TensorError> {
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

/// Most tokens whose keys and values a sequence holds at a time.
fn held_tokens(config: &ModelConfig) -> usize {
    let most = ModelLimits::of_decoder(config, BLOCK_TOKENS, usize::MAX).most_blocks();
    config.context_length.min(most.saturating_mul(BLOCK_TOKENS))
}

/// Tensors of a layer that no file joins with others.
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

/// Tensors of a layer that files have either as one tensor or as several.
const JOINED: [(LayerTensor, &[LayerTensor]); 3] = [
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

fn weight_bytes(config: &ModelConfig, source: &dyn WeightSource) -> Result<u64, TensorError> {
    let mut bytes = 0;
    let mut seen = HashSet::new();
    // Whether the source has the tensor.
    let mut add = |tensor: Tensor| -> Result<bool, TensorError> {
        let info = source.info(tensor);
        let info = info.map_err(|problem| problem.of(source.name(tensor)))?;
        let Some((shape, format)) = info else {
            return Ok(false);
        };
        // Some families have one name for norms that others have in different places; such a tensor counts once.
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
        for (whole, parts) in JOINED {
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

/// How many times a tensor's values are kept: those of a norm that all heads share are kept once for each head.
fn copies(config: &ModelConfig, tensor: Tensor) -> usize {
    match (config.head_norms, tensor) {
        (HeadNorms::Shared, Tensor::Layer(_, LayerTensor::QueryNorm)) => config.sizes.heads,
        (HeadNorms::Shared, Tensor::Layer(_, LayerTensor::KeyNorm)) => config.sizes.kv_heads,
        _ => 1,
    }
}

/// Bytes of a batch's rows between the operations of the layers, and of the logits.
fn scratch_bytes(config: &ModelConfig, batch: BatchLimits) -> u64 {
    let sizes = config.sizes;
    let (queries, keys) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
    // Values of a row: the residual stream, its norm, and a projection that is added to it; queries, keys, values and the
    // output of attention; gate, up and their product. A quarter of the widest is there once more, as eight-bit integers.
    let row = 3 * sizes.hidden + 2 * queries + 2 * keys + 3 * sizes.ffn;
    let integers = sizes.ffn.max(sizes.hidden).max(queries) / 4;
    let head = sizes.vocab + 2 * sizes.hidden;
    4 * (batch.tokens * (row + integers) + batch.sequences * head) as u64
}
