//! What a model will take in memory, before it is loaded: from its configuration and its tensors' shapes.

use std::collections::HashSet;

use super::{
    config::{HeadNorms, ModelConfig},
    kv_cache::KvCache,
    weights::{LayerTensor, Tensor, WeightSource},
};
use crate::backend::cpu::kernels::{BLOCK_TOKENS, PackedMatrix};
use crate::model::spec::Precision;

/// The largest batches that a model will be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Sequences.
    pub sequences: usize,
    /// Tokens of all of them.
    pub tokens: usize,
}

/// What a model will take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Estimate {
    /// For example `llama`.
    pub architecture: String,
    /// Longest sequence, in tokens.
    pub context_length: usize,
    /// Most tokens whose keys and values a sequence holds at a time: less than the longest sequence where every layer
    /// has a window.
    pub held_tokens: usize,
    /// Bytes of the weights as they will lie in memory, which is not how they lie in the file.
    pub weight_bytes: u64,
    /// Bytes of buffers that grow to the largest batch.
    pub scratch_bytes: u64,
    /// Bytes of one block of the KV pool, over all layers.
    pub kv_block_bytes: u64,
    /// A KV pool of more bytes is of no use; `None` where every block is.
    pub kv_most_bytes: Option<u64>,
    /// Tokens in such a block.
    pub block_tokens: usize,
}

impl Estimate {
    pub(super) fn new(
        config: &ModelConfig,
        source: &dyn WeightSource,
        precision: Precision,
        batch: BatchLimits,
    ) -> Result<Self, String> {
        Ok(Self {
            architecture: config.architecture.clone(),
            context_length: config.context_length,
            held_tokens: held_tokens(config),
            weight_bytes: weight_bytes(config, source)?,
            scratch_bytes: scratch_bytes(config, batch),
            kv_block_bytes: KvCache::block_bytes(config, precision) as u64,
            kv_most_bytes: None,
            block_tokens: BLOCK_TOKENS,
        })
    }
}

fn held_tokens(config: &ModelConfig) -> usize {
    let most = config.limits(usize::MAX).most_blocks();
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
