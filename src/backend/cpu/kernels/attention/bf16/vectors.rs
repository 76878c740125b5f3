//! The operations in vectors.

use super::{PART_ROWS, Part, RUN, cap, exp2, parts, scale};
use crate::backend::cpu::kernels::{
    Isa, Output,
    attention::{BLOCK_TOKENS, LayerCache, SEGMENT, query_tile::QueryTile, softmax::Softmax},
    bf16::{RunTile, part_row, run_product},
    buffers::sized,
    elementwise::add_lanes,
    floats::expand_bf16,
    int8::Target,
    isa::per_isa,
    micro::{LANES, NARROW_ROWS, WIDE_ROWS},
};

/// Even ones of a run, or odd ones.
const HALF: usize = RUN / 2;

#[derive(Default)]
pub(in super::super) struct VectorOperands {
    /// A query, scaled.
    query: Vec<f32>,
    /// `[rows][runs of dimensions][even, odd][HALF]`
    queries: Vec<f32>,
    /// One head's part of a block: `[runs of dimensions][even, odd][HALF][BLOCK_TOKENS]`.
    keys: Vec<f32>,
    /// `[PART_ROWS][SEGMENT]`
    scores: Vec<f32>,
    /// `[PART_ROWS][RUNS][even, odd][HALF]`
    numerators: Vec<f32>,
    /// A segment's: `[RUNS][even, odd][HALF][width]`.
    values: Vec<f32>,
}

impl VectorOperands {
    /// Rounds a tile's queries.
    pub(super) fn load(&mut self, isa: Isa, tile: &QueryTile<'_>, qkv: &[f32]) {
        let head_dim = tile.layer.shape.head_dim;
        let width = head_dim.next_multiple_of(RUN);
        let query = sized(&mut self.query, head_dim);
        let queries = sized(&mut self.queries, tile.rows * width);
        for (row, out) in queries.chunks_exact_mut(width).enumerate() {
            tile.query(isa, qkv, row, scale(tile), query);
            part_row(isa, query, out);
        }
    }

    pub(super) fn attend(
        &mut self,
        isa: Isa,
        tile: &QueryTile<'_>,
        cache: &LayerCache,
        segment: usize,
        results: &mut Softmax<'_>,
    ) {
        self.load_values(isa, tile, cache, segment);
        for part in parts(tile, segment) {
            self.multiply_keys(isa, &part, cache);
            self.take_powers(isa, &part, results);
            self.multiply_values(isa, &part, results);
        }
    }

    fn load_values(&mut self, isa: Isa, tile: &QueryTile<'_>, cache: &LayerCache, segment: usize) {
        let head_dim = tile.layer.shape.head_dim;
        let width = head_dim.next_multiple_of(RUN);
        let seen = tile.seen_by(0..tile.rows, segment);
        let values = sized(&mut self.values, SEGMENT * width);
        for column in seen.start / RUN * RUN..seen.end.next_multiple_of(RUN) {
            let (run, within) = (column / RUN, column % RUN);
            let out = &mut values[((run * 2 + within % 2) * HALF + within / 2) * width..][..width];
            // Blocks before the first token that is seen may be gone, and tokens behind the last may be anything.
            if column < seen.start / BLOCK_TOKENS * BLOCK_TOKENS || column >= seen.end {
                out.fill(0.0);
                continue;
            }
            let (_, values) = cache.rounded(tile.place(segment * SEGMENT + column));
            let token = &values[column % BLOCK_TOKENS * head_dim..][..head_dim];
            expand_bf16(isa, token, &mut out[..head_dim]);
            out[head_dim..].fill(0.0);
        }
    }

    fn multiply_keys(&mut self, isa: Isa, part: &Part<'_>, cache: &LayerCache) {
        let Part {
            tile,
            segment,
            rows,
            seen,
            ..
        } = part;
        let width = tile.layer.shape.head_dim.next_multiple_of(RUN);
        let scores = sized(&mut self.scores, PART_ROWS * SEGMENT);
        let expanded = sized(&mut self.keys, width * BLOCK_TOKENS);
        for column in (seen.start / BLOCK_TOKENS * BLOCK_TOKENS..seen.end.next_multiple_of(BLOCK_TOKENS))
            .step_by(BLOCK_TOKENS)
        {
            let (keys, _) = cache.rounded(tile.place(*segment * SEGMENT + column));
            part_pairs(isa, keys, expanded);
            for (index, w) in expanded.chunks_exact(RUN * BLOCK_TOKENS).enumerate() {
                for row in (0..rows.len()).step_by(NARROW_ROWS) {
                    let operands = RunTile {
                        a: self.queries[(rows.start + row) * width + index * RUN..].as_ptr(),
                        a_stride: width,
                        w: w.as_ptr(),
                        w_stride: BLOCK_TOKENS,
                    };
                    let c = Target {
                        at: scores[row * SEGMENT + column..].as_mut_ptr(),
                        stride: SEGMENT,
                        output: if index == 0 { Output::Replace } else { Output::Add },
                    };
                    // SAFETY: so many queries, a whole key block, and score rows of which `column` begins a block.
                    unsafe { run_product(isa, (NARROW_ROWS.min(rows.len() - row), 1), &operands, c) };
                }
            }
        }
    }

    fn take_powers(&mut self, isa: Isa, part: &Part<'_>, results: &mut Softmax<'_>) {
        let Part {
            tile,
            segment,
            rows,
            runs,
            ..
        } = part;
        let numerators = sized(&mut self.numerators, PART_ROWS * SEGMENT);
        let scores = self.scores.chunks_exact_mut(SEGMENT);
        for ((row, scores), numerators) in rows.clone().zip(scores).zip(numerators.chunks_exact_mut(SEGMENT))
        {
            let columns = runs.start * RUN..runs.end * RUN;
            let Some(seen) = tile.seen(row, *segment) else {
                numerators[columns].fill(0.0);
                continue;
            };
            cap(isa, tile, &mut scores[seen.clone()]);
            // What is not seen has no share in softmax.
            scores[columns.start..seen.start].fill(f32::NEG_INFINITY);
            scores[seen.end..columns.end].fill(f32::NEG_INFINITY);
            let scores = &mut scores[columns.clone()];
            let mut total_and_top = [0.0; 2];
            powers(isa, scores, &mut total_and_top);
            part_row(isa, scores, &mut numerators[columns]);
            [results.totals[row], results.tops[row]] = total_and_top;
        }
    }

    fn multiply_values(&mut self, isa: Isa, part: &Part<'_>, results: &mut Softmax<'_>) {
        let Part { tile, rows, runs, .. } = part;
        let width = tile.layer.shape.head_dim.next_multiple_of(RUN);
        for run in runs.clone() {
            let values = &self.values[run * RUN * width..][..RUN * width];
            for column in (0..width).step_by(4 * LANES) {
                let vectors = 4.min((width - column) / LANES);
                for row in (0..rows.len()).step_by(WIDE_ROWS) {
                    let operands = RunTile {
                        a: self.numerators[row * SEGMENT + run * RUN..].as_ptr(),
                        a_stride: SEGMENT,
                        w: values[column..].as_ptr(),
                        w_stride: width,
                    };
                    let c = Target {
                        at: results.sums[(rows.start + row) * width + column..].as_mut_ptr(),
                        stride: width,
                        output: if run == runs.start {
                            Output::Replace
                        } else {
                            Output::Add
                        },
                    };
                    // SAFETY: numerators hold this run, its values `width` dimensions, and `sums` has so many rows.
                    unsafe { run_product(isa, (WIDE_ROWS.min(rows.len() - row), vectors), &operands, c) };
                }
            }
        }
    }
}

per_isa! {
    /// Pairs of dimensions, `[pairs][BLOCK_TOKENS]`, to f32, of each run the even ones and then the odd ones.
    fn part_pairs(isa; pairs: &[u32], out: &mut [f32]) {
        let runs = pairs.chunks_exact(HALF * BLOCK_TOKENS);
        for (pairs, out) in runs.zip(out.chunks_exact_mut(RUN * BLOCK_TOKENS)) {
            let (even, odd) = out.split_at_mut(HALF * BLOCK_TOKENS);
            for ((pair, even), odd) in pairs.iter().zip(even).zip(odd) {
                *even = f32::from_bits(pair << 16);
                *odd = f32::from_bits(pair & 0xffff_0000);
            }
        }
    }
}

per_isa! {
    /// Powers of 2 in place of scores, each divided by that of the largest; their sum, and the largest score. Whole
    /// vectors.
    pub(super) fn powers(isa; scores: &mut [f32], total_and_top: &mut [f32; 2]) {
        let larger = |top: &mut f32, score: f32| *top = if score > *top { score } else { *top };
        let mut tops = [f32::NEG_INFINITY; LANES];
        let (chunks, _) = scores.as_chunks_mut::<LANES>();
        for chunk in &*chunks {
            for lane in 0..LANES {
                larger(&mut tops[lane], chunk[lane]);
            }
        }
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                let other = tops[lane + width];
                larger(&mut tops[lane], other);
            }
            width /= 2;
        }
        let mut lanes = [0f32; LANES];
        for chunk in chunks {
            for lane in 0..LANES {
                chunk[lane] = exp2(chunk[lane] - tops[0]);
                lanes[lane] += chunk[lane];
            }
        }
        *total_and_top = [add_lanes(lanes), tops[0]];
    }
}
