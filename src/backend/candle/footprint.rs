//! The memory that a decoder will take, computed from its configuration and its tensors' shapes before it is loaded.

use super::{
    attention::MOST_SCORES,
    kv_cache::{BLOCK_TOKENS, block_bytes},
    weights::bytes_for,
};
use crate::{
    backend::{
        BatchLimits, Footprint,
        decoder::footprint::{held_tokens, weight_bytes},
    },
    model::{
        TensorError, WeightSource,
        spec::{KvFormat, ModelConfig, Products},
    },
};

/// The memory that a decoder will take whose largest batches are `batch`.
///
/// # Errors
/// When a tensor cannot be used; names it.
pub(super) fn of_decoder(
    config: &ModelConfig,
    source: &dyn WeightSource,
    place: Place,
    batch: BatchLimits,
) -> Result<Footprint, TensorError> {
    Ok(Footprint {
        architecture: config.architecture.clone(),
        context_length: config.context_length,
        held_tokens: held_tokens(config, BLOCK_TOKENS),
        weight_bytes: weight_bytes(config, source, |matrix| {
            bytes_for(
                matrix.format,
                matrix.rows * matrix.cols,
                place.products,
                place.on_cpu,
            ) as usize
        })?,
        scratch_bytes: scratch_bytes(config, place, batch),
        kv_block_bytes: block_bytes(config, place.kv_format) as u64,
        kv_most_bytes: None,
        block_tokens: BLOCK_TOKENS,
    })
}

/// Where and how a decoder will be computed.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub products: Products,
    pub kv_format: KvFormat,
    /// Whether it is the host's processor.
    pub on_cpu: bool,
}

/// Bytes of the tensors that a step of the largest batch makes, at the operation that has most of them.
fn scratch_bytes(config: &ModelConfig, place: Place, batch: BatchLimits) -> u64 {
    let sizes = config.sizes;
    let (queries, keys) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
    // Values of a row between operations: the residual stream, its norm, a projection, queries, keys, values, attention. An
    // operation makes its result beside its inputs, in up to three temporary tensors of the widest part.
    let widest = (2 * sizes.ffn).max(queries + 2 * keys).max(sizes.hidden);
    let row = 3 * sizes.hidden + 2 * queries + 2 * keys + 4 * widest;
    // Keys and values of one sequence: as they are stored, in f32, and in the order of heads.
    let gathered = 2 * 3 * held_tokens(config, BLOCK_TOKENS) * keys;
    // Scores: as computed, capped, masked, and as shares.
    let scores = 4 * MOST_SCORES.max(sizes.heads * held_tokens(config, BLOCK_TOKENS));
    // Logits: as computed, scaled and capped, and the host's copy.
    let head = 4 * sizes.vocab;
    // Where the host has no products in bf16, candle widens each matrix for its product.
    let widened = match (place.on_cpu, place.products) {
        (true, Products::Bf16) => sizes.hidden * sizes.vocab.max(2 * sizes.ffn).max(queries + 2 * keys),
        (true, Products::F32 | Products::Int8) | (false, _) => 0,
    };
    let values = batch.tokens * row + gathered + scores + batch.sequences * head + widened;
    4 * values as u64
}
