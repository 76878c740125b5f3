//! One key head's attention for a few query rows.

use std::{cell::RefCell, ops::Range};

use super::{
    AttentionLayer, AttentionSpan, BLOCK_TOKENS, SEGMENT,
    cache::{LayerCache, Side},
};
use crate::kernels::{
    Isa, Output,
    buffers::sized,
    elementwise::{exp, soft_cap, softmax_numerators},
    isa::per_isa,
    micro::{self, LANES, NARROW_ROWS, Tile, WIDE_ROWS},
    pool::Shards,
};

/// Most query rows of a tile: so many share a block that has been expanded.
pub(super) const TILE_ROWS: usize = 2 * NARROW_ROWS;

/// Up to [`TILE_ROWS`] query rows that read the same keys: row `r` is token `r / group`, head `r % group`.
pub(super) struct QueryTile<'a> {
    layer: AttentionLayer,
    span: &'a AttentionSpan<'a>,
    kv_head: usize,
    first: usize,
    rows: usize,
}

/// Softmax over some of a row's tokens: `[rows]` of it, then `[rows]`, then `[rows, head_dim]`.
pub(super) struct Softmax<'a> {
    /// The largest score.
    tops: &'a mut [f32],
    /// Sums of `e^(score - top)`.
    totals: &'a mut [f32],
    /// Sums of `e^(score - top) * value`.
    sums: &'a mut [f32],
}

impl<'a> Softmax<'a> {
    /// Elements for one row.
    pub(super) fn row_len(head_dim: usize) -> usize {
        head_dim + 2
    }

    fn new(memory: &'a mut [f32], rows: usize, head_dim: usize) -> Self {
        let (tops, rest) = memory.split_at_mut(rows);
        let (totals, rest) = rest.split_at_mut(rows);
        Self {
            tops,
            totals,
            sums: &mut rest[..rows * head_dim],
        }
    }
}

/// A worker's buffers; they grow to the largest tile and stay.
#[derive(Default)]
struct Scratch {
    operands: Operands,
    /// Softmax over the segments so far.
    state: Vec<f32>,
    /// Softmax over one segment.
    part: Vec<f32>,
}

/// What the products of a segment read.
#[derive(Default)]
struct Operands {
    queries: Vec<f32>,
    /// Scores of a segment, `[rows][SEGMENT]`.
    scores: Vec<f32>,
    /// One head's part of a block.
    block: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl<'a> QueryTile<'a> {
    /// Tile `tile` of those that read `kv_head`.
    pub(super) fn new(
        layer: AttentionLayer,
        span: &'a AttentionSpan<'a>,
        (tile, kv_head): (usize, usize),
    ) -> Self {
        let first = tile * TILE_ROWS;
        let rows = TILE_ROWS.min(span.rows * (layer.shape.heads / layer.shape.kv_heads) - first);
        Self {
            layer,
            span,
            kv_head,
            first,
            rows,
        }
    }

    fn group(&self) -> usize {
        self.layer.shape.heads / self.layer.shape.kv_heads
    }

    /// Positions that a row sees.
    fn visible(&self, row: usize) -> Range<usize> {
        let end = self.span.context + (self.first + row) / self.group() + 1;
        self.layer.window.map_or(0, |window| end.saturating_sub(window))..end
    }

    /// A row's token in the batch, and its head.
    fn place(&self, row: usize) -> (usize, usize) {
        let (token, head) = (
            (self.first + row) / self.group(),
            (self.first + row) % self.group(),
        );
        (self.span.first_row + token, self.kv_head * self.group() + head)
    }

    /// Segments that any of its rows sees.
    pub(super) fn segments(&self) -> Range<usize> {
        // Later rows see later tokens.
        self.visible(0).start / SEGMENT..self.visible(self.rows - 1).end.div_ceil(SEGMENT)
    }

    /// All segments in turn.
    pub(super) fn run(&self, isa: Isa, qkv: &[f32], cache: &LayerCache, out: &Shards<'_, f32>) {
        let len = self.rows * Softmax::row_len(self.layer.shape.head_dim);
        SCRATCH.with_borrow_mut(|scratch| {
            let (state, part) = (sized(&mut scratch.state, len), sized(&mut scratch.part, len));
            self.load_queries(qkv, &mut scratch.operands.queries);
            for segment in self.segments() {
                self.attend(isa, cache, segment, &mut scratch.operands, part);
                self.fold(isa, segment, state, part);
            }
            self.finish(state, out);
        });
    }

    /// One segment, into `part`.
    pub(super) fn run_segment(
        &self,
        isa: Isa,
        qkv: &[f32],
        cache: &LayerCache,
        segment: usize,
        part: &mut [f32],
    ) {
        SCRATCH.with_borrow_mut(|scratch| {
            self.load_queries(qkv, &mut scratch.operands.queries);
            self.attend(isa, cache, segment, &mut scratch.operands, part);
        });
    }

    /// Folds what [`Self::run_segment`] has left for each segment, counted from the tile's first.
    pub(super) fn combine<'p>(&self, isa: Isa, out: &Shards<'_, f32>, part: impl Fn(usize) -> &'p [f32]) {
        let len = self.rows * Softmax::row_len(self.layer.shape.head_dim);
        SCRATCH.with_borrow_mut(|scratch| {
            let state = sized(&mut scratch.state, len);
            let own = sized(&mut scratch.part, len);
            for (index, segment) in self.segments().enumerate() {
                own.copy_from_slice(&part(index)[..len]);
                self.fold(isa, segment, state, own);
            }
            self.finish(state, out);
        });
    }

    fn load_queries(&self, qkv: &[f32], queries: &mut Vec<f32>) {
        let shape = self.layer.shape;
        let head_dim = shape.head_dim;
        let queries = sized(queries, self.rows * head_dim);
        for (row, query) in queries.chunks_exact_mut(head_dim).enumerate() {
            let (token, head) = self.place(row);
            let source = &qkv[token * shape.qkv_width() + head * head_dim..][..head_dim];
            for (q, s) in query.iter_mut().zip(source) {
                *q = s * self.layer.scale;
            }
        }
    }

    /// Softmax over a segment's tokens, for the rows that see any; the others' results are not defined.
    fn attend(
        &self,
        isa: Isa,
        cache: &LayerCache,
        segment: usize,
        operands: &mut Operands,
        part: &mut [f32],
    ) {
        let head_dim = self.layer.shape.head_dim;
        let start = segment * SEGMENT;
        // From the first to the last token that any row sees, in whole blocks at the beginning.
        let end = self.visible(self.rows - 1).end.min(start + SEGMENT);
        let first_block = self.visible(0).start.max(start) / BLOCK_TOKENS;
        let blocks = || (first_block..end.div_ceil(BLOCK_TOKENS)).map(|b| (b, b * BLOCK_TOKENS - start));
        let place = |block: usize| (self.span.block_table[block] as usize, self.kv_head);
        let Operands {
            queries,
            scores,
            block: expanded,
        } = operands;
        let scores = sized(scores, self.rows * SEGMENT);
        let expanded = sized(expanded, head_dim * BLOCK_TOKENS);
        let part = Softmax::new(part, self.rows, head_dim);

        for (block, column) in blocks() {
            let keys = cache.head(isa, Side::Keys, place(block), head_dim * BLOCK_TOKENS, expanded);
            for first in (0..self.rows).step_by(NARROW_ROWS) {
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
                    micro::run(isa, NARROW_ROWS.min(self.rows - first), 1, &operands);
                }
            }
        }
        for (row, scores) in scores.chunks_exact_mut(SEGMENT).enumerate() {
            let Some(seen) = self.seen(row, segment) else {
                scores.fill(0.0);
                continue;
            };
            // From a row's own first token to its last: sums do not depend on the tile's other rows, and what
            // only those see adds 0 times a value.
            let (before, rest) = scores.split_at_mut(seen.start);
            let (seen, after) = rest.split_at_mut(seen.len());
            if let Some(cap) = self.layer.soft_cap {
                soft_cap(isa, seen, cap);
            }
            let mut total_and_top = [0.0; 2];
            softmax_numerators(isa, seen, &mut total_and_top);
            before.fill(0.0);
            after.fill(0.0);
            [part.totals[row], part.tops[row]] = total_and_top;
        }
        for (block, row_of_values) in blocks() {
            // Beyond `end` the block may hold anything.
            let count = BLOCK_TOKENS.min(end - block * BLOCK_TOKENS);
            let values = cache.head(isa, Side::Values, place(block), head_dim * count, expanded);
            for column in (0..head_dim).step_by(4 * LANES) {
                let vectors = 4.min((head_dim - column) / LANES);
                for first in (0..self.rows).step_by(WIDE_ROWS) {
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
                            output: if block == first_block {
                                Output::Replace
                            } else {
                                Output::Add
                            },
                            k: count,
                        };
                        micro::run(isa, WIDE_ROWS.min(self.rows - first), vectors, &operands);
                    }
                }
            }
        }
    }

    /// The part of a segment that a row sees, counted from the segment's first token.
    fn seen(&self, row: usize, segment: usize) -> Option<Range<usize>> {
        let (visible, start) = (self.visible(row), segment * SEGMENT);
        let (from, to) = (visible.start.max(start), visible.end.min(start + SEGMENT));
        (from < to).then(|| from - start..to - start)
    }

    /// Adds a segment's results to those of the segments before it.
    fn fold(&self, isa: Isa, segment: usize, state: &mut [f32], part: &mut [f32]) {
        let head_dim = self.layer.shape.head_dim;
        let state = Softmax::new(state, self.rows, head_dim);
        let part = Softmax::new(part, self.rows, head_dim);
        for row in 0..self.rows {
            if self.seen(row, segment).is_none() {
                continue;
            }
            let sums = &mut state.sums[row * head_dim..][..head_dim];
            let added = &part.sums[row * head_dim..][..head_dim];
            if self.visible(row).start / SEGMENT == segment {
                (state.tops[row], state.totals[row]) = (part.tops[row], part.totals[row]);
                sums.copy_from_slice(added);
                continue;
            }
            let (old, new) = (state.tops[row], part.tops[row]);
            let top = if new > old { new } else { old };
            let factors = (exp(old - top), exp(new - top));
            state.tops[row] = top;
            state.totals[row] = part.totals[row].mul_add(factors.1, state.totals[row] * factors.0);
            fold_row(isa, sums, added, factors);
        }
    }

    fn finish(&self, state: &mut [f32], out: &Shards<'_, f32>) {
        let shape = self.layer.shape;
        let head_dim = shape.head_dim;
        let state = Softmax::new(state, self.rows, head_dim);
        for (row, sums) in state.sums.chunks_exact(head_dim).enumerate() {
            let (token, head) = self.place(row);
            // SAFETY: each (token, head) belongs to one tile.
            let out = unsafe { out.part((token * shape.heads + head) * head_dim, head_dim) };
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum / state.totals[row];
            }
        }
    }
}

per_isa! {
    fn fold_row(isa; sums: &mut [f32], added: &[f32], factors: (f32, f32)) {
        for (sum, added) in sums.iter_mut().zip(added) {
            *sum = added.mul_add(factors.1, *sum * factors.0);
        }
    }
}
