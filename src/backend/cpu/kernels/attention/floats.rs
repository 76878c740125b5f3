//! Attention in f32, for a tile of query rows of one key head. Keys and values are f32, or f16 that is expanded.
//!
//! With few rows (decoding), keys and values come from memory, so the next block is prefetched: with 32 sequences of
//! about 200 tokens that gained 9 %. Tried and left out: 48 rows instead of 24 for each expansion of keys and values,
//! which gained one percent.

use super::{
    cache::{LayerCache, Side},
    query_tile::QueryTile,
    sizes::{BLOCK_TOKENS, SEGMENT},
    softmax::{SoftmaxState, StateLayout},
};
use crate::backend::cpu::kernels::{
    buffers::scratch_slice,
    elementwise::{ScoreSums, soft_cap, softmax_numerators},
    isa::Isa,
    micro::{self, LANES, MOST_VECTORS, NARROW_ROWS, Tile, TileSize, WIDE_ROWS},
    output::Output,
};

/// A worker's copy of what the products of a segment read. The buffers grow to the largest tile and stay.
#[derive(Default)]
pub(super) struct FloatOperands {
    /// Scaled queries, `[rows][head_dim]`.
    queries: Vec<f32>,
    /// Scores of a segment, and then the numerators of softmax: `[rows][SEGMENT]`.
    scores: Vec<f32>,
    /// A head's part of a block, expanded.
    block: Vec<f32>,
}

/// Sizes of a tile's softmax state.
pub(super) fn layout(tile: &QueryTile<'_>) -> StateLayout {
    StateLayout {
        rows: tile.rows,
        sum_rows: tile.rows,
        width: tile.layer.shape.head_dim,
    }
}

impl FloatOperands {
    /// Scales a tile's queries.
    pub(super) fn load_queries(&mut self, isa: Isa, tile: &QueryTile<'_>, qkv: &[f32]) {
        let head_dim = tile.layer.shape.head_dim;
        let queries = scratch_slice(&mut self.queries, tile.rows * head_dim);
        for (row, query) in queries.chunks_exact_mut(head_dim).enumerate() {
            tile.query(isa, qkv, row, tile.layer.scale, query);
        }
    }

    /// Computes softmax over a segment's tokens into `state`, for the rows that see any. The state of other rows is
    /// anything.
    pub(super) fn attend(
        &mut self,
        isa: Isa,
        tile: &QueryTile<'_>,
        cache: &LayerCache,
        segment: usize,
        state: &mut SoftmaxState<'_>,
    ) {
        let (rows, head_dim) = (tile.rows, tile.layer.shape.head_dim);
        let start = segment * SEGMENT;
        // From the first to the last token that any row sees, in whole blocks at the beginning.
        let seen = tile.seen_by(0..rows, segment);
        let first_block = seen.start / BLOCK_TOKENS;
        let last = tile.visible(rows - 1).end - 1;
        // The hardware does not foresee where the next block lies. With more rows, the first micro tile of a block
        // brings it to the cache for the others.
        let prefetches = rows <= NARROW_ROWS;
        let columns = || (first_block..seen.end.div_ceil(BLOCK_TOKENS)).map(|block| block * BLOCK_TOKENS);
        let Self {
            queries,
            scores,
            block: expanded,
        } = self;
        let scores = scratch_slice(scores, rows * SEGMENT);
        let expanded = scratch_slice(expanded, head_dim * BLOCK_TOKENS);

        for column in columns() {
            let block_head = tile.block_head(start + column);
            if prefetches {
                cache.prefetch(Side::Values, block_head);
                let next = (start + column + BLOCK_TOKENS).min(last);
                cache.prefetch(Side::Keys, tile.block_head(next));
            }
            let keys = cache.expanded(isa, Side::Keys, block_head, head_dim * BLOCK_TOKENS, expanded);
            for first in (0..rows).step_by(NARROW_ROWS) {
                let size = TileSize {
                    rows: NARROW_ROWS.min(rows - first),
                    vectors: 1,
                };
                // SAFETY: `queries` has `rows` rows of `head_dim`, and `first + size.rows` is at most `rows`. `keys`
                // is a whole block, `[head_dim][BLOCK_TOKENS]`. `scores` has `rows` rows of `SEGMENT`, which is whole
                // blocks, so the `BLOCK_TOKENS` scores from `column` on are a row's own. `scores` overlaps neither.
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
                    micro::run(isa, size, &operands);
                }
            }
        }
        for (row, scores) in scores.chunks_exact_mut(SEGMENT).enumerate() {
            let Some(seen) = tile.seen(row, segment) else {
                scores.fill(0.0);
                continue;
            };
            // Sums go from a row's own first token to its last, so that they do not depend on the tile's other rows.
            // Tokens that only other rows see get numerators of 0, which add 0 times a value.
            let (before, rest) = scores.split_at_mut(seen.start);
            let (seen, after) = rest.split_at_mut(seen.len());
            if let Some(cap) = tile.layer.soft_cap {
                soft_cap(isa, seen, cap);
            }
            let mut sums = ScoreSums::default();
            softmax_numerators(isa, seen, &mut sums);
            before.fill(0.0);
            after.fill(0.0);
            state.denominators[row] = sums.total;
            state.maxima[row] = sums.maximum;
        }
        for first_token in columns() {
            // Behind the last token the block may hold anything, NaN included.
            let count = BLOCK_TOKENS.min(seen.end - first_token);
            let block_head = tile.block_head(start + first_token);
            let values = cache.expanded(isa, Side::Values, block_head, head_dim * count, expanded);
            for column in (0..head_dim).step_by(MOST_VECTORS * LANES) {
                let vectors = MOST_VECTORS.min((head_dim - column) / LANES);
                for first in (0..rows).step_by(WIDE_ROWS) {
                    let size = TileSize {
                        rows: WIDE_ROWS.min(rows - first),
                        vectors,
                    };
                    // SAFETY: `scores` has `rows` rows, each with `count` numerators from `first_token` on, and
                    // `first + size.rows` is at most `rows`. `values` is `[count][head_dim]` and `weighted_sums` has
                    // `rows` rows of `head_dim`, which is whole vectors, so the tile's columns are a row's own.
                    // `weighted_sums` overlaps neither.
                    unsafe {
                        let operands = Tile {
                            a: scores[first * SEGMENT + first_token..].as_ptr(),
                            a_stride: SEGMENT,
                            w: values[column..].as_ptr(),
                            w_stride: head_dim,
                            c: state.weighted_sums[first * head_dim + column..].as_mut_ptr(),
                            c_stride: head_dim,
                            output: if first_token == first_block * BLOCK_TOKENS {
                                Output::Replace
                            } else {
                                Output::Add
                            },
                            k: count,
                        };
                        micro::run(isa, size, &operands);
                    }
                }
            }
        }
    }
}
