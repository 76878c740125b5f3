//! The memory that a decoder will take, computed from its configuration and its tensors' shapes before it is loaded.

use super::{
    kernels::{BLOCK_TOKENS, PackedMatrix},
    kv_cache::KvCache,
};
use crate::{
    backend::{
        BatchLimits, Footprint,
        decoder::footprint::{held_tokens, weight_bytes},
    },
    model::{
        TensorError, WeightSource,
        spec::{ModelConfig, Precision},
    },
};

/// The memory that a decoder will take whose largest batches are `batch`.
///
/// # Errors
/// When a tensor cannot be used; names it.
pub(super) fn of_decoder(
    config: &ModelConfig,
    source: &dyn WeightSource,
    precision: Precision,
    batch: BatchLimits,
) -> Result<Footprint, TensorError> {
    Ok(Footprint {
        architecture: config.architecture.clone(),
        context_length: config.context_length,
        held_tokens: held_tokens(config, BLOCK_TOKENS),
        weight_bytes: weight_bytes(config, source, |matrix| {
            PackedMatrix::bytes_for(matrix.format, matrix.rows, matrix.cols)
        })?,
        scratch_bytes: scratch_bytes(config, precision, batch),
        kv_block_bytes: KvCache::block_bytes(config, precision.kv_format()) as u64,
        kv_most_bytes: None,
        block_tokens: BLOCK_TOKENS,
    })
}

/// Bytes of a batch's rows between the operations of the layers, and of the logits.
fn scratch_bytes(config: &ModelConfig, precision: Precision, batch: BatchLimits) -> u64 {
    let sizes = config.sizes;
    let (queries, keys) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
    // Values of a row: the residual stream, its norm, and a projection that is added to it; queries, keys, values and the
    // output of attention; gate, up and their product. The widest is there once more as products read it: as eight-bit integers,
    // or as bf16, for which processors without tiles have vectors of f32. In `mixed` a step may have nothing but rows of
    // prompts and the next nothing but rows of generated tokens, and the buffers of both kinds stay.
    let row = 3 * sizes.hidden + 2 * queries + 2 * keys + 3 * sizes.ffn;
    let widest = sizes.ffn.max(sizes.hidden).max(queries);
    let rounded = match precision {
        Precision::F32 => 0,
        Precision::Int8 => widest / 4,
        Precision::Bf16 => widest,
        Precision::Mixed => widest + widest / 4,
    };
    let head = sizes.vocab + 2 * sizes.hidden;
    4 * (batch.tokens * (row + rounded) + batch.sequences * head) as u64
}
