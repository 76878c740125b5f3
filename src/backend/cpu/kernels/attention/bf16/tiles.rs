//! The operations with the processor's tiles, and numerators in AVX-512.

use std::{
    arch::x86_64::{
        __m512, __m512bh, __m512i, _CMP_NLT_UQ, _MM_HINT_T0, _mm_prefetch, _mm512_add_ps,
        _mm512_broadcastss_ps, _mm512_castps512_ps128, _mm512_cmp_ps_mask, _mm512_cvtne2ps_pbh,
        _mm512_cvtss_f32, _mm512_fmadd_ps, _mm512_mask_loadu_ps, _mm512_maskz_loadu_epi16,
        _mm512_maskz_scalef_ps, _mm512_max_ps, _mm512_permutexvar_epi64, _mm512_set1_ps, _mm512_setr_epi64,
        _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_shuffle_ps, _mm512_storeu_si512, _mm512_sub_ps,
        _mm512_unpackhi_epi16, _mm512_unpacklo_epi16,
    },
    ops::Range,
};

use super::{EXP2, LEAST_EXPONENT, PART_ROWS, Part, ROUNDING, RUN, RUNS, cap, parts, scale};
use crate::backend::cpu::kernels::{
    Isa, Output,
    attention::{BLOCK_TOKENS, LayerCache, SEGMENT, query_tile::QueryTile, softmax::Softmax},
    bf16::{Operands, PairBits, ROWS, RunBits, product_of_tiles, round_row, shapes},
    buffers::sized,
    int8::Target,
    micro::LANES,
    tile_config,
};

/// Outputs of two tiles side by side.
const PAIR_OF_TILES: usize = 2 * LANES;
/// Pairs of tokens in a block.
const BLOCK_PAIRS: usize = BLOCK_TOKENS / 2;

#[derive(Default)]
pub(in super::super) struct TileOperands {
    /// A query, scaled.
    query: Vec<f32>,
    /// `[rows / ROWS][runs of dimensions][ROWS]`
    queries: Vec<RunBits>,
    /// `[PART_ROWS][SEGMENT]`
    scores: Vec<f32>,
    /// `[PART_ROWS / ROWS][RUNS][ROWS]`
    numerators: Vec<RunBits>,
    /// A segment's: `[dimensions / PAIR_OF_TILES][RUNS][2][RUN / 2]`.
    values: Vec<PairBits>,
}

/// Operands with a tile's queries, while this thread's tile registers are shaped for its rows.
pub(in super::super) struct Shaped<'a> {
    isa: Isa,
    operands: &'a mut TileOperands,
}

impl Drop for Shaped<'_> {
    fn drop(&mut self) {
        // SAFETY: they were shaped, so the processor has them.
        unsafe { tile_config::release() };
    }
}

impl TileOperands {
    /// Rounds a tile's queries.
    ///
    /// # Safety
    /// The processor has AMX-BF16 and AVX-512 F, BW and BF16.
    pub(super) unsafe fn load(&mut self, isa: Isa, tile: &QueryTile<'_>, qkv: &[f32]) -> Shaped<'_> {
        let head_dim = tile.layer.shape.head_dim;
        let len = head_dim.div_ceil(RUN) * ROWS;
        let query = sized(&mut self.query, head_dim);
        let queries = sized(&mut self.queries, tile.rows.div_ceil(ROWS) * len);
        for row in 0..tile.rows {
            tile.query(isa, qkv, row, scale(tile), query);
            let out = queries[row / ROWS * len + row % ROWS..].iter_mut().step_by(ROWS);
            // SAFETY: by the caller's promise.
            unsafe { round_row(query, out) };
        }
        // SAFETY: by the caller's promise.
        unsafe { shapes(tile.rows.min(PART_ROWS)).load() };
        Shaped { isa, operands: self }
    }
}

impl Shaped<'_> {
    pub(super) fn attend(
        &mut self,
        tile: &QueryTile<'_>,
        cache: &LayerCache,
        segment: usize,
        results: &mut Softmax<'_>,
    ) {
        // SAFETY: only made for a processor that has the features, and tiles are shaped for all rows or for
        // `PART_ROWS` of them.
        unsafe {
            self.load_values(tile, cache, segment);
            for part in parts(tile, segment) {
                self.multiply_keys(&part, cache);
                self.take_powers(&part, results);
                self.multiply_values(&part, results);
            }
        }
    }

    /// # Safety
    /// The processor has AVX-512 F and BW.
    unsafe fn load_values(&mut self, tile: &QueryTile<'_>, cache: &LayerCache, segment: usize) {
        let head_dim = tile.layer.shape.head_dim;
        let seen = tile.seen_by(0..tile.rows, segment);
        let last = tile.visible(tile.rows - 1).end - 1;
        let groups = head_dim.div_ceil(PAIR_OF_TILES);
        let values = sized(&mut self.operands.values, groups * RUNS * 2 * (RUN / 2));
        for column in (seen.start / RUN * RUN..seen.end.next_multiple_of(RUN)).step_by(BLOCK_TOKENS) {
            let out = column / RUN * RUN + column % RUN / 2;
            // Blocks before the first token that is seen may be gone, and tokens behind the last may be anything.
            if column + BLOCK_TOKENS <= seen.start || column >= seen.end {
                for group in values.chunks_exact_mut(RUNS * RUN) {
                    for tile in [out, out + RUN / 2] {
                        group[tile..][..BLOCK_PAIRS].fill(PairBits::default());
                    }
                }
                continue;
            }
            let position = segment * SEGMENT + column;
            let (keys, block) = cache.rounded(tile.place(position));
            // Keys come next, and the next block: blocks lie where they happen to, and nothing else foresees them.
            let (_, next) = cache.rounded(tile.place((position + BLOCK_TOKENS).min(last)));
            let ahead = [keys.as_ptr().cast(), next.as_ptr().cast()];
            let tokens = BLOCK_TOKENS.min(seen.end - column);
            // SAFETY: by the caller's promise.
            unsafe { pair_tokens(&block[..tokens * head_dim], head_dim, ahead, &mut values[out..]) };
        }
    }

    /// # Safety
    /// The processor has AMX-BF16, and tiles are shaped for the rows.
    unsafe fn multiply_keys(&mut self, part: &Part<'_>, cache: &LayerCache) {
        let Part {
            tile,
            segment,
            rows,
            seen,
            ..
        } = part;
        let runs = tile.layer.shape.head_dim.div_ceil(RUN);
        let TileOperands { queries, scores, .. } = &mut *self.operands;
        let scores = sized(scores, PART_ROWS * SEGMENT);
        let queries = &queries[rows.start / ROWS * runs * ROWS..];
        let first_block = seen.start / BLOCK_TOKENS * BLOCK_TOKENS;
        let last_block = (seen.end - 1) / BLOCK_TOKENS * BLOCK_TOKENS;
        for column in (seen.start / RUN * RUN..seen.end).step_by(RUN) {
            // Of a run's two blocks one may not be there; the other's scores then stand for it, and nobody sees them.
            let keys = [column, column + BLOCK_TOKENS].map(|column| {
                let column = column.clamp(first_block, last_block);
                let (keys, _) = cache.rounded(tile.place(*segment * SEGMENT + column));
                keys.as_ptr().cast::<PairBits>()
            });
            let operands = Operands {
                x: queries.as_ptr(),
                x_second: if rows.len() > ROWS {
                    queries[runs * ROWS..].as_ptr()
                } else {
                    std::ptr::null()
                },
                w: keys,
                w_step: RUN / 2,
                runs,
            };
            let c = Target {
                at: scores[column..].as_mut_ptr(),
                stride: SEGMENT,
                output: Output::Replace,
            };
            // SAFETY: queries and keys hold so many runs, and there are scores of `PART_ROWS` rows.
            unsafe { product_of_tiles(&operands, c) };
        }
    }

    /// # Safety
    /// The processor has AVX-512 F, BW and BF16.
    unsafe fn take_powers(&mut self, part: &Part<'_>, results: &mut Softmax<'_>) {
        let Part {
            tile,
            segment,
            rows,
            runs,
            ..
        } = part;
        let TileOperands {
            scores, numerators, ..
        } = &mut *self.operands;
        let numerators = sized(numerators, PART_ROWS * RUNS);
        for (index, (row, scores)) in rows.clone().zip(scores.as_chunks_mut::<SEGMENT>().0).enumerate() {
            let out = &mut numerators[index / ROWS * RUNS * ROWS + index % ROWS..];
            let Some(seen) = tile.seen(row, *segment) else {
                for run in runs.clone() {
                    out[run * ROWS] = RunBits::default();
                }
                continue;
            };
            cap(self.isa, tile, &mut scores[seen.clone()]);
            // SAFETY: by the caller's promise.
            [results.totals[row], results.tops[row]] = unsafe { powers(scores, seen, runs.clone(), out) };
        }
    }

    /// # Safety
    /// The processor has AMX-BF16, and tiles are shaped for the rows.
    unsafe fn multiply_values(&mut self, part: &Part<'_>, results: &mut Softmax<'_>) {
        let Part { tile, rows, runs, .. } = part;
        let width = tile.layer.shape.head_dim.next_multiple_of(PAIR_OF_TILES);
        let TileOperands {
            numerators, values, ..
        } = &*self.operands;
        for (index, values) in values
            .chunks_exact(RUNS * RUN)
            .take(width / PAIR_OF_TILES)
            .enumerate()
        {
            let values = &values[runs.start * RUN..];
            let operands = Operands {
                x: numerators[runs.start * ROWS..].as_ptr(),
                x_second: if rows.len() > ROWS {
                    numerators[(RUNS + runs.start) * ROWS..].as_ptr()
                } else {
                    std::ptr::null()
                },
                w: [values.as_ptr(), values[RUN / 2..].as_ptr()],
                w_step: RUN,
                runs: runs.len(),
            };
            let sums = &mut results.sums[rows.start * width + index * PAIR_OF_TILES..];
            let c = Target {
                at: sums.as_mut_ptr(),
                stride: width,
                output: Output::Replace,
            };
            // SAFETY: numerators and values hold so many runs, and there are sums of all rows, in whole tiles.
            unsafe { product_of_tiles(&operands, c) };
        }
    }
}

/// Brings a block's tokens, `[tokens][head_dim]`, together in pairs: of each group of dimensions and each of its two
/// tiles [`BLOCK_PAIRS`], with zeros for tokens that are not there. As many bytes as a block's are fetched from each place
/// of `ahead`.
///
/// # Safety
/// The processor has AVX-512 F and BW.
///
/// # Panics
/// When `out` is too small.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pair_tokens(tokens: &[u16], head_dim: usize, ahead: [*const i8; 2], out: &mut [PairBits]) {
    /// Of a block's, for each pair and group.
    const LINES: usize = BLOCK_TOKENS * PAIR_OF_TILES * size_of::<u16>() / 64 / BLOCK_PAIRS;
    // Unpacking goes by quarters of a vector: so the first tile gets its dimensions in order, and the second.
    let order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    for (group, first) in (0..head_dim).step_by(PAIR_OF_TILES).enumerate() {
        let mask = u32::MAX >> (PAIR_OF_TILES - PAIR_OF_TILES.min(head_dim - first));
        let out = &mut out[group * RUNS * RUN..][..RUN / 2 + BLOCK_PAIRS];
        let (left, right) = out.split_at_mut(RUN / 2);
        for (pair, (left, right)) in left[..BLOCK_PAIRS].iter_mut().zip(right).enumerate() {
            let load = |token: usize| -> __m512i {
                let mask = if token * head_dim < tokens.len() { mask } else { 0 };
                // SAFETY: only dimensions that are there are read.
                let dims = unsafe {
                    _mm512_maskz_loadu_epi16(
                        mask,
                        tokens.as_ptr().wrapping_add(token * head_dim + first).cast(),
                    )
                };
                _mm512_permutexvar_epi64(order, dims)
            };
            let (even, odd) = (load(2 * pair), load(2 * pair + 1));
            let done = (group * BLOCK_PAIRS + pair) * LINES * 64;
            for ahead in ahead {
                for line in 0..LINES {
                    _mm_prefetch(ahead.wrapping_add(done + line * 64), _MM_HINT_T0);
                }
            }
            // SAFETY: 64 bytes each.
            unsafe {
                _mm512_storeu_si512(left.0.as_mut_ptr().cast(), _mm512_unpacklo_epi16(even, odd));
                _mm512_storeu_si512(right.0.as_mut_ptr().cast(), _mm512_unpackhi_epi16(even, odd));
            }
        }
    }
}

/// What [`super::vectors::powers`] computes of a row's scores, rounded into `out[run * ROWS]` for these runs. Columns
/// that the row does not see may hold anything.
///
/// # Safety
/// The processor has AVX-512 F, BW and BF16.
///
/// # Panics
/// When `out` is too small.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn powers(
    scores: &[f32; SEGMENT],
    seen: Range<usize>,
    runs: Range<usize>,
    out: &mut [RunBits],
) -> [f32; 2] {
    const { assert!(SEGMENT == u128::BITS as usize && RUN == u32::BITS as usize) };
    let columns = (u128::MAX >> (SEGMENT - seen.len())) << seen.start;
    let masks: [u32; RUNS] = std::array::from_fn(|run| (columns >> (run * RUN)) as u32);
    let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
    let (scores, _) = scores.as_chunks::<RUN>();
    // What is not seen has no share in softmax.
    let load = |run: usize| {
        let (scores, mask) = (scores[run].as_ptr(), masks[run]);
        // SAFETY: sixteen elements each.
        unsafe {
            (
                _mm512_mask_loadu_ps(lowest, mask as u16, scores),
                _mm512_mask_loadu_ps(lowest, (mask >> LANES) as u16, scores.add(LANES)),
            )
        }
    };
    let mut tops = lowest;
    for run in runs.clone() {
        let (low, high) = load(run);
        tops = _mm512_max_ps(low, tops);
        tops = _mm512_max_ps(high, tops);
    }
    let top = fold_lanes(tops, |tops, others| _mm512_max_ps(others, tops));
    let tops = _mm512_broadcastss_ps(_mm512_castps512_ps128(top));
    let mut total = _mm512_setzero_ps();
    for run in runs {
        let (low, high) = load(run);
        let low = power(_mm512_sub_ps(low, tops));
        let high = power(_mm512_sub_ps(high, tops));
        total = _mm512_add_ps(total, low);
        total = _mm512_add_ps(total, high);
        let RunBits(out) = &mut out[run * ROWS];
        // SAFETY: 64 bytes each; the vectors are bits of the same size.
        unsafe {
            let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(out.as_mut_ptr().cast(), both);
        }
    }
    let total = fold_lanes(total, |total, others| _mm512_add_ps(total, others));
    [_mm512_cvtss_f32(total), _mm512_cvtss_f32(top)]
}

/// Brings the lanes of the upper half to those of the lower one until one is left, the first.
#[inline]
#[target_feature(enable = "avx512f")]
fn fold_lanes(lanes: __m512, join: impl Fn(__m512, __m512) -> __m512) -> __m512 {
    let lanes = join(lanes, _mm512_shuffle_f32x4::<0b1110>(lanes, lanes));
    let lanes = join(lanes, _mm512_shuffle_f32x4::<0b01>(lanes, lanes));
    let lanes = join(lanes, _mm512_shuffle_ps::<0b1110>(lanes, lanes));
    join(lanes, _mm512_shuffle_ps::<0b01>(lanes, lanes))
}

/// See [`super::exp2`].
#[inline]
#[target_feature(enable = "avx512f")]
fn power(x: __m512) -> __m512 {
    let rounding = _mm512_set1_ps(ROUNDING);
    let whole = _mm512_sub_ps(_mm512_add_ps(x, rounding), rounding);
    let fraction = _mm512_sub_ps(x, whole);
    let [c0, c1, c2, c3, c4] = EXP2.map(|c| _mm512_set1_ps(c));
    let p = _mm512_fmadd_ps(c4, fraction, c3);
    let p = _mm512_fmadd_ps(p, fraction, c2);
    let p = _mm512_fmadd_ps(p, fraction, c1);
    let p = _mm512_fmadd_ps(p, fraction, c0);
    let counts = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(LEAST_EXPONENT));
    _mm512_maskz_scalef_ps(counts, p, whole)
}
