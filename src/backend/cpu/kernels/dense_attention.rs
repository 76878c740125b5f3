//! Attention of encoders, over whole sequences: every query attends to all keys of its own sequence and to no others.
//! There is no cache and no padding; a batch is the sequences' rows one after the other.
//!
//! A row's scores, their softmax and the sum over values are computed in an order that depends on its sequence alone.
//! So a sequence gets the same bits alone and in a batch, and on every instruction set.

use std::{cell::RefCell, ops::Range};

use super::{
    buffers::scratch_slice,
    compute::Compute,
    disjoint::DisjointSlices,
    elementwise::{ScoreSums, softmax_numerators},
    isa::Isa,
    micro::{self, LANES, MOST_VECTORS, Tile, TileSize, WIDE_ROWS},
    output::Output,
};

/// Sizes of an encoder's attention.
#[derive(Debug, Clone, Copy)]
pub struct DenseAttention {
    /// Number of heads of queries, keys and values.
    pub heads: usize,
    /// Dimensions of a head; a multiple of 16.
    pub head_dim: usize,
    /// Factor of the products of queries and keys.
    pub scale: f32,
}

/// Rows of queries, keys or values: `[rows, stride]`, where a row's heads begin at `first`.
#[derive(Debug, Clone, Copy)]
pub struct HeadRows<'a> {
    /// All rows, one after the other.
    pub values: &'a [f32],
    /// Elements from one row to the next.
    pub stride: usize,
    /// Elements from a row's beginning to its heads.
    pub first: usize,
}

/// The rows of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DenseSpan {
    /// Indices of the rows that attend.
    pub queries: Range<usize>,
    /// Indices of the rows of keys and values that they attend to.
    pub keys: Range<usize>,
}

/// A bias that is added to the score of a query and a key, by their distance in the sequence (arXiv 1910.10683,
/// section 2.1).
#[derive(Debug, Clone, Copy)]
pub struct DistanceBias<'a> {
    /// For each head a bias for each distance from a query to a key, from `1 - reach` to `reach - 1`:
    /// `[heads, 2 * reach - 1]`.
    pub values: &'a [f32],
    /// Rows of the longest sequence that the bias covers.
    pub reach: usize,
}

/// The two terms that disentangled attention adds to the product of a query and a key (arXiv 2006.03654, equation 4): the
/// query's product with the key of their distance, and the key's with the query of their distance.
#[derive(Debug, Clone, Copy)]
pub struct PositionTerms<'a> {
    /// The keys of the distances, `[heads, head_dim, columns]`.
    pub keys: &'a [f32],
    /// The queries of the distances, `[heads, head_dim, columns]`.
    pub queries: &'a [f32],
    /// Keys and queries of distances, a multiple of 16. Those that no distance has do not matter.
    pub columns: usize,
    /// The column of each distance from a query to a key, from `1 - reach` to `reach - 1`.
    pub column_of: &'a [usize],
    /// Rows of the longest sequence that the terms cover.
    pub reach: usize,
}

/// What is added to the scores of queries and keys by their places.
#[derive(Debug, Clone, Copy)]
pub enum ScoreBias<'a> {
    /// A number for each distance, which is not scaled.
    Distance(DistanceBias<'a>),
    /// Products with the keys and queries of distances, which are scaled as those of queries and keys are.
    Positions(PositionTerms<'a>),
}

impl ScoreBias<'_> {
    /// Rows of the longest sequence that is covered.
    fn reach(&self) -> usize {
        match self {
            Self::Distance(bias) => bias.reach,
            Self::Positions(terms) => terms.reach,
        }
    }

    /// # Panics
    /// When the sizes do not fit this attention.
    fn check(&self, layer: DenseAttention) {
        let distances = 2 * self.reach() - 1;
        match self {
            Self::Distance(bias) => assert!(bias.values.len() == layer.heads * distances),
            Self::Positions(terms) => {
                let width = layer.heads * layer.head_dim;
                assert!(terms.columns.is_multiple_of(LANES));
                assert!(terms.keys.len() == width * terms.columns);
                assert!(terms.queries.len() == width * terms.columns);
                assert!(terms.column_of.len() == distances);
                assert!(terms.column_of.iter().all(|column| *column < terms.columns));
            }
        }
    }
}

impl<'a> PositionTerms<'a> {
    /// One head's part of the keys or queries, `[head_dim, columns]`.
    fn of_head(&self, values: &'a [f32], head: usize, head_dim: usize) -> &'a [f32] {
        let size = head_dim * self.columns;
        &values[head * size..][..size]
    }

    /// The columns for a query's distances to the keys of its sequence, from the first key on.
    fn columns_from(&self, query: usize) -> &'a [usize] {
        &self.column_of[self.reach - 1 - query..]
    }
}

/// What attention reads.
///
/// Queries and keys may come from different rows, as they do where a decoder attends to an encoder's outputs.
#[derive(Debug, Clone, Copy)]
pub struct DenseInput<'a> {
    /// Queries of the rows that attend.
    pub queries: HeadRows<'a>,
    /// Keys of the rows that they attend to.
    pub keys: HeadRows<'a>,
    /// Values of the rows that they attend to.
    pub values: HeadRows<'a>,
    /// The sequences, ascending by their queries, which do not overlap.
    pub spans: &'a [DenseSpan],
    /// What is added to the scores, where the model adds anything.
    pub bias: Option<ScoreBias<'a>>,
}

impl<'a> DenseInput<'a> {
    /// Queries, keys and values that lie side by side in each row, `[q | k | v]`.
    pub fn of_qkv(
        layer: DenseAttention,
        qkv: &'a [f32],
        spans: &'a [DenseSpan],
        bias: Option<ScoreBias<'a>>,
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
    /// Whether there are `rows` rows, each with heads of `width` elements in all.
    fn hold(&self, rows: usize, width: usize) -> bool {
        self.first + width <= self.stride && rows * self.stride <= self.values.len()
    }

    /// All elements from element `column` of a row's heads on.
    fn elements_from(&self, row: usize, column: usize) -> &[f32] {
        &self.values[row * self.stride + self.first + column..]
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A worker's buffers; they grow to the longest sequence and stay.
#[derive(Default)]
struct Scratch {
    /// A head's keys, transposed: `[head_dim][columns]`.
    keys: Vec<f32>,
    /// Scores of some query rows, `[WIDE_ROWS][columns]`.
    scores: Vec<f32>,
    /// Products of some query rows with the keys of distances, `[WIDE_ROWS][columns of distances]`.
    of_queries: Vec<f32>,
    /// Products of all keys with the queries of distances, `[keys][columns of distances]`.
    of_keys: Vec<f32>,
}

/// Computes `out = rows · w`, `[rows, columns]`, of at most [`WIDE_ROWS`] rows' elements from `column` on and
/// `w`, `[dim][columns]`, whose columns are whole vectors.
///
/// # Panics
/// When the sizes do not fit together.
fn products(isa: Isa, input: HeadRows<'_>, rows: Range<usize>, part: HeadPart, w: &[f32], out: &mut [f32]) {
    let HeadPart { column, dim } = part;
    if rows.is_empty() {
        return;
    }
    let columns = w.len() / dim;
    assert!(columns.is_multiple_of(LANES) && w.len() == dim * columns);
    assert!(rows.len() <= WIDE_ROWS && out.len() >= rows.len() * columns);
    assert!(input.hold(rows.end, column + dim));
    for TileColumns { first, vectors } in tiles(columns) {
        let tile = Tile {
            a: input.elements_from(rows.start, column).as_ptr(),
            a_stride: input.stride,
            w: w[first..].as_ptr(),
            w_stride: columns,
            c: out[first..].as_mut_ptr(),
            c_stride: columns,
            output: Output::Replace,
            k: dim,
        };
        let size = TileSize {
            rows: rows.len(),
            vectors,
        };
        // SAFETY: the rows have `dim` elements from `column` on, `stride` apart, `w` is `[dim][columns]`, and `out` has room
        // for `[rows][columns]`: all of it was asserted. The tile ends within the columns, which are whole vectors. `out` is
        // borrowed exclusively and overlaps neither.
        unsafe { micro::run(isa, size, &tile) };
    }
}

/// A head's elements of a row.
#[derive(Clone, Copy)]
struct HeadPart {
    /// The first of them, among all heads'.
    column: usize,
    /// Their number.
    dim: usize,
}

impl DenseAttention {
    /// Attention of each span's rows over the span itself. `qkv` is `[rows, q | k | v]`, `out` is
    /// `[rows, heads * head_dim]`; spans do not overlap.
    ///
    /// # Panics
    /// When the sizes do not fit together, a span ends behind the rows, two spans overlap, or there is a bias and a span is
    /// longer than its reach.
    pub fn run(
        self,
        compute: &mut Compute,
        qkv: &[f32],
        spans: &[Range<usize>],
        bias: Option<ScoreBias<'_>>,
        out: &mut [f32],
    ) {
        assert!(qkv.len() == 3 * out.len());
        let itself = |span: &Range<usize>| DenseSpan {
            queries: span.clone(),
            keys: span.clone(),
        };
        let spans: Vec<_> = spans.iter().map(itself).collect();
        self.run_on(compute, &DenseInput::of_qkv(self, qkv, &spans, bias), out);
    }

    /// Attention of each span's queries over its keys, into `out`, `[queries, heads * head_dim]`.
    ///
    /// # Panics
    /// When the sizes do not fit together, a span ends behind the rows, the queries of two spans overlap, or there is
    /// a bias and a span is longer than its reach.
    pub fn run_on(self, compute: &mut Compute, input: &DenseInput<'_>, out: &mut [f32]) {
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
            if let Some(bias) = &input.bias {
                assert!(queries.len().max(span.keys.len()) <= bias.reach());
            }
        }
        if let Some(bias) = &input.bias {
            bias.check(self);
        }
        assert!(input.queries.hold(end, width));
        assert!(input.keys.hold(keys, width) && input.values.hold(keys, width));
        let isa = compute.isa;
        let slices = DisjointSlices::new(out);
        compute.pool.run(input.spans.len() * self.heads, &|task| {
            let (span, head) = (&input.spans[task / self.heads], task % self.heads);
            if !span.queries.is_empty() {
                let sequence = SequenceHead { span, head };
                SCRATCH.with_borrow_mut(|scratch| self.attend(isa, input, sequence, scratch, &slices));
            }
        });
    }

    /// Attention of one head of one sequence. `run_on` has checked that all of the span's rows exist.
    fn attend(
        self,
        isa: Isa,
        input: &DenseInput<'_>,
        sequence: SequenceHead<'_>,
        scratch: &mut Scratch,
        out: &DisjointSlices<'_, f32>,
    ) {
        let SequenceHead { span, head } = sequence;
        let (dim, width) = (self.head_dim, self.heads * self.head_dim);
        let count = span.keys.len();
        let columns = count.next_multiple_of(LANES);
        let keys = scratch_slice(&mut scratch.keys, dim * columns);
        for (k, row) in span.keys.clone().enumerate() {
            for (d, key) in input.keys.elements_from(row, head * dim)[..dim]
                .iter()
                .enumerate()
            {
                keys[d * columns + k] = *key;
            }
        }
        for row in keys.chunks_exact_mut(columns) {
            row[count..].fill(0.0);
        }
        let part = HeadPart {
            column: head * dim,
            dim,
        };
        let scores = scratch_slice(&mut scratch.scores, WIDE_ROWS * columns);
        let terms = match &input.bias {
            Some(ScoreBias::Positions(terms)) => Some(terms),
            Some(ScoreBias::Distance(_)) | None => None,
        };
        let distances = terms.map_or(0, |terms| terms.columns);
        let of_queries = scratch_slice(&mut scratch.of_queries, WIDE_ROWS * distances);
        let of_keys = scratch_slice(&mut scratch.of_keys, count * distances);
        if let Some(terms) = terms {
            let w = terms.of_head(terms.queries, head, dim);
            for first in (0..count).step_by(WIDE_ROWS) {
                let rows = WIDE_ROWS.min(count - first);
                let from = span.keys.start + first;
                let out = &mut of_keys[first * distances..];
                products(isa, input.keys, from..from + rows, part, w, out);
            }
        }
        for first in (0..span.queries.len()).step_by(WIDE_ROWS) {
            let rows = WIDE_ROWS.min(span.queries.len() - first);
            let from = span.queries.start + first;
            products(isa, input.queries, from..from + rows, part, keys, scores);
            if let Some(terms) = terms {
                let w = terms.of_head(terms.keys, head, dim);
                products(isa, input.queries, from..from + rows, part, w, of_queries);
            }
            let mut totals = [0.0; WIDE_ROWS];
            let rows_of_scores = scores.chunks_exact_mut(columns).take(rows);
            for (query, (row, total)) in (first..).zip(rows_of_scores.zip(&mut totals)) {
                let row = &mut row[..count];
                if let Some(terms) = terms {
                    let of_query = &of_queries[(query - first) * distances..][..distances];
                    let columns = terms.columns_from(query).iter();
                    let keys = of_keys.chunks_exact(distances);
                    for ((score, column), of_key) in row.iter_mut().zip(columns).zip(keys) {
                        *score += of_query[*column] + of_key[*column];
                    }
                }
                row.iter_mut().for_each(|score| *score *= self.scale);
                if let Some(ScoreBias::Distance(bias)) = input.bias {
                    let biases = &bias.values[head * (2 * bias.reach - 1) + bias.reach - 1 - query..];
                    row.iter_mut()
                        .zip(biases)
                        .for_each(|(score, bias)| *score += bias);
                }
                let mut sums = ScoreSums::default();
                softmax_numerators(isa, row, &mut sums);
                *total = sums.total;
            }
            let output_of = |row: usize| (span.queries.start + first + row) * width + head * dim;
            for TileColumns {
                first: column,
                vectors,
            } in tiles(dim)
            {
                let tile = Tile {
                    a: scores.as_ptr(),
                    a_stride: columns,
                    w: input
                        .values
                        .elements_from(span.keys.start, head * dim + column)
                        .as_ptr(),
                    w_stride: input.values.stride,
                    c: out.pointer(output_of(0) + column),
                    c_stride: width,
                    output: Output::Replace,
                    k: count,
                };
                // SAFETY: `scores` has `rows` rows of `count` numerators. Each of the `count` rows of values has the
                // head's `dim` elements, which `run_on` has checked, and the tile ends within them. Rows up to `rows`
                // of this head's outputs are inside of `out`; only this task writes them, because spans' queries do
                // not overlap and each task has another span or head.
                unsafe { micro::run(isa, TileSize { rows, vectors }, &tile) };
            }
            for (row, total) in totals[..rows].iter().enumerate() {
                // SAFETY: this task alone has this head's outputs of this row, as above, and the tile's pointer is
                // not used any more.
                let out = unsafe { out.part(output_of(row), dim) };
                out.iter_mut().for_each(|value| *value /= total);
            }
        }
    }
}

/// One head of one sequence.
#[derive(Clone, Copy)]
struct SequenceHead<'a> {
    span: &'a DenseSpan,
    head: usize,
}

/// The columns of a micro tile.
struct TileColumns {
    first: usize,
    /// Width in vectors.
    vectors: usize,
}

/// The micro tiles that cover `columns`, a multiple of [`LANES`].
fn tiles(columns: usize) -> impl Iterator<Item = TileColumns> {
    let step = MOST_VECTORS * LANES;
    (0..columns).step_by(step).map(move |first| TileColumns {
        first,
        vectors: step.min(columns - first) / LANES,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backend::cpu::kernels::test_support::{COARSER, bits, compute, noise};

    /// Attention of one head of one query of the only sequence, by its definition and in f64.
    fn textbook(layer: DenseAttention, input: &DenseInput<'_>, row: usize, head: usize) -> Vec<f64> {
        let dim = layer.head_dim;
        let part = |rows: HeadRows<'_>, row: usize| rows.elements_from(row, head * dim)[..dim].to_vec();
        let span = &input.spans[0];
        let (query, count) = (part(input.queries, row), span.keys.len());
        let score = |k: usize| {
            let key = part(input.keys, k);
            let pairs = query.iter().zip(&key);
            let product = pairs.map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>();
            let dot = |a: &[f32], b: &dyn Fn(usize) -> f32| {
                let pairs = a.iter().enumerate();
                pairs.map(|(d, a)| f64::from(*a) * f64::from(b(d))).sum::<f64>()
            };
            let (terms, bias) = match input.bias {
                None => (0.0, 0.0),
                Some(ScoreBias::Distance(bias)) => {
                    let middle = head * (2 * bias.reach - 1) + bias.reach - 1;
                    (0.0, bias.values[middle + k - row])
                }
                Some(ScoreBias::Positions(terms)) => {
                    let column = terms.column_of[terms.reach - 1 + k - row];
                    let at = |values: &[f32], d: usize| values[(head * dim + d) * terms.columns + column];
                    let of_query = dot(&query, &|d| at(terms.keys, d));
                    (of_query + dot(&key, &|d| at(terms.queries, d)), 0.0)
                }
            };
            (product + terms) * f64::from(layer.scale) + f64::from(bias)
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

    /// Queries in rows of their own, and rows of `[k | v]`.
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
        fn equals_the_textbook_and_is_the_same_alone_and_in_a_batch(
            lens in prop::collection::vec(1usize..if cfg!(miri) { 20 } else { 90 }, 1..4), heads in 1usize..4,
            dims in 1usize..if cfg!(miri) { 2 } else { 9 }, threads in 1usize..4, biased in 0..3, seed: u64,
        ) {
            let layer = DenseAttention { heads, head_dim: dims * 16, scale: 0.4 };
            let width = heads * layer.head_dim;
            let rows = lens.iter().sum::<usize>();
            let qkv = noise(rows * 3 * width, seed);
            let reach = 90;
            let values = noise(heads * (2 * reach - 1), seed ^ 1);
            // More distances than columns, so that far ones share them.
            let columns = 32;
            let column_of: Vec<usize> = (0..2 * reach - 1).map(|distance| distance * 7 / 50).collect();
            let (keys, queries) = (noise(width * columns, seed ^ 2), noise(width * columns, seed ^ 3));
            let bias = match biased {
                0 => None,
                1 => Some(ScoreBias::Distance(DistanceBias { values: &values, reach })),
                _ => Some(ScoreBias::Positions(PositionTerms {
                    keys: &keys, queries: &queries, columns, column_of: &column_of, reach,
                })),
            };
            let mut compute = compute(threads, Isa::detect());
            let itself = |span: Range<usize>| DenseSpan { queries: span.clone(), keys: span };
            let spans: Vec<_> = ranges(&lens).into_iter().map(itself).collect();
            let mut together = vec![f32::NAN; rows * width];
            let input = DenseInput::of_qkv(layer, &qkv, &spans, bias);
            layer.run_on(&mut compute, &input, &mut together);
            for DenseSpan { keys: span, .. } in &spans {
                let own = &qkv[span.start * 3 * width..span.end * 3 * width];
                let together = &together[span.start * width..span.end * width];
                let only = [itself(0..span.len())];
                let input = DenseInput::of_qkv(layer, own, &only, bias);
                for isa in Isa::available() {
                    compute.isa = isa;
                    let mut alone = vec![f32::NAN; own.len() / 3];
                    layer.run_on(&mut compute, &input, &mut alone);
                    prop_assert!(bits(&alone) == bits(together));
                }
                assert_is_textbook(layer, &input, together);
            }
            let mut short = vec![f32::NAN; rows * width];
            layer.run(&mut compute, &qkv, &ranges(&lens), bias, &mut short);
            prop_assert!(bits(&short) == bits(&together));
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
            let mut compute = compute(threads, Isa::detect());
            let mut together = vec![f32::NAN; q.len()];
            layer.run_on(&mut compute, &across(layer, &q, &kv, &spans), &mut together);
            for span in &spans {
                let own_q = &q[span.queries.start * width..span.queries.end * width];
                let own_kv = &kv[span.keys.start * 2 * width..span.keys.end * 2 * width];
                let only = [DenseSpan { queries: 0..span.queries.len(), keys: 0..span.keys.len() }];
                let input = across(layer, own_q, own_kv, &only);
                let together = &together[span.queries.start * width..span.queries.end * width];
                for isa in Isa::available() {
                    compute.isa = isa;
                    let mut alone = vec![f32::NAN; own_q.len()];
                    layer.run_on(&mut compute, &input, &mut alone);
                    prop_assert!(bits(&alone) == bits(together));
                }
                assert_is_textbook(layer, &input, together);
            }
        }
    }
}
