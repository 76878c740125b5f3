//! Attention in f32, for a few query rows of one key head. Keys and values are f32 or expanded from f16.

use super::{
    BLOCK_TOKENS, LayerCache, SEGMENT,
    cache::Side,
    query_tile::QueryTile,
    softmax::{Softmax, SoftmaxLayout},
};
use crate::backend::cpu::kernels::{
    Isa, Output,
    buffers::sized,
    elementwise::{soft_cap, softmax_numerators},
    micro::{self, LANES, NARROW_ROWS, Tile, WIDE_ROWS},
};

/// Most query rows of a tile.
pub(super) const TILE_ROWS: usize = 2 * NARROW_ROWS;

/// What the products of a segment read.
#[derive(Default)]
pub(super) struct FloatOperands {
    queries: Vec<f32>,
    /// Scores of a segment, `[rows][SEGMENT]`.
    scores: Vec<f32>,
    /// One head's part of a block.
    block: Vec<f32>,
}

pub(super) fn layout(tile: &QueryTile<'_>) -> SoftmaxLayout {
    SoftmaxLayout {
        rows: tile.rows,
        sum_rows: tile.rows,
        width: tile.layer.shape.head_dim,
    }
}

impl FloatOperands {
    pub(super) fn load_queries(&mut self, isa: Isa, tile: &QueryTile<'_>, qkv: &[f32]) {
        let head_dim = tile.layer.shape.head_dim;
        let queries = sized(&mut self.queries, tile.rows * head_dim);
        for (row, query) in queries.chunks_exact_mut(head_dim).enumerate() {
            tile.query(isa, qkv, row, tile.layer.scale, query);
        }
    }

    /// Softmax over a segment's tokens, for the rows that see any; the others' results are not defined.
    pub(super) fn attend(
        &mut self,
        isa: Isa,
        tile: &QueryTile<'_>,
        cache: &LayerCache,
        segment: usize,
        part: &mut Softmax<'_>,
    ) {
        let (rows, head_dim) = (tile.rows, tile.layer.shape.head_dim);
        let start = segment * SEGMENT;
        // From the first to the last token that any row sees, in whole blocks at the beginning.
        let seen = tile.seen_by(0..rows, segment);
        let first_block = seen.start / BLOCK_TOKENS;
        let last = tile.visible(rows - 1).end - 1;
        // Blocks lie where they happen to, and nothing else foresees them. Of many rows' tiles the first brings them near.
        let few = rows <= NARROW_ROWS;
        let columns = || (first_block..seen.end.div_ceil(BLOCK_TOKENS)).map(|block| block * BLOCK_TOKENS);
        let Self {
            queries,
            scores,
            block: expanded,
        } = self;
        let scores = sized(scores, rows * SEGMENT);
        let expanded = sized(expanded, head_dim * BLOCK_TOKENS);

        for column in columns() {
            let place = tile.place(start + column);
            if few {
                cache.fetch(Side::Values, place);
                let next = (start + column + BLOCK_TOKENS).min(last);
                cache.fetch(Side::Keys, tile.place(next));
            }
            let keys = cache.head(isa, Side::Keys, place, head_dim * BLOCK_TOKENS, expanded);
            for first in (0..rows).step_by(NARROW_ROWS) {
                // SAFETY: `rows` queries of `head_dim`, a whole key block, and score rows of `SEGMENT`, of which
                // `column` begins a block.
                unsafe {
                    let operands = Tile {
                        a: queries[first * head_dim..].as_ptr(),
                        a_stride: head_dim,
                        w: keys.as_ptr(),
                        w_stride: BLOCK_TOKENS,
                        c: scores[first * SEGMENT + column..].as_mut_ptr(),
                        c_stride: SEGMENT,
                        output: Output::Replace,
                        k: head_dim,
                    };
                    micro::run(isa, NARROW_ROWS.min(rows - first), 1, &operands);
                }
            }
        }
        for (row, scores) in scores.chunks_exact_mut(SEGMENT).enumerate() {
            let Some(seen) = tile.seen(row, segment) else {
                scores.fill(0.0);
                continue;
            };
            // From a row's own first token to its last: sums do not depend on the tile's other rows, and what
            // only those see adds 0 times a value.
            let (before, rest) = scores.split_at_mut(seen.start);
            let (seen, after) = rest.split_at_mut(seen.len());
            if let Some(cap) = tile.layer.soft_cap {
                soft_cap(isa, seen, cap);
            }
            let mut total_and_top = [0.0; 2];
            softmax_numerators(isa, seen, &mut total_and_top);
            before.fill(0.0);
            after.fill(0.0);
            [part.totals[row], part.tops[row]] = total_and_top;
        }
        for row_of_values in columns() {
            // Beyond the last token the block may hold anything.
            let count = BLOCK_TOKENS.min(seen.end - row_of_values);
            let place = tile.place(start + row_of_values);
            let values = cache.head(isa, Side::Values, place, head_dim * count, expanded);
            for column in (0..head_dim).step_by(4 * LANES) {
                let vectors = 4.min((head_dim - column) / LANES);
                for first in (0..rows).step_by(WIDE_ROWS) {
                    // SAFETY: score rows hold this block, the value block has `count` rows of `head_dim`, and
                    // `sums` has `rows` rows of `head_dim`.
                    unsafe {
                        let operands = Tile {
                            a: scores[first * SEGMENT + row_of_values..].as_ptr(),
                            a_stride: SEGMENT,
                            w: values[column..].as_ptr(),
                            w_stride: head_dim,
                            c: part.sums[first * head_dim + column..].as_mut_ptr(),
                            c_stride: head_dim,
                            output: if row_of_values == first_block * BLOCK_TOKENS {
                                Output::Replace
                            } else {
                                Output::Add
                            },
                            k: count,
                        };
                        micro::run(isa, WIDE_ROWS.min(rows - first), vectors, &operands);
                    }
                }
            }
        }
    }
}
