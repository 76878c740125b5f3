//! How many tokens and query rows are taken together.

use crate::{
    backend::cpu::kernels::{
        bf16::ROW_BLOCK,
        micro::{LANES, NARROW_ROWS},
    },
    model::spec::KvFormat,
};

/// Tokens in a block of the KV cache: one vector of key columns.
pub const BLOCK_TOKENS: usize = LANES;

/// Tokens in a segment, over which softmax is computed at once.
pub(super) const SEGMENT: usize = 128;

/// Most query rows of a tile that is computed in f32. Twice as many gained one percent.
const F32_TILE_ROWS: usize = 2 * NARROW_ROWS;
/// Most query rows of a tile that is computed in bf16. They share a segment's values in pairs.
const BF16_TILE_ROWS: usize = 4 * ROW_BLOCK;
/// Most query rows of any tile.
pub(super) const MOST_TILE_ROWS: usize = if F32_TILE_ROWS > BF16_TILE_ROWS {
    F32_TILE_ROWS
} else {
    BF16_TILE_ROWS
};

/// Most query rows of a tile over keys and values of this format. They share each block that is expanded.
pub(super) fn tile_rows(format: KvFormat) -> usize {
    match format {
        KvFormat::F32 | KvFormat::F16 => F32_TILE_ROWS,
        KvFormat::Bf16 => BF16_TILE_ROWS,
    }
}
