//! Attention of whole sequences: every query sees all keys of its own sequence, and no other's. There is no cache and no
//! padding; a batch is the sequences' rows one after the other.
//!
//! A row's scores, their softmax and the sum over values run in an order that its sequence alone decides: alone and
//! in a batch, on every instruction set, the same bits.

use std::{cell::RefCell, ops::Range};

use super::{
    Isa, Output, ThreadPool,
    buffers::sized,
    elementwise::softmax_numerators,
    micro::{self, LANES, Tile, WIDE_ROWS},
    pool::DisjointSlices,
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

/// The rows of queries, keys or values: `[rows, stride]`, in which the heads begin at `first`.
#[derive(Debug, Clone, Copy)]
pub struct HeadRows<'a> {
    /// All rows.
    pub values: &'a [f32],
    /// From one row to the next.
    pub stride: usize,
    /// From a row's beginning to its heads.
    pub first: usize,
}

/// The rows of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DenseSpan {
    /// Those that attend.
    pub queries: Range<usize>,
    /// Those that they attend to, keys and values.
    pub keys: Range<usize>,
}

/// What is added to the product of a query and a key for their places in the sequence (arXiv 1910.10683, section 2.1).
#[derive(Debug, Clone, Copy)]
pub struct DistanceBias<'a> {
    /// For each head the distances from a query to a key, from `1 - reach` to `reach - 1`: `[heads, 2 * reach - 1]`.
    pub values: &'a [f32],
    /// Longest sequence.
    pub reach: usize,
}

/// What attention reads.
#[derive(Debug, Clone, Copy)]
pub struct DenseInput<'a> {
    /// Of the rows that attend.
    pub queries: HeadRows<'a>,
    /// Of the rows that they attend to.
    pub keys: HeadRows<'a>,
    /// Of the same rows.
    pub values: HeadRows<'a>,
    /// The sequences, by their queries; these do not overlap.
    pub spans: &'a [DenseSpan],
    /// Added where there is one.
    pub bias: Option<DistanceBias<'a>>,
}

impl<'a> DenseInput<'a> {
    /// Rows of `[q | k | v]`.
    pub fn of_qkv(
        layer: DenseAttention,
        qkv: &'a [f32],
        spans: &'a [DenseSpan],
        bias: Option<DistanceBias<'a>>,
    ) -> Self {
        let width = layer.heads * layer.head_dim;
        let part = |which| HeadRows {
            values: qkv,
            stride: 3 * width,
            first: which * width,
        };
        Self {
            queries: part(0),
            keys: part(1),
            values: part(2),
            spans,
            bias,
        }
    }
}

impl HeadRows<'_> {
    /// Whether rows up to `rows` have heads of `width` in all.
    fn hold(&self, rows: usize, width: usize) -> bool {
        self.first + width <= self.stride && rows * self.stride <= self.values.len()
    }

    /// The values from a column of a row's heads on.
    fn from(&self, row: usize, column: usize) -> &[f32] {
        &self.values[row * self.stride + self.first + column..]
    }
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
        assert!(qkv.len() == 3 * out.len());
        let itself = |span: &Range<usize>| DenseSpan {
            queries: span.clone(),
            keys: span.clone(),
        };
        let spans: Vec<_> = spans.iter().map(itself).collect();
        self.run_on(pool, isa, &DenseInput::of_qkv(self, qkv, &spans, None), out);
    }

    /// Attention of every span's queries over its keys, into `out`, `[queries, heads * head_dim]`.
    ///
    /// # Panics
    /// When the sizes do not fit together, a span ends behind the rows, the queries of two overlap, or one that a bias
    /// belongs to is longer than its reach.
    pub fn run_on(self, pool: &mut ThreadPool, isa: Isa, input: &DenseInput<'_>, out: &mut [f32]) {
        let width = self.heads * self.head_dim;
        assert!(self.head_dim > 0 && self.head_dim.is_multiple_of(LANES) && self.heads > 0);
        let rows = out.len() / width;
        assert!(out.len() == rows * width);
        let (mut end, mut keys) = (0, 0);
        for span in input.spans {
            let queries = &span.queries;
            assert!(end <= queries.start && queries.start <= queries.end && queries.end <= rows);
            assert!(span.keys.start < span.keys.end || queries.is_empty());
            (end, keys) = (queries.end, keys.max(span.keys.end));
            if let Some(bias) = input.bias {
                assert!(bias.values.len() == self.heads * (2 * bias.reach - 1));
                assert!(queries.len().max(span.keys.len()) <= bias.reach);
            }
        }
        assert!(input.queries.hold(end, width));
        assert!(input.keys.hold(keys, width) && input.values.hold(keys, width));
        let slices = DisjointSlices::new(out);
        pool.run(input.spans.len() * self.heads, &|task| {
            let (span, head) = (&input.spans[task / self.heads], task % self.heads);
            if !span.queries.is_empty() {
                SCRATCH.with_borrow_mut(|scratch| self.head(isa, input, (span, head), scratch, &slices));
            }
        });
    }

    /// One head of one sequence.
    fn head(
        self,
        isa: Isa,
        input: &DenseInput<'_>,
        (span, head): (&DenseSpan, usize),
        scratch: &mut Scratch,
        out: &DisjointSlices<'_, f32>,
    ) {
        let (dim, width) = (self.head_dim, self.heads * self.head_dim);
        let count = span.keys.len();
        let columns = count.next_multiple_of(LANES);
        let keys = sized(&mut scratch.keys, dim * columns);
        for (k, row) in span.keys.clone().enumerate() {
            for (d, key) in input.keys.from(row, head * dim)[..dim].iter().enumerate() {
                keys[d * columns + k] = *key;
            }
        }
        for row in keys.chunks_exact_mut(columns) {
            row[count..].fill(0.0);
        }
        let scores = sized(&mut scratch.scores, WIDE_ROWS * columns);
        for first in (0..span.queries.len()).step_by(WIDE_ROWS) {
            let rows = WIDE_ROWS.min(span.queries.len() - first);
            for (column, vectors) in tiles(columns) {
                let tile = Tile {
                    a: input
                        .queries
                        .from(span.queries.start + first, head * dim)
                        .as_ptr(),
                    a_stride: input.queries.stride,
                    w: keys[column..].as_ptr(),
                    w_stride: columns,
                    c: scores[column..].as_mut_ptr(),
                    c_stride: columns,
                    output: Output::Replace,
                    k: dim,
                };
                // SAFETY: `rows` rows of `dim` queries lie in the input, which `run_on` has checked; `keys` has `dim`
                // rows of `columns` and `scores` WIDE_ROWS of them, and the tile ends with the columns.
                unsafe { micro::run(isa, rows, vectors, &tile) };
            }
            let mut totals = [0.0; WIDE_ROWS];
            let rows_of_scores = scores.chunks_exact_mut(columns).take(rows);
            for (place, (row, total)) in (first..).zip(rows_of_scores.zip(&mut totals)) {
                let row = &mut row[..count];
                row.iter_mut().for_each(|score| *score *= self.scale);
                if let Some(bias) = input.bias {
                    let biases = &bias.values[head * (2 * bias.reach - 1) + bias.reach - 1 - place..];
                    row.iter_mut()
                        .zip(biases)
                        .for_each(|(score, bias)| *score += bias);
                }
                let mut total_and_top = [0.0; 2];
                softmax_numerators(isa, row, &mut total_and_top);
                *total = total_and_top[0];
            }
            let place = |row: usize| (span.queries.start + first + row) * width + head * dim;
            for (column, vectors) in tiles(dim) {
                let tile = Tile {
                    a: scores.as_ptr(),
                    a_stride: columns,
                    w: input.values.from(span.keys.start, head * dim + column).as_ptr(),
                    w_stride: input.values.stride,
                    c: out.pointer(place(0) + column),
                    c_stride: width,
                    output: Output::Replace,
                    k: count,
                };
                // SAFETY: each of the `count` rows of values has `dim` from there on, which `run_on` has checked,
                // `scores` has `rows` rows of `count`; this head's outputs of these rows are this task's own, and lie
                // inside of `out`.
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
    use crate::backend::cpu::kernels::{COARSER, noise};

    /// One head of one query of the only sequence, from the definition and in f64.
    fn textbook(layer: DenseAttention, input: &DenseInput<'_>, row: usize, head: usize) -> Vec<f64> {
        let dim = layer.head_dim;
        let part = |rows: HeadRows<'_>, row: usize| rows.from(row, head * dim)[..dim].to_vec();
        let span = &input.spans[0];
        let (query, count) = (part(input.queries, row), span.keys.len());
        let score = |k: usize| {
            let key = part(input.keys, k);
            let pairs = query.iter().zip(&key);
            let product = pairs.map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>();
            let bias = input.bias.map_or(0.0, |bias| {
                let middle = head * (2 * bias.reach - 1) + bias.reach - 1;
                bias.values[middle + k - row]
            });
            product * f64::from(layer.scale) + f64::from(bias)
        };
        let weights: Vec<f64> = (0..count).map(|k| score(k).exp()).collect();
        let total: f64 = weights.iter().sum();
        (0..dim)
            .map(|d| {
                let sum = (0..count).map(|k| weights[k] * f64::from(part(input.values, k)[d]));
                sum.sum::<f64>() / total
            })
            .collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| v.to_bits()).collect()
    }

    fn assert_is_textbook(layer: DenseAttention, input: &DenseInput<'_>, out: &[f32]) {
        let width = layer.heads * layer.head_dim;
        let last = input.spans[0].queries.end - 1;
        for (row, head) in [(0, 0), (last, layer.heads - 1)] {
            let found = &out[row * width + head * layer.head_dim..][..layer.head_dim];
            for (found, expected) in found.iter().zip(textbook(layer, input, row, head)) {
                assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }

    /// Neighbouring ranges of these lengths.
    fn ranges(lens: &[usize]) -> Vec<Range<usize>> {
        let mut start = 0;
        let mut next = |len: &usize| {
            start += len;
            start - len..start
        };
        lens.iter().map(&mut next).collect()
    }

    /// Queries of their own, and rows of `[k | v]`.
    fn across<'a>(
        layer: DenseAttention,
        q: &'a [f32],
        kv: &'a [f32],
        spans: &'a [DenseSpan],
    ) -> DenseInput<'a> {
        let width = layer.heads * layer.head_dim;
        let rows = |values, parts, which| HeadRows {
            values,
            stride: parts * width,
            first: which * width,
        };
        DenseInput {
            queries: rows(q, 1, 0),
            keys: rows(kv, 2, 0),
            values: rows(kv, 2, 1),
            spans,
            bias: None,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24 / COARSER.min(12) as u32))]
        #[test]
        fn equals_the_textbook_and_is_the_same_alone_and_in_company(
            lens in prop::collection::vec(1usize..if cfg!(miri) { 20 } else { 90 }, 1..4), heads in 1usize..4,
            dims in 1usize..if cfg!(miri) { 2 } else { 9 }, threads in 1usize..4, biased: bool, seed: u64,
        ) {
            let layer = DenseAttention { heads, head_dim: dims * 16, scale: 0.4 };
            let width = heads * layer.head_dim;
            let rows = lens.iter().sum::<usize>();
            let qkv = noise(rows * 3 * width, seed);
            let reach = 90;
            let values = noise(heads * (2 * reach - 1), seed ^ 1);
            let bias = biased.then_some(DistanceBias { values: &values, reach });
            let mut pool = ThreadPool::new(threads).unwrap();
            let itself = |span: Range<usize>| DenseSpan { queries: span.clone(), keys: span };
            let spans: Vec<_> = ranges(&lens).into_iter().map(itself).collect();
            let mut company = vec![f32::NAN; rows * width];
            let input = DenseInput::of_qkv(layer, &qkv, &spans, bias);
            layer.run_on(&mut pool, Isa::detect(), &input, &mut company);
            for DenseSpan { keys: span, .. } in &spans {
                let own = &qkv[span.start * 3 * width..span.end * 3 * width];
                let company = &company[span.start * width..span.end * width];
                let only = [itself(0..span.len())];
                let input = DenseInput::of_qkv(layer, own, &only, bias);
                for isa in Isa::available() {
                    let mut alone = vec![f32::NAN; own.len() / 3];
                    layer.run_on(&mut pool, isa, &input, &mut alone);
                    prop_assert!(bits(&alone) == bits(company));
                }
                assert_is_textbook(layer, &input, company);
            }
            if !biased {
                let mut short = vec![f32::NAN; rows * width];
                layer.run(&mut pool, Isa::detect(), &qkv, &ranges(&lens), &mut short);
                prop_assert!(bits(&short) == bits(&company));
            }
        }

        #[test]
        fn queries_of_another_sequence_attend_as_the_textbook_says(
            lens in prop::collection::vec((1usize..9, 1usize..if cfg!(miri) { 20 } else { 90 }), 1..4),
            heads in 1usize..4, threads in 1usize..4, seed: u64,
        ) {
            let layer = DenseAttention { heads, head_dim: 16, scale: 1.0 };
            let width = heads * layer.head_dim;
            let (queries, keys): (Vec<_>, Vec<_>) = lens.into_iter().unzip();
            let spans = ranges(&queries).into_iter().zip(ranges(&keys));
            let spans: Vec<_> = spans.map(|(queries, keys)| DenseSpan { queries, keys }).collect();
            let q = noise(queries.iter().sum::<usize>() * width, seed);
            let kv = noise(keys.iter().sum::<usize>() * 2 * width, seed ^ 1);
            let mut pool = ThreadPool::new(threads).unwrap();
            let mut company = vec![f32::NAN; q.len()];
            layer.run_on(&mut pool, Isa::detect(), &across(layer, &q, &kv, &spans), &mut company);
            for span in &spans {
                let own_q = &q[span.queries.start * width..span.queries.end * width];
                let own_kv = &kv[span.keys.start * 2 * width..span.keys.end * 2 * width];
                let only = [DenseSpan { queries: 0..span.queries.len(), keys: 0..span.keys.len() }];
                let input = across(layer, own_q, own_kv, &only);
                let company = &company[span.queries.start * width..span.queries.end * width];
                for isa in Isa::available() {
                    let mut alone = vec![f32::NAN; own_q.len()];
                    layer.run_on(&mut pool, isa, &input, &mut alone);
                    prop_assert!(bits(&alone) == bits(company));
                }
                assert_is_textbook(layer, &input, company);
            }
        }
    }
}
