//! Bidirectional attention of whole sequences: every row sees all rows of its own sequence, and no other's. There is
//! no cache and no padding; a batch is the sequences' rows one after the other.
//!
//! A row's scores, their softmax and the sum over values run in an order that its sequence alone decides: alone and
//! in a batch, on every instruction set, the same bits.

use std::{cell::RefCell, ops::Range};

use super::{
    Isa, Output, ThreadPool,
    buffers::sized,
    elementwise::softmax_numerators,
    micro::{self, LANES, Tile, WIDE_ROWS},
    pool::Shards,
};

/// Vectors of the widest tile.
const TILE_VECTORS: usize = 4;

/// Sizes of an encoder's attention.
#[derive(Debug, Clone, Copy)]
pub struct DenseAttention {
    /// Heads of queries, keys and values.
    pub heads: usize,
    /// Dimensions of a head; a multiple of 16.
    pub head_dim: usize,
    /// What products of queries and keys are multiplied with.
    pub scale: f32,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A worker's buffers; they grow to the longest sequence and stay.
#[derive(Default)]
struct Scratch {
    /// A head's keys, `[head_dim][columns]`.
    keys: Vec<f32>,
    /// Scores of some rows, `[WIDE_ROWS][columns]`.
    scores: Vec<f32>,
}

impl DenseAttention {
    /// Attention of every span's rows over the span. `qkv` is `[rows, q | k | v]`, `out` is
    /// `[rows, heads * head_dim]`; spans do not overlap.
    ///
    /// # Panics
    /// When the sizes do not fit together, a span ends behind the rows, or two spans overlap.
    pub fn run(self, pool: &mut ThreadPool, isa: Isa, qkv: &[f32], spans: &[Range<usize>], out: &mut [f32]) {
        let width = self.heads * self.head_dim;
        assert!(self.head_dim > 0 && self.head_dim.is_multiple_of(LANES) && self.heads > 0);
        let rows = out.len() / width;
        assert!(out.len() == rows * width && qkv.len() == 3 * out.len());
        let mut end = 0;
        for span in spans {
            assert!(end <= span.start && span.start <= span.end && span.end <= rows);
            end = span.end;
        }
        let shards = Shards::new(out);
        pool.run(spans.len() * self.heads, &|task| {
            let (span, head) = (&spans[task / self.heads], task % self.heads);
            if !span.is_empty() {
                SCRATCH.with_borrow_mut(|scratch| self.head(isa, qkv, (span, head), scratch, &shards));
            }
        });
    }

    /// One head of one sequence.
    fn head(
        self,
        isa: Isa,
        qkv: &[f32],
        (span, head): (&Range<usize>, usize),
        scratch: &mut Scratch,
        out: &Shards<'_, f32>,
    ) {
        let (dim, width) = (self.head_dim, self.heads * self.head_dim);
        let (stride, count) = (3 * width, span.len());
        let columns = count.next_multiple_of(LANES);
        let qkv = &qkv[span.start * stride..span.end * stride];
        let keys = sized(&mut scratch.keys, dim * columns);
        for (k, row) in qkv.chunks_exact(stride).enumerate() {
            for (d, key) in row[width + head * dim..][..dim].iter().enumerate() {
                keys[d * columns + k] = *key;
            }
        }
        for row in keys.chunks_exact_mut(columns) {
            row[count..].fill(0.0);
        }
        let scores = sized(&mut scratch.scores, WIDE_ROWS * columns);
        for first in (0..count).step_by(WIDE_ROWS) {
            let rows = WIDE_ROWS.min(count - first);
            for (column, vectors) in tiles(columns) {
                let tile = Tile {
                    a: qkv[first * stride + head * dim..].as_ptr(),
                    a_stride: stride,
                    w: keys[column..].as_ptr(),
                    w_stride: columns,
                    c: scores[column..].as_mut_ptr(),
                    c_stride: columns,
                    output: Output::Replace,
                    k: dim,
                };
                // SAFETY: `rows` rows of `dim` queries lie in `qkv`; `keys` has `dim` rows of `columns` and `scores`
                // WIDE_ROWS of them, and the tile ends with the columns.
                unsafe { micro::run(isa, rows, vectors, &tile) };
            }
            let mut totals = [0.0; WIDE_ROWS];
            for (row, total) in scores.chunks_exact_mut(columns).take(rows).zip(&mut totals) {
                row[..count].iter_mut().for_each(|score| *score *= self.scale);
                let mut total_and_top = [0.0; 2];
                softmax_numerators(isa, &mut row[..count], &mut total_and_top);
                *total = total_and_top[0];
            }
            let place = |row: usize| (span.start + first + row) * width + head * dim;
            for (column, vectors) in tiles(dim) {
                let tile = Tile {
                    a: scores.as_ptr(),
                    a_stride: columns,
                    w: qkv[2 * width + head * dim + column..].as_ptr(),
                    w_stride: stride,
                    c: out.pointer(place(0) + column),
                    c_stride: width,
                    output: Output::Replace,
                    k: count,
                };
                // SAFETY: each of the `count` rows of `qkv` has `dim` values from there on, `scores` has `rows` rows
                // of `count`; this head's outputs of these rows are this task's own, and lie inside of `out`.
                unsafe { micro::run(isa, rows, vectors, &tile) };
            }
            for (row, total) in totals[..rows].iter().enumerate() {
                // SAFETY: this head's outputs of this row are this task's own.
                let out = unsafe { out.part(place(row), dim) };
                out.iter_mut().for_each(|value| *value /= total);
            }
        }
    }
}

/// First columns and vectors of the tiles that cover `columns`, a multiple of [`LANES`].
fn tiles(columns: usize) -> impl Iterator<Item = (usize, usize)> {
    let step = TILE_VECTORS * LANES;
    (0..columns)
        .step_by(step)
        .map(move |first| (first, step.min(columns - first) / LANES))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::COARSER;

    fn noise(len: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2) | 1;
        (0..len)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                ((state >> 40) as f32 / (1u64 << 23) as f32) - 1.0
            })
            .collect()
    }

    /// One head of one row, from the definition and in f64.
    fn textbook(layer: DenseAttention, qkv: &[f32], row: usize, head: usize) -> Vec<f64> {
        let (dim, width) = (layer.head_dim, layer.heads * layer.head_dim);
        let part = |row: usize, which: usize| &qkv[row * 3 * width + which * width + head * dim..][..dim];
        let rows = qkv.len() / (3 * width);
        let product = |k: usize| {
            let pairs = part(row, 0).iter().zip(part(k, 1));
            pairs.map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>() * f64::from(layer.scale)
        };
        let weights: Vec<f64> = (0..rows).map(|k| product(k).exp()).collect();
        let total: f64 = weights.iter().sum();
        (0..dim)
            .map(|d| {
                let sum = (0..rows).map(|k| weights[k] * f64::from(part(k, 2)[d]));
                sum.sum::<f64>() / total
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24 / COARSER.min(12) as u32))]
        #[test]
        fn equals_the_textbook_and_is_the_same_alone_and_in_company(
            lens in prop::collection::vec(1usize..if cfg!(miri) { 20 } else { 90 }, 1..4), heads in 1usize..4,
            dims in 1usize..if cfg!(miri) { 2 } else { 9 }, threads in 1usize..4, seed: u64,
        ) {
            let layer = DenseAttention { heads, head_dim: dims * 16, scale: 0.4 };
            let width = heads * layer.head_dim;
            let rows = lens.iter().sum::<usize>();
            let qkv = noise(rows * 3 * width, seed);
            let mut pool = ThreadPool::new(threads).unwrap();
            let mut spans = Vec::new();
            let mut start = 0;
            for len in &lens {
                spans.push(start..start + len);
                start += len;
            }
            let mut company = vec![f32::NAN; rows * width];
            layer.run(&mut pool, Isa::detect(), &qkv, &spans, &mut company);
            for span in &spans {
                let own = &qkv[span.start * 3 * width..span.end * 3 * width];
                let company = &company[span.start * width..span.end * width];
                for isa in Isa::available() {
                    let mut alone = vec![f32::NAN; own.len() / 3];
                    layer.run(&mut pool, isa, own, std::slice::from_ref(&(0..span.len())), &mut alone);
                    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                    prop_assert!(bits(&alone) == bits(company));
                }
                for (row, head) in [(0, 0), (span.len() - 1, heads - 1)] {
                    let found = &company[row * width + head * layer.head_dim..][..layer.head_dim];
                    for (found, expected) in found.iter().zip(textbook(layer, own, row, head)) {
                        prop_assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
                    }
                }
            }
        }
    }
}
