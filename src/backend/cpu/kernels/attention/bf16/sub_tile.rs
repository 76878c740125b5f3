//! Parts of a query tile that are multiplied at a time.

use std::{f32::consts::LOG2_E, ops::Range};

use crate::backend::cpu::kernels::{
    attention::{query_tile::QueryTile, sizes::SEGMENT},
    bf16::{ROW_BLOCK, RUN},
    elementwise::soft_cap,
    isa::Isa,
};

/// Runs of tokens in a segment.
pub(super) const SEGMENT_RUNS: usize = SEGMENT / RUN;

/// At most [`ROW_BLOCK`] rows of a query tile, which are multiplied at a time with a segment.
pub(super) struct SubTile<'a> {
    pub tile: &'a QueryTile<'a>,
    pub segment: usize,
    /// The rows in the tile.
    pub rows: Range<usize>,
    /// The tokens that any of the rows sees, counted from the segment's first token; not empty.
    pub seen: Range<usize>,
    /// The runs of tokens in which those lie.
    pub runs: Range<usize>,
}

/// A tile's parts that see anything of a segment.
pub(super) fn sub_tiles<'a>(tile: &'a QueryTile<'_>, segment: usize) -> impl Iterator<Item = SubTile<'a>> {
    (0..tile.rows).step_by(ROW_BLOCK).filter_map(move |first| {
        let rows = first..(first + ROW_BLOCK).min(tile.rows);
        let seen = tile.seen_by(rows.clone(), segment);
        (!seen.is_empty()).then(|| SubTile {
            tile,
            segment,
            rows,
            runs: seen.start / RUN..seen.end.div_ceil(RUN),
            seen,
        })
    })
}

/// The factor of queries that makes their products with keys exponents of 2.
pub(super) fn query_scale(tile: &QueryTile<'_>) -> f32 {
    tile.layer.scale * LOG2_E
}

/// Caps the scores that a row sees, where the layer has a soft cap.
pub(super) fn cap_scores(isa: Isa, tile: &QueryTile<'_>, seen: &mut [f32]) {
    if let Some(cap) = tile.layer.soft_cap {
        soft_cap(isa, seen, cap * LOG2_E);
    }
}
