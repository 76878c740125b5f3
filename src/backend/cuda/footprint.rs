//! The memory of a card that a decoder will take, computed before it is loaded.

use std::cell::Cell;

use super::{
    driver::PRODUCT_WORKSPACE_BYTES,
    inputs::StepLimits,
    kv_cache::{BLOCK_TOKENS, KvCache},
    linear::CudaLinear,
    packed::{PackedWeights, can_be_packed},
    rope::RopeTables,
    rows::{CudaRows, RowFormat},
    scratch_sizes::ScratchSizes,
};
use crate::{
    backend::{
        BatchLimits, Footprint,
        decoder::footprint::{MatrixShape, held_tokens, weight_bytes},
    },
    model::{
        TensorError, WeightSource,
        spec::{FeedForward, ModelConfig, NormPlacement, Precision},
    },
};

/// How weights that are quantised in their file are stored on a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WeightStorage {
    /// All are rounded to bf16.
    Rounded,
    /// They stay packed, but for tables of embeddings. Floats are rounded to bf16.
    Packed,
}

/// A precision that cards do not compute in.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("cards do not compute in {}; set the precision to auto, bf16 or int8", .0.name())]
pub(super) struct UnsupportedPrecision(Precision);

impl WeightStorage {
    pub(super) fn of(precision: Precision) -> Result<Self, UnsupportedPrecision> {
        match precision {
            Precision::Bf16 => Ok(Self::Rounded),
            Precision::Int8 => Ok(Self::Packed),
            Precision::F32 | Precision::Mixed => Err(UnsupportedPrecision(precision)),
        }
    }

    /// Bytes of a matrix.
    fn bytes(self, matrix: MatrixShape) -> usize {
        match self.keeps_packed(matrix) {
            true => PackedWeights::bytes_for(matrix.format, matrix.rows, matrix.cols),
            false => CudaLinear::rounded_bytes(matrix.rows, matrix.cols),
        }
    }

    fn keeps_packed(self, matrix: MatrixShape) -> bool {
        self == Self::Packed && !matrix.is_table && can_be_packed(matrix.format, matrix.cols)
    }
}

/// What the buffers of a model follow from, beside its sizes.
#[derive(Debug, Clone, Copy)]
pub(super) struct LargestStep {
    /// The largest batches.
    pub batch: BatchLimits,
    /// The largest rank of any adapter.
    pub max_rank: usize,
}

/// The memory that a decoder will take.
///
/// # Errors
/// When a tensor cannot be used; names it.
pub(super) fn of_decoder(
    config: &ModelConfig,
    source: &dyn WeightSource,
    storage: WeightStorage,
    largest: LargestStep,
) -> Result<Footprint, TensorError> {
    // The largest matrix that is packed has to be expanded for products of many rows.
    let expanded = Cell::new(0);
    let weight_bytes = weight_bytes(config, source, |matrix| {
        if storage.keeps_packed(matrix) {
            expanded.set(
                expanded
                    .get()
                    .max(CudaLinear::rounded_bytes(matrix.rows, matrix.cols)),
            );
        }
        storage.bytes(matrix)
    })?;
    let scratch = scratch_bytes(config, largest.batch, largest.max_rank) + expanded.get();
    Ok(Footprint {
        architecture: config.architecture.clone(),
        context_length: config.context_length,
        held_tokens: held_tokens(config, BLOCK_TOKENS),
        weight_bytes,
        scratch_bytes: scratch as u64,
        kv_block_bytes: KvCache::block_bytes(config) as u64,
        kv_most_bytes: None,
        block_tokens: BLOCK_TOKENS,
    })
}

/// The largest steps of a model.
pub(super) fn step_limits(config: &ModelConfig, batch: BatchLimits) -> StepLimits {
    let sizes = config.sizes;
    StepLimits::new(batch, config.context_length, sizes.heads / sizes.kv_heads.max(1))
}

/// Bytes of everything beside weights and the KV cache: rows between launches, inputs, readouts, and rotary tables.
fn scratch_bytes(config: &ModelConfig, batch: BatchLimits, max_rank: usize) -> usize {
    let (sizes, limits) = (config.sizes, step_limits(config, batch));
    let (queries, keys) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
    let (plain, gated) = match config.feed_forward {
        FeedForward::Plain => (sizes.ffn, 0),
        FeedForward::Gated => (2 * sizes.ffn, sizes.ffn),
    };
    let projected = match config.norm_placement {
        NormPlacement::PreAndPost => sizes.hidden,
        NormPlacement::Pre | NormPlacement::Parallel => 0,
    };
    let f32_width = sizes.hidden + queries + 2 * keys + plain + projected;
    let bf16_width = sizes.hidden + queries + gated;
    let rounded = match config.feed_forward {
        FeedForward::Plain => sizes.ffn,
        FeedForward::Gated => 0,
    };
    let rows = CudaRows::bytes_for(limits.rows, f32_width, RowFormat::F32)
        + CudaRows::bytes_for(limits.rows, bf16_width + rounded, RowFormat::Bf16);
    rows + limits.bytes()
        + RopeTables::bytes_for(config)
        + ScratchSizes::new(config, &limits, max_rank).total()
        + PRODUCT_WORKSPACE_BYTES
}
