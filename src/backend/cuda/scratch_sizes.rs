//! Bytes of the buffers that a model needs beside its weights, its KV pool and its rows.

use super::{
    adapter::PARTS,
    arguments::{RowReading, TopLogit},
    inputs::StepLimits,
    tiles::{SEGMENT_TOKENS, TILE_ROWS},
};
use crate::{
    backend::MOST_CANDIDATES,
    model::spec::{AttentionShape, ModelConfig},
};

/// Bytes for the sums of attention's segments, where one tile does not need more.
const PARTIAL_BYTES: usize = 64 << 20;

/// Bytes of the sums of the segments of one row.
pub(super) fn partial_bytes_of_row(shape: AttentionShape, segments: usize) -> usize {
    shape.heads * segments * (shape.head_dim + 2) * size_of::<f32>()
}

/// Rows that so many neighbouring tiles have a part in, at the most.
fn rows_of_tiles(tiles: usize, group: usize) -> usize {
    (tiles * TILE_ROWS).div_ceil(group) + 1
}

/// How many neighbouring tiles have a part in no more than so many rows; at least one.
pub(super) fn tiles_of_rows(rows: usize, group: usize) -> usize {
    (rows.saturating_sub(1) * group / TILE_ROWS).max(1)
}

/// Bytes of the buffers between launches.
pub(super) struct ScratchSizes {
    pub inner: usize,
    pub partial: usize,
    pub logits: usize,
    pub readings: usize,
    pub probe_logits: usize,
    /// The largest logits of each row that is read.
    pub top_logits: usize,
    /// Their rows' weights.
    pub weights: usize,
}

impl ScratchSizes {
    pub(super) fn new(config: &ModelConfig, limits: &StepLimits, max_rank: usize) -> Self {
        let segments = config.context_length.div_ceil(SEGMENT_TOKENS).next_power_of_two();
        let row = partial_bytes_of_row(config.attention_shape(), segments);
        let tile = rows_of_tiles(1, limits.group) * row;
        Self {
            inner: limits.rows * PARTS * max_rank * size_of::<f32>(),
            partial: PARTIAL_BYTES.max(tile),
            logits: limits.sequences * config.sizes.vocab * size_of::<f32>(),
            readings: limits.sequences * size_of::<RowReading>(),
            probe_logits: limits.tail * size_of::<f32>(),
            top_logits: limits.sequences * MOST_CANDIDATES * size_of::<TopLogit>(),
            weights: limits.sequences * size_of::<f64>(),
        }
    }

    /// All of them.
    pub(super) fn total(&self) -> usize {
        self.inner
            + self.partial
            + self.logits
            + self.readings
            + self.probe_logits
            + self.top_logits
            + self.weights
    }
}
