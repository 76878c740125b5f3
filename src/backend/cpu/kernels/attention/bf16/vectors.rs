//! Attention in vectors of f32, in the order of operations of the tiles: for processors without AMX.

use super::sub_tile::{SEGMENT_RUNS, SubTile, cap_scores, query_scale, sub_tiles};
use crate::backend::cpu::kernels::{
    attention::{
        cache::LayerCache,
        exp2::exp2,
        query_tile::QueryTile,
        sizes::{BLOCK_TOKENS, SEGMENT},
        softmax::SoftmaxState,
    },
    bf16::{ROW_BLOCK, RUN, RUN_PAIRS, RunTile, deinterleave_row, multiply_run},
    buffers::scratch_slice,
    elementwise::{ScoreSums, add_lanes},
    floats::expand_bf16,
    isa::{Isa, per_isa},
    micro::{LANES, MOST_VECTORS, NARROW_ROWS, TileSize, WIDE_ROWS},
    output::{Output, OutputTile},
};

/// A worker's copy of what the products of a segment read. In each run even elements come before odd ones.
#[derive(Default)]
pub(in crate::backend::cpu::kernels::attention) struct VectorOperands {
    /// A scaled query.
    query: Vec<f32>,
    /// Rounded queries, `[rows][runs of dimensions][even, odd][RUN_PAIRS]`.
    queries: Vec<f32>,
    /// Keys of a head's part of a block, `[runs of dimensions][even, odd][RUN_PAIRS][BLOCK_TOKENS]`.
    keys: Vec<f32>,
    /// Scores, and then numerators before they are rounded: `[ROW_BLOCK][SEGMENT]`.
    scores: Vec<f32>,
    /// Rounded numerators, `[ROW_BLOCK][SEGMENT_RUNS][even, odd][RUN_PAIRS]`.
    numerators: Vec<f32>,
    /// A segment's values, `[SEGMENT_RUNS][even, odd][RUN_PAIRS][width]`.
    values: Vec<f32>,
}

const _: () = assert!(SEGMENT_RUNS * RUN == SEGMENT);

impl VectorOperands {
    /// Rounds a tile's queries.
    pub(super) fn load_queries(&mut self, isa: Isa, tile: &QueryTile<'_>, qkv: &[f32]) {
        let head_dim = tile.layer.shape.head_dim;
        let width = head_dim.next_multiple_of(RUN);
        let query = scratch_slice(&mut self.query, head_dim);
        let queries = scratch_slice(&mut self.queries, tile.rows * width);
        for (row, out) in queries.chunks_exact_mut(width).enumerate() {
            tile.query(isa, qkv, row, query_scale(tile), query);
            deinterleave_row(isa, query, out);
        }
    }

    /// See [`super::operands::LoadedQueries::attend`].
    pub(super) fn attend(
        &mut self,
        isa: Isa,
        tile: &QueryTile<'_>,
        cache: &LayerCache,
        segment: usize,
        state: &mut SoftmaxState<'_>,
    ) {
        self.load_values(isa, tile, cache, segment);
        for part in sub_tiles(tile, segment) {
            self.multiply_keys(isa, &part, cache);
            self.exponentiate(isa, &part, state);
            self.multiply_values(isa, &part, state);
        }
    }

    /// Copies a segment's values, with zeros for tokens that no row sees.
    fn load_values(&mut self, isa: Isa, tile: &QueryTile<'_>, cache: &LayerCache, segment: usize) {
        let head_dim = tile.layer.shape.head_dim;
        let width = head_dim.next_multiple_of(RUN);
        let seen = tile.seen_by(0..tile.rows, segment);
        let values = scratch_slice(&mut self.values, SEGMENT * width);
        for column in seen.start / RUN * RUN..seen.end.next_multiple_of(RUN) {
            let (run, within) = (column / RUN, column % RUN);
            let out = &mut values[((run * 2 + within % 2) * RUN_PAIRS + within / 2) * width..][..width];
            // Blocks before the first token that is seen may have been evicted, and tokens behind the last may be
            // anything.
            if column < seen.start / BLOCK_TOKENS * BLOCK_TOKENS || column >= seen.end {
                out.fill(0.0);
                continue;
            }
            let block = cache.bf16_block_head(tile.block_head(segment * SEGMENT + column));
            let token = &block.values[column % BLOCK_TOKENS * head_dim..][..head_dim];
            expand_bf16(isa, token, &mut out[..head_dim]);
            out[head_dim..].fill(0.0);
        }
    }

    /// Computes the scores of a part's rows.
    fn multiply_keys(&mut self, isa: Isa, part: &SubTile<'_>, cache: &LayerCache) {
        let SubTile {
            tile,
            segment,
            rows,
            seen,
            ..
        } = part;
        let width = tile.layer.shape.head_dim.next_multiple_of(RUN);
        let scores = scratch_slice(&mut self.scores, ROW_BLOCK * SEGMENT);
        let expanded = scratch_slice(&mut self.keys, width * BLOCK_TOKENS);
        for column in (seen.start / BLOCK_TOKENS * BLOCK_TOKENS..seen.end.next_multiple_of(BLOCK_TOKENS))
            .step_by(BLOCK_TOKENS)
        {
            let block = cache.bf16_block_head(tile.block_head(*segment * SEGMENT + column));
            deinterleave_pairs(isa, block.keys, expanded);
            for (index, w) in expanded.chunks_exact(RUN * BLOCK_TOKENS).enumerate() {
                for row in (0..rows.len()).step_by(NARROW_ROWS) {
                    let operands = RunTile {
                        a: self.queries[(rows.start + row) * width + index * RUN..].as_ptr(),
                        a_stride: width,
                        w: w.as_ptr(),
                        w_stride: BLOCK_TOKENS,
                    };
                    let c = OutputTile {
                        start: scores[row * SEGMENT + column..].as_mut_ptr(),
                        stride: SEGMENT,
                        output: if index == 0 { Output::Replace } else { Output::Add },
                    };
                    let size = TileSize {
                        rows: NARROW_ROWS.min(rows.len() - row),
                        vectors: 1,
                    };
                    // SAFETY: the tile's queries are `[tile.rows][width]`, of which `size.rows` from `rows.start +
                    // row` on exist, and the run lies within `width`. `w` is a run of a block, `[RUN][BLOCK_TOKENS]`.
                    // `scores` has `ROW_BLOCK` rows of `SEGMENT`, which is whole blocks, and overlaps neither.
                    unsafe { multiply_run(isa, size, &operands, c) };
                }
            }
        }
    }

    /// Replaces scores by rounded numerators.
    fn exponentiate(&mut self, isa: Isa, part: &SubTile<'_>, state: &mut SoftmaxState<'_>) {
        let SubTile {
            tile,
            segment,
            rows,
            runs,
            ..
        } = part;
        let numerators = scratch_slice(&mut self.numerators, ROW_BLOCK * SEGMENT);
        let scores = self.scores.chunks_exact_mut(SEGMENT);
        for ((row, scores), numerators) in rows.clone().zip(scores).zip(numerators.chunks_exact_mut(SEGMENT))
        {
            let columns = runs.start * RUN..runs.end * RUN;
            let Some(seen) = tile.seen(row, *segment) else {
                numerators[columns].fill(0.0);
                continue;
            };
            cap_scores(isa, tile, &mut scores[seen.clone()]);
            // 2 to the power of minus infinity is 0: tokens that the row does not see weigh nothing.
            scores[columns.start..seen.start].fill(f32::NEG_INFINITY);
            scores[seen.end..columns.end].fill(f32::NEG_INFINITY);
            let scores = &mut scores[columns.clone()];
            let mut sums = ScoreSums::default();
            powers(isa, scores, &mut sums);
            deinterleave_row(isa, scores, &mut numerators[columns]);
            state.denominators[row] = sums.total;
            state.maxima[row] = sums.maximum;
        }
    }

    /// Computes the weighted sums of a part's rows.
    fn multiply_values(&mut self, isa: Isa, part: &SubTile<'_>, state: &mut SoftmaxState<'_>) {
        let SubTile { tile, rows, runs, .. } = part;
        let width = tile.layer.shape.head_dim.next_multiple_of(RUN);
        for run in runs.clone() {
            let values = &self.values[run * RUN * width..][..RUN * width];
            for column in (0..width).step_by(MOST_VECTORS * LANES) {
                let vectors = MOST_VECTORS.min((width - column) / LANES);
                for row in (0..rows.len()).step_by(WIDE_ROWS) {
                    let operands = RunTile {
                        a: self.numerators[row * SEGMENT + run * RUN..].as_ptr(),
                        a_stride: SEGMENT,
                        w: values[column..].as_ptr(),
                        w_stride: width,
                    };
                    let c = OutputTile {
                        start: state.weighted_sums[(rows.start + row) * width + column..].as_mut_ptr(),
                        stride: width,
                        output: if run == runs.start {
                            Output::Replace
                        } else {
                            Output::Add
                        },
                    };
                    let size = TileSize {
                        rows: WIDE_ROWS.min(rows.len() - row),
                        vectors,
                    };
                    // SAFETY: `numerators` has `ROW_BLOCK` rows of `SEGMENT`, in which the run lies, and `row +
                    // size.rows` is at most `rows.len()`. `values` is a run, `[RUN][width]`, and `weighted_sums` has
                    // the tile's rows of `width`, which is whole vectors, so the tile's columns are a row's own. It
                    // overlaps neither.
                    unsafe { multiply_run(isa, size, &operands, c) };
                }
            }
        }
    }
}

per_isa! {
    /// Expands pairs of dimensions, `[pairs][BLOCK_TOKENS]`, to f32, in each run the even ones before the odd ones.
    fn deinterleave_pairs(isa; pairs: &[u32], out: &mut [f32]) {
        let runs = pairs.chunks_exact(RUN_PAIRS * BLOCK_TOKENS);
        for (pairs, out) in runs.zip(out.chunks_exact_mut(RUN * BLOCK_TOKENS)) {
            let (even, odd) = out.split_at_mut(RUN_PAIRS * BLOCK_TOKENS);
            for ((pair, even), odd) in pairs.iter().zip(even).zip(odd) {
                *even = f32::from_bits(pair << 16);
                *odd = f32::from_bits(pair & 0xffff_0000);
            }
        }
    }
}

per_isa! {
    /// Replaces scores, whole vectors of them, by numerators of softmax: `2^(score - maximum)`.
    pub(super) fn powers(isa; scores: &mut [f32], sums: &mut ScoreSums) {
        let raise = |maximum: &mut f32, score: f32| *maximum = if score > *maximum { score } else { *maximum };
        let mut maxima = [f32::NEG_INFINITY; LANES];
        let (chunks, _) = scores.as_chunks_mut::<LANES>();
        for chunk in &*chunks {
            for lane in 0..LANES {
                raise(&mut maxima[lane], chunk[lane]);
            }
        }
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                let other = maxima[lane + width];
                raise(&mut maxima[lane], other);
            }
            width /= 2;
        }
        let mut lanes = [0f32; LANES];
        for chunk in chunks {
            for lane in 0..LANES {
                chunk[lane] = exp2(chunk[lane] - maxima[0]);
                lanes[lane] += chunk[lane];
            }
        }
        *sums = ScoreSums { total: add_lanes(lanes), maximum: maxima[0] };
    }
}
