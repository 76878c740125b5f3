//! Causal attention over paged keys and values, with grouped query heads (arXiv 2305.13245).
//!
//! Per layer, keys lie as `[block][kv_head][head_dim][BLOCK_TOKENS]` and values as
//! `[block][kv_head][BLOCK_TOKENS][head_dim]`, so that both products have contiguous vectors. Each query row
//! sums over positions in ascending order whatever rows share its tile: chunked and whole prefill, cached
//! and cold, give the same bits.

use std::cell::RefCell;

use super::{
    Isa, Output, RopeStyle, ThreadPool,
    elementwise::{rope_heads, soft_cap, softmax_numerators},
    micro::{self, LANES, NARROW_ROWS, Tile, WIDE_ROWS},
    pool::Shards,
};

/// Tokens in a KV block: one vector of key columns.
pub const BLOCK_TOKENS: usize = LANES;

/// Sizes of a model's attention.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Dimensions of a head; a multiple of 16.
    pub head_dim: usize,
}

impl AttentionShape {
    /// Width of a row of fused queries, keys and values.
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// f32 values of keys (or of values) in one block of one layer.
    pub fn block_len(&self) -> usize {
        self.kv_heads * self.head_dim * BLOCK_TOKENS
    }
}

/// How a layer attends.
#[derive(Debug, Clone, Copy)]
pub struct AttentionLayer {
    /// Its sizes.
    pub shape: AttentionShape,
    /// What products of queries and keys are multiplied with.
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)` (arXiv 2408.00118).
    pub soft_cap: Option<f32>,
    /// How many tokens each token sees, itself included; all that came before it when absent.
    pub window: Option<usize>,
}

/// One sequence's rows of a packed batch.
#[derive(Debug, Clone, Copy)]
pub struct AttentionSpan<'a> {
    /// Its first row.
    pub first_row: usize,
    /// Its number of rows (new tokens).
    pub rows: usize,
    /// Tokens before the first row's.
    pub context: usize,
    /// Its blocks, in order.
    pub block_table: &'a [u32],
}

/// Rotary angles of each row of a batch.
#[derive(Debug, Clone, Copy)]
pub struct RopeAngles<'a> {
    /// How many pairs of each head's dimensions are rotated, from the first on.
    pub pairs: usize,
    /// `[rows, pairs]`
    pub cos: &'a [f32],
    /// `[rows, pairs]`
    pub sin: &'a [f32],
    /// How dimensions are paired.
    pub style: RopeStyle,
}

/// One layer's keys and values.
pub struct LayerCache<'a> {
    /// `[blocks, block_len]`
    pub keys: &'a mut [f32],
    /// `[blocks, block_len]`
    pub values: &'a mut [f32],
}

/// Rotates queries and keys of `qkv` (`[rows, q | k | v]`) in place and writes keys and values to the cache.
/// `slots[row]` is `block * BLOCK_TOKENS + offset`; no two rows share a slot.
///
/// # Panics
/// When a slot lies outside the cache.
pub fn rope_and_store(
    pool: &mut ThreadPool,
    isa: Isa,
    shape: AttentionShape,
    qkv: &mut [f32],
    slots: &[usize],
    angles: RopeAngles<'_>,
    cache: LayerCache<'_>,
) {
    let AttentionShape {
        heads,
        kv_heads,
        head_dim,
    } = shape;
    let (width, pairs) = (shape.qkv_width(), angles.pairs);
    let rows = Shards::new(qkv);
    let (keys, values) = (Shards::new(cache.keys), Shards::new(cache.values));
    const ROWS_PER_TASK: usize = 8;
    pool.run(slots.len().div_ceil(ROWS_PER_TASK), &|task| {
        let first = task * ROWS_PER_TASK;
        for (index, &slot) in slots[first..].iter().take(ROWS_PER_TASK).enumerate() {
            let row = first + index;
            // SAFETY: tasks take disjoint rows.
            let qkv = unsafe { rows.part(row * width, width) };
            let (cos, sin) = (
                &angles.cos[row * pairs..][..pairs],
                &angles.sin[row * pairs..][..pairs],
            );
            let (rotated, value) = qkv.split_at_mut((heads + kv_heads) * head_dim);
            rope_heads(isa, rotated, head_dim, cos, sin, angles.style);
            let (block, offset) = (slot / BLOCK_TOKENS, slot % BLOCK_TOKENS);
            let key = &rotated[heads * head_dim..];
            for h in 0..kv_heads {
                let base = block * shape.block_len() + h * head_dim * BLOCK_TOKENS;
                for d in 0..head_dim {
                    // SAFETY: slots are distinct, so no other row writes this element.
                    unsafe { keys.part(base + d * BLOCK_TOKENS + offset, 1)[0] = key[h * head_dim + d] };
                }
                // SAFETY: as above.
                let out = unsafe { values.part(base + offset * head_dim, head_dim) };
                out.copy_from_slice(&value[h * head_dim..][..head_dim]);
            }
        }
    });
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Attention of every span's rows over the span's context, or what the window leaves of it, its own rows
/// included.
///
/// `qkv` is `[rows, q | k | v]` with queries rotated already, `out` is `[rows, heads * head_dim]`.
///
/// # Panics
/// When a block table does not cover its span or names a block outside the cache.
pub fn attention(
    pool: &mut ThreadPool,
    isa: Isa,
    layer: AttentionLayer,
    qkv: &[f32],
    spans: &[AttentionSpan<'_>],
    cache: &LayerCache<'_>,
    out: &mut [f32],
) {
    let shape = layer.shape;
    let group = shape.heads / shape.kv_heads;
    // Tile `t` of span `s` is task `offsets[s] + t * kv_heads + head`.
    let mut offsets = Vec::with_capacity(spans.len() + 1);
    let mut tasks = 0;
    for span in spans {
        offsets.push(tasks);
        tasks += (span.rows * group).div_ceil(NARROW_ROWS) * shape.kv_heads;
    }
    let shards = Shards::new(out);
    pool.run(tasks, &|task| {
        // Late tiles see the longest context: begin with them, so that workers end together.
        let task = tasks - 1 - task;
        let index = offsets.partition_point(|&offset| offset <= task) - 1;
        let local = task - offsets[index];
        let tile = QueryTile {
            layer,
            span: &spans[index],
            kv_head: local % shape.kv_heads,
            first: local / shape.kv_heads * NARROW_ROWS,
        };
        SCRATCH.with_borrow_mut(|scratch| tile.run(isa, qkv, cache, &shards, scratch));
    });
}

/// Up to [`NARROW_ROWS`] query rows that read the same keys: row `r` is token `r / group`, head `r % group`.
struct QueryTile<'a> {
    layer: AttentionLayer,
    span: &'a AttentionSpan<'a>,
    kv_head: usize,
    first: usize,
}

impl QueryTile<'_> {
    fn run(
        &self,
        isa: Isa,
        qkv: &[f32],
        cache: &LayerCache<'_>,
        out: &Shards<'_, f32>,
        scratch: &mut Vec<f32>,
    ) {
        let shape = self.layer.shape;
        let AttentionShape {
            heads,
            kv_heads,
            head_dim,
        } = shape;
        let group = heads / kv_heads;
        let rows = NARROW_ROWS.min(self.span.rows * group - self.first);
        let visible = |row: usize| {
            let end = self.span.context + (self.first + row) / group + 1;
            self.layer.window.map_or(0, |window| end.saturating_sub(window))..end
        };
        let place = |row: usize| {
            let token = self.span.first_row + (self.first + row) / group;
            (token, self.kv_head * group + (self.first + row) % group)
        };
        // Later rows see later tokens: blocks before the first row's window are nobody's.
        let limit = visible(rows - 1).end;
        let first_block = visible(0).start / BLOCK_TOKENS;
        let blocks = limit.div_ceil(BLOCK_TOKENS) - first_block;
        let table = &self.span.block_table[first_block..];
        let stride = blocks * BLOCK_TOKENS;

        let len = rows * (stride + 2 * head_dim);
        if scratch.len() < len {
            scratch.resize(len, 0.0);
        }
        let scratch = &mut scratch[..len];
        let (queries, rest) = scratch.split_at_mut(rows * head_dim);
        let (sums, scores) = rest.split_at_mut(rows * head_dim);

        for (row, query) in queries.chunks_exact_mut(head_dim).enumerate() {
            let (token, head) = place(row);
            let source = &qkv[token * shape.qkv_width() + head * head_dim..][..head_dim];
            for (q, s) in query.iter_mut().zip(source) {
                *q = s * self.layer.scale;
            }
        }
        let block_at =
            |index: usize| table[index] as usize * shape.block_len() + self.kv_head * head_dim * BLOCK_TOKENS;
        for index in 0..blocks {
            let keys = &cache.keys[block_at(index)..][..head_dim * BLOCK_TOKENS];
            // SAFETY: `rows` queries of `head_dim`, a whole key block, and score rows of `stride` that hold
            // `blocks` blocks.
            unsafe {
                let operands = Tile {
                    a: queries.as_ptr(),
                    a_stride: head_dim,
                    w: keys.as_ptr(),
                    w_stride: BLOCK_TOKENS,
                    c: scores.as_mut_ptr().add(index * BLOCK_TOKENS),
                    c_stride: stride,
                    output: Output::Replace,
                    k: head_dim,
                };
                micro::run(isa, rows, 1, &operands);
            }
        }
        let mut totals = [0f32; NARROW_ROWS];
        for (row, scores) in scores.chunks_exact_mut(stride).enumerate() {
            // From a row's own first token to its last: sums do not depend on the tile's other rows, and what
            // only those see adds 0 times a value.
            let seen = visible(row);
            let (before, rest) = scores.split_at_mut(seen.start - first_block * BLOCK_TOKENS);
            let (seen, after) = rest.split_at_mut(seen.len());
            if let Some(cap) = self.layer.soft_cap {
                soft_cap(isa, seen, cap);
            }
            let mut total = [0.0];
            softmax_numerators(isa, seen, &mut total);
            before.fill(0.0);
            after.fill(0.0);
            totals[row] = total[0];
        }
        for index in 0..blocks {
            let values = &cache.values[block_at(index)..][..head_dim * BLOCK_TOKENS];
            // Beyond `limit` the block may hold anything.
            let count = BLOCK_TOKENS.min(limit - (first_block + index) * BLOCK_TOKENS);
            for column in (0..head_dim).step_by(4 * LANES) {
                let vectors = 4.min((head_dim - column) / LANES);
                for first in (0..rows).step_by(WIDE_ROWS) {
                    // SAFETY: score rows hold this block, the value block has `count` rows of `head_dim`, and
                    // `sums` has `rows` rows of `head_dim`.
                    unsafe {
                        let operands = Tile {
                            a: scores.as_ptr().add(first * stride + index * BLOCK_TOKENS),
                            a_stride: stride,
                            w: values.as_ptr().add(column),
                            w_stride: head_dim,
                            c: sums.as_mut_ptr().add(first * head_dim + column),
                            c_stride: head_dim,
                            output: if index == 0 { Output::Replace } else { Output::Add },
                            k: count,
                        };
                        micro::run(isa, WIDE_ROWS.min(rows - first), vectors, &operands);
                    }
                }
            }
        }
        for (row, sums) in sums.chunks_exact(head_dim).enumerate() {
            let (token, head) = place(row);
            // SAFETY: each (token, head) belongs to one tile.
            let out = unsafe { out.part((token * heads + head) * head_dim, head_dim) };
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum / totals[row];
            }
        }
    }
}

#[cfg(test)]
#[path = "attention_tests.rs"]
mod tests;
