//! Causal attention over paged keys and values, with grouped query heads (arXiv 2305.13245).
//!
//! Per layer, keys lie as `[block][kv_head][head_dim][BLOCK_TOKENS]` and values as
//! `[block][kv_head][BLOCK_TOKENS][head_dim]`, so that both products have contiguous vectors. Each query row
//! sums over positions in ascending order whatever rows share its tile: chunked and whole prefill, cached
//! and cold, give the same bits.

use std::cell::RefCell;

use super::{
    Isa, RopeStyle, ThreadPool,
    elementwise::{rope, softmax_numerators},
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
    /// `[rows, head_dim / 2]`
    pub cos: &'a [f32],
    /// `[rows, head_dim / 2]`
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
    let (width, half) = (shape.qkv_width(), head_dim / 2);
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
                &angles.cos[row * half..][..half],
                &angles.sin[row * half..][..half],
            );
            let (rotated, value) = qkv.split_at_mut((heads + kv_heads) * head_dim);
            for head in rotated.chunks_exact_mut(head_dim) {
                rope(head, cos, sin, angles.style);
            }
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

/// Attention of every span's rows over the span's whole context, its own rows included.
///
/// `qkv` is `[rows, q | k | v]` with queries rotated already, `out` is `[rows, heads * head_dim]`.
///
/// # Panics
/// When a block table does not cover its span or names a block outside the cache.
pub fn attention(
    pool: &mut ThreadPool,
    isa: Isa,
    shape: AttentionShape,
    qkv: &[f32],
    spans: &[AttentionSpan<'_>],
    cache: &LayerCache<'_>,
    out: &mut [f32],
) {
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
            shape,
            span: &spans[index],
            kv_head: local % shape.kv_heads,
            first: local / shape.kv_heads * NARROW_ROWS,
        };
        SCRATCH.with_borrow_mut(|scratch| tile.run(isa, qkv, cache, &shards, scratch));
    });
}

/// Up to [`NARROW_ROWS`] query rows that read the same keys: row `r` is token `r / group`, head `r % group`.
struct QueryTile<'a> {
    shape: AttentionShape,
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
        let AttentionShape {
            heads,
            kv_heads,
            head_dim,
        } = self.shape;
        let group = heads / kv_heads;
        let rows = NARROW_ROWS.min(self.span.rows * group - self.first);
        let visible = |row: usize| self.span.context + (self.first + row) / group + 1;
        let place = |row: usize| {
            let token = self.span.first_row + (self.first + row) / group;
            (token, self.kv_head * group + (self.first + row) % group)
        };
        let limit = visible(rows - 1);
        let blocks = limit.div_ceil(BLOCK_TOKENS);
        let stride = blocks * BLOCK_TOKENS;

        scratch.clear();
        scratch.resize(rows * (stride + 2 * head_dim), 0.0);
        let (queries, rest) = scratch.split_at_mut(rows * head_dim);
        let (sums, scores) = rest.split_at_mut(rows * head_dim);

        let scale = 1.0 / (head_dim as f32).sqrt();
        for (row, query) in queries.chunks_exact_mut(head_dim).enumerate() {
            let (token, head) = place(row);
            let source = &qkv[token * self.shape.qkv_width() + head * head_dim..][..head_dim];
            for (q, s) in query.iter_mut().zip(source) {
                *q = s * scale;
            }
        }
        let block_at = |table: &[u32], index: usize| {
            table[index] as usize * self.shape.block_len() + self.kv_head * head_dim * BLOCK_TOKENS
        };
        for index in 0..blocks {
            let keys = &cache.keys[block_at(self.span.block_table, index)..][..head_dim * BLOCK_TOKENS];
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
                    k: head_dim,
                };
                micro::run(isa, rows, 1, &operands);
            }
        }
        let mut totals = [0f32; NARROW_ROWS];
        for (row, scores) in scores.chunks_exact_mut(stride).enumerate() {
            let (seen, hidden) = scores.split_at_mut(visible(row));
            let mut total = [0.0];
            softmax_numerators(isa, seen, &mut total);
            hidden.fill(0.0);
            totals[row] = total[0];
        }
        for index in 0..blocks {
            let values = &cache.values[block_at(self.span.block_table, index)..][..head_dim * BLOCK_TOKENS];
            // Beyond `limit` the block may hold anything.
            let count = BLOCK_TOKENS.min(limit - index * BLOCK_TOKENS);
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Case {
        shape: AttentionShape,
        qkv: Vec<f32>,
        tokens: usize,
    }

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

    /// Runs the tokens through the cache in chunks, with the given blocks, and returns all outputs.
    fn run(case: &Case, isa: Isa, chunks: &[usize], table: &[u32], threads: usize) -> Vec<f32> {
        let mut pool = ThreadPool::new(threads).unwrap();
        let blocks = *table.iter().max().unwrap() as usize + 1;
        // Stale contents must not matter.
        let mut keys = vec![3.0f32; blocks * case.shape.block_len()];
        let mut values = vec![f32::NAN; blocks * case.shape.block_len()];
        let (width, half) = (case.shape.qkv_width(), case.shape.head_dim / 2);
        let mut outputs = Vec::new();
        let mut done = 0;
        for &chunk in chunks.iter().cycle() {
            let chunk = chunk.min(case.tokens - done);
            if chunk == 0 {
                break;
            }
            let mut qkv = case.qkv[done * width..][..chunk * width].to_vec();
            let slots: Vec<usize> = (done..done + chunk)
                .map(|p| table[p / BLOCK_TOKENS] as usize * BLOCK_TOKENS + p % BLOCK_TOKENS)
                .collect();
            let (cos, sin) = (vec![0.8; chunk * half], vec![0.6; chunk * half]);
            let angles = RopeAngles {
                cos: &cos,
                sin: &sin,
                style: RopeStyle::Halves,
            };
            let cache = LayerCache {
                keys: &mut keys,
                values: &mut values,
            };
            rope_and_store(&mut pool, case.shape, &mut qkv, &slots, angles, cache);
            let span = AttentionSpan {
                first_row: 0,
                rows: chunk,
                context: done,
                block_table: table,
            };
            let mut out = vec![0.0; chunk * case.shape.heads * case.shape.head_dim];
            let cache = LayerCache {
                keys: &mut keys,
                values: &mut values,
            };
            attention(&mut pool, isa, case.shape, &qkv, &[span], &cache, &mut out);
            outputs.extend(out);
            done += chunk;
        }
        outputs
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn chunked_scattered_and_threaded_equal_whole_to_the_bit(
            tokens in 1usize..90, first in 1usize..40, second in 1usize..40, seed: u64, kv_heads in 1usize..3,
            group in 1usize..5, dims in 1usize..6,
        ) {
            let shape = AttentionShape { heads: kv_heads * group, kv_heads, head_dim: dims * 16 };
            let case = Case { shape, qkv: noise(tokens * shape.qkv_width(), seed), tokens };
            let straight: Vec<u32> = (0..6).collect();
            let scattered = [9, 2, 7, 0, 5, 3];
            let whole = run(&case, Isa::detect(), &[tokens], &straight, 1);
            for isa in Isa::available() {
                prop_assert_eq!(&whole, &run(&case, isa, &[first, second, 1], &scattered, 2));
            }
        }
    }

    #[test]
    fn equals_textbook_attention() {
        let shape = AttentionShape {
            heads: 4,
            kv_heads: 2,
            head_dim: 32,
        };
        let case = Case {
            shape,
            qkv: noise(40 * shape.qkv_width(), 5),
            tokens: 40,
        };
        let found = run(&case, Isa::detect(), &[40], &[0, 1, 2], 2);
        let width = shape.qkv_width();
        let rotate = |v: &[f32]| -> Vec<f64> {
            let h = v.len() / 2;
            let (a, b) = (|i: usize| f64::from(v[i]), |i: usize| f64::from(v[i + h]));
            (0..h)
                .map(|i| a(i) * 0.8 - b(i) * 0.6)
                .chain((0..h).map(|i| b(i) * 0.8 + a(i) * 0.6))
                .collect()
        };
        for t in 0..40 {
            for head in 0..4 {
                let part = |token: usize, slot: usize| &case.qkv[token * width + slot * 32..][..32];
                let q = rotate(part(t, head));
                let weights: Vec<f64> = (0..=t)
                    .map(|s| {
                        let k = rotate(part(s, 4 + head / 2));
                        (q.iter().zip(&k).map(|(a, b)| a * b).sum::<f64>() / 32f64.sqrt()).exp()
                    })
                    .collect();
                let total: f64 = weights.iter().sum();
                for d in 0..32 {
                    let expected: f64 = (0..=t)
                        .map(|s| weights[s] / total * f64::from(part(s, 6 + head / 2)[d]))
                        .sum();
                    let found = f64::from(found[(t * 4 + head) * 32 + d]);
                    assert!(
                        (found - expected).abs() < 1e-5,
                        "token {t} head {head} dim {d}: {found} {expected}"
                    );
                }
            }
        }
    }
}
