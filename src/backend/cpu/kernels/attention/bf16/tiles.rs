//! Attention in AMX tiles, and numerators in AVX-512.
//!
//! 64 query rows share a segment of 128 tokens, whose values are arranged in pairs of tokens once. On one thread, a
//! third of the time goes to tiles, 30 % to exponentials, and a tenth to reading queries and writing results.

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

use super::sub_tile::{SEGMENT_RUNS, SubTile, cap_scores, query_scale, sub_tiles};
use crate::backend::cpu::kernels::{
    attention::{
        cache::LayerCache,
        exp2::{EXP2, LEAST_EXPONENT, ROUNDING},
        query_tile::QueryTile,
        sizes::{BLOCK_TOKENS, SEGMENT},
        softmax::SoftmaxState,
    },
    bf16::{
        Operands, PairBits, ROW_BLOCK, RUN, RUN_PAIRS, RunBits, TILE_ROWS, product_of_tiles, round_row,
        shapes,
    },
    buffers::scratch_slice,
    elementwise::ScoreSums,
    isa::Isa,
    micro::LANES,
    output::{Output, OutputTile},
    prefetch::CACHE_LINE,
    tile_config,
};

/// Outputs of two tiles side by side.
const PAIR_OF_TILES: usize = 2 * LANES;
/// Pairs of tokens in a block.
const BLOCK_PAIRS: usize = BLOCK_TOKENS / 2;

/// A worker's copy of what the products of a segment read.
#[derive(Default)]
pub(in crate::backend::cpu::kernels::attention) struct TileOperands {
    /// A scaled query.
    query: Vec<f32>,
    /// Rounded queries, `[rows / TILE_ROWS][runs of dimensions][TILE_ROWS]`.
    queries: Vec<RunBits>,
    /// Scores, `[ROW_BLOCK][SEGMENT]`.
    scores: Vec<f32>,
    /// Rounded numerators, `[ROW_BLOCK / TILE_ROWS][SEGMENT_RUNS][TILE_ROWS]`.
    numerators: Vec<RunBits>,
    /// A segment's values in pairs of tokens, `[dimensions / PAIR_OF_TILES][SEGMENT_RUNS][2][RUN_PAIRS]`.
    values: Vec<PairBits>,
}

/// Operands with a tile's queries, while this thread's tile registers are shaped for its rows.
///
/// Only [`TileOperands::load_queries`] makes one. So where there is one, the processor has AMX-BF16 and AVX-512 F, BW
/// and BF16, the system has granted tile data, and the registers have the shapes for `min(tile.rows, ROW_BLOCK)`
/// rows.
pub(in crate::backend::cpu::kernels::attention) struct TileQueries<'a> {
    isa: Isa,
    operands: &'a mut TileOperands,
    /// Rows of the tile whose queries these are.
    rows: usize,
}

impl Drop for TileQueries<'_> {
    fn drop(&mut self) {
        // SAFETY: `load_queries` has made this value, so the processor has AMX and the system has granted tile data.
        unsafe { tile_config::release() };
    }
}

impl TileOperands {
    /// Rounds a tile's queries, and shapes this thread's tile registers for its rows.
    ///
    /// # Safety
    /// The processor has AMX-BF16 and AVX-512 F, BW and BF16, and the system has granted this process the use of tile
    /// data.
    pub(super) unsafe fn load_queries(
        &mut self,
        isa: Isa,
        tile: &QueryTile<'_>,
        qkv: &[f32],
    ) -> TileQueries<'_> {
        let head_dim = tile.layer.shape.head_dim;
        let len = head_dim.div_ceil(RUN) * TILE_ROWS;
        let query = scratch_slice(&mut self.query, head_dim);
        let queries = scratch_slice(&mut self.queries, tile.rows.div_ceil(TILE_ROWS) * len);
        for row in 0..tile.rows {
            tile.query(isa, qkv, row, query_scale(tile), query);
            let out = queries[row / TILE_ROWS * len + row % TILE_ROWS..]
                .iter_mut()
                .step_by(TILE_ROWS);
            // SAFETY: the caller vouches for AVX-512 F and BF16.
            unsafe { round_row(query, out) };
        }
        // SAFETY: the caller vouches for AMX and the system's grant.
        unsafe { shapes(tile.rows.min(ROW_BLOCK)).load() };
        TileQueries {
            isa,
            operands: self,
            rows: tile.rows,
        }
    }
}

impl TileQueries<'_> {
    /// See [`super::operands::LoadedQueries::attend`].
    ///
    /// # Panics
    /// When the tile has other rows than the one whose queries are loaded.
    pub(super) fn attend(
        &mut self,
        tile: &QueryTile<'_>,
        cache: &LayerCache,
        segment: usize,
        state: &mut SoftmaxState<'_>,
    ) {
        assert!(tile.rows == self.rows);
        // SAFETY: where there is a `TileQueries`, the processor has all of these features. The registers are shaped for
        // `min(tile.rows, ROW_BLOCK)` rows, and so has every part but perhaps the last, which may have fewer: its
        // tiles then read and write rows of scratch behind its own, which are there for `ROW_BLOCK` rows.
        unsafe {
            self.load_values(tile, cache, segment);
            for part in sub_tiles(tile, segment) {
                self.multiply_keys(&part, cache);
                self.exponentiate(&part, state);
                self.multiply_values(&part, state);
            }
        }
    }

    /// Arranges a segment's values in pairs of tokens, with zeros for tokens that no row sees.
    ///
    /// # Safety
    /// The processor has AVX-512 F and BW.
    unsafe fn load_values(&mut self, tile: &QueryTile<'_>, cache: &LayerCache, segment: usize) {
        let head_dim = tile.layer.shape.head_dim;
        let seen = tile.seen_by(0..tile.rows, segment);
        let last = tile.visible(tile.rows - 1).end - 1;
        let groups = head_dim.div_ceil(PAIR_OF_TILES);
        let values = scratch_slice(&mut self.operands.values, groups * SEGMENT_RUNS * 2 * (RUN_PAIRS));
        for column in (seen.start / RUN * RUN..seen.end.next_multiple_of(RUN)).step_by(BLOCK_TOKENS) {
            let out = column / RUN * RUN + column % RUN / 2;
            // Blocks before the first token that is seen may have been evicted, and tokens behind the last may be
            // anything.
            if column + BLOCK_TOKENS <= seen.start || column >= seen.end {
                for group in values.chunks_exact_mut(SEGMENT_RUNS * RUN) {
                    for tile in [out, out + RUN_PAIRS] {
                        group[tile..][..BLOCK_PAIRS].fill(PairBits::default());
                    }
                }
                continue;
            }
            let position = segment * SEGMENT + column;
            let block = cache.bf16_block_head(tile.block_head(position));
            // The block's keys are read next, and then the next block's values. The hardware does not foresee where
            // they lie.
            let next = cache.bf16_block_head(tile.block_head((position + BLOCK_TOKENS).min(last)));
            let prefetched = [block.keys.as_ptr().cast(), next.values.as_ptr().cast()];
            let tokens = BLOCK_TOKENS.min(seen.end - column);
            let tokens = &block.values[..tokens * head_dim];
            // SAFETY: the caller vouches for AVX-512 F and BW.
            unsafe { pair_tokens(tokens, head_dim, prefetched, &mut values[out..]) };
        }
    }

    /// Computes the scores of a part's rows.
    ///
    /// # Safety
    /// This thread's tile registers have the shapes for the tile's rows, at most [`ROW_BLOCK`]. The processor has
    /// AMX-BF16, and the system has granted this process the use of tile data.
    unsafe fn multiply_keys(&mut self, part: &SubTile<'_>, cache: &LayerCache) {
        let SubTile {
            tile,
            segment,
            rows,
            seen,
            ..
        } = part;
        let runs = tile.layer.shape.head_dim.div_ceil(RUN);
        let TileOperands { queries, scores, .. } = &mut *self.operands;
        let scores = scratch_slice(scores, ROW_BLOCK * SEGMENT);
        let queries = &queries[rows.start / TILE_ROWS * runs * TILE_ROWS..];
        let first_block = seen.start / BLOCK_TOKENS * BLOCK_TOKENS;
        let last_block = (seen.end - 1) / BLOCK_TOKENS * BLOCK_TOKENS;
        for column in (seen.start / RUN * RUN..seen.end).step_by(RUN) {
            // One of a run's two blocks may not be there. Its scores are then computed from the other, and no row
            // sees them.
            let keys = [column, column + BLOCK_TOKENS].map(|column| {
                let column = column.clamp(first_block, last_block);
                let block = cache.bf16_block_head(tile.block_head(*segment * SEGMENT + column));
                block.keys.as_ptr().cast::<PairBits>()
            });
            let operands = Operands {
                x: queries.as_ptr(),
                x_second: if rows.len() > TILE_ROWS {
                    queries[runs * TILE_ROWS..].as_ptr()
                } else {
                    std::ptr::null()
                },
                w: keys,
                w_step: RUN_PAIRS,
                runs,
            };
            let c = OutputTile {
                start: scores[column..].as_mut_ptr(),
                stride: SEGMENT,
                output: Output::Replace,
            };
            // SAFETY: `queries` are whole tiles of rows with `runs` runs, from the part's first row on, a second tile
            // of them where there are more than `TILE_ROWS`. A head's keys of a block are `runs` runs of `RUN_PAIRS`
            // pairs for `BLOCK_TOKENS` tokens. `scores` has `ROW_BLOCK` rows of `SEGMENT`, which is whole runs, so
            // the `RUN` scores from `column` on are a row's own. The caller vouches for the registers and the
            // processor.
            unsafe { product_of_tiles(&operands, c) };
        }
    }

    /// Replaces scores by rounded numerators.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW and BF16.
    unsafe fn exponentiate(&mut self, part: &SubTile<'_>, state: &mut SoftmaxState<'_>) {
        let SubTile {
            tile,
            segment,
            rows,
            runs,
            ..
        } = part;
        let TileOperands {
            scores, numerators, ..
        } = &mut *self.operands;
        let numerators = scratch_slice(numerators, ROW_BLOCK * SEGMENT_RUNS);
        for (index, (row, scores)) in rows.clone().zip(scores.as_chunks_mut::<SEGMENT>().0).enumerate() {
            let out = &mut numerators[index / TILE_ROWS * SEGMENT_RUNS * TILE_ROWS + index % TILE_ROWS..];
            let Some(seen) = tile.seen(row, *segment) else {
                for run in runs.clone() {
                    out[run * TILE_ROWS] = RunBits::default();
                }
                continue;
            };
            cap_scores(self.isa, tile, &mut scores[seen.clone()]);
            // SAFETY: the caller vouches for AVX-512 F, BW and BF16.
            let sums = unsafe { powers(scores, seen, runs.clone(), out) };
            state.denominators[row] = sums.total;
            state.maxima[row] = sums.maximum;
        }
    }

    /// Computes the weighted sums of a part's rows.
    ///
    /// # Safety
    /// What [`Self::multiply_keys`] asks for.
    unsafe fn multiply_values(&mut self, part: &SubTile<'_>, state: &mut SoftmaxState<'_>) {
        let SubTile { tile, rows, runs, .. } = part;
        let width = tile.layer.shape.head_dim.next_multiple_of(PAIR_OF_TILES);
        let TileOperands {
            numerators, values, ..
        } = &*self.operands;
        for (index, values) in values
            .chunks_exact(SEGMENT_RUNS * RUN)
            .take(width / PAIR_OF_TILES)
            .enumerate()
        {
            let values = &values[runs.start * RUN..];
            let operands = Operands {
                x: numerators[runs.start * TILE_ROWS..].as_ptr(),
                x_second: if rows.len() > TILE_ROWS {
                    numerators[(SEGMENT_RUNS + runs.start) * TILE_ROWS..].as_ptr()
                } else {
                    std::ptr::null()
                },
                w: [values.as_ptr(), values[RUN_PAIRS..].as_ptr()],
                w_step: RUN,
                runs: runs.len(),
            };
            let sums = &mut state.weighted_sums[rows.start * width + index * PAIR_OF_TILES..];
            let c = OutputTile {
                start: sums.as_mut_ptr(),
                stride: width,
                output: Output::Replace,
            };
            // SAFETY: `numerators` are whole tiles of rows with `SEGMENT_RUNS` runs, two of them; `values` is two
            // tiles for each of the segment's runs from `runs.start` on, and `runs` end within the segment.
            // `weighted_sums` has whole tiles of the query tile's rows, `width` long, which is whole pairs of tiles.
            // The caller vouches for the registers and the processor.
            unsafe { product_of_tiles(&operands, c) };
        }
    }
}

/// Arranges a block's values, `[tokens][head_dim]`, in [`BLOCK_PAIRS`] pairs of tokens for each group of
/// [`PAIR_OF_TILES`] dimensions and each of its two tiles, with zeros for tokens that are not there. Besides, it
/// prefetches as many bytes as a block's values from each of the addresses `prefetched`.
///
/// # Safety
/// The processor has AVX-512 F and BW.
///
/// # Panics
/// When `out` has fewer pairs.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pair_tokens(tokens: &[u16], head_dim: usize, prefetched: [*const i8; 2], out: &mut [PairBits]) {
    /// Lines of the cache that are prefetched for each pair and group: a block's lines, evenly.
    const LINES: usize = BLOCK_TOKENS * PAIR_OF_TILES * size_of::<u16>() / CACHE_LINE / BLOCK_PAIRS;
    // Unpacking interleaves within quarters of a vector. With the quarters in this order before, the first tile gets
    // its dimensions in order, and so does the second.
    let order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    for (group, first) in (0..head_dim).step_by(PAIR_OF_TILES).enumerate() {
        let mask = u32::MAX >> (PAIR_OF_TILES - PAIR_OF_TILES.min(head_dim - first));
        let out = &mut out[group * SEGMENT_RUNS * RUN..][..RUN_PAIRS + BLOCK_PAIRS];
        let (left, right) = out.split_at_mut(RUN_PAIRS);
        for (pair, (left, right)) in left[..BLOCK_PAIRS].iter_mut().zip(right).enumerate() {
            let load = |token: usize| -> __m512i {
                let mask = if token * head_dim < tokens.len() { mask } else { 0 };
                // SAFETY: `mask` selects the dimensions from `first` on of a token that is in `tokens`, and nothing
                // of a token that is not; what is not selected is not read.
                let dims = unsafe {
                    _mm512_maskz_loadu_epi16(
                        mask,
                        tokens.as_ptr().wrapping_add(token * head_dim + first).cast(),
                    )
                };
                _mm512_permutexvar_epi64(order, dims)
            };
            let (even, odd) = (load(2 * pair), load(2 * pair + 1));
            let done = (group * BLOCK_PAIRS + pair) * LINES * CACHE_LINE;
            for address in prefetched {
                for line in 0..LINES {
                    _mm_prefetch(address.wrapping_add(done + line * CACHE_LINE), _MM_HINT_T0);
                }
            }
            // SAFETY: `left` and `right` are the 64 bytes that are stored.
            unsafe {
                _mm512_storeu_si512(left.0.as_mut_ptr().cast(), _mm512_unpacklo_epi16(even, odd));
                _mm512_storeu_si512(right.0.as_mut_ptr().cast(), _mm512_unpackhi_epi16(even, odd));
            }
        }
    }
}

/// Computes what [`super::vectors::powers`] does of a row's scores, and writes these runs of the numerators, rounded,
/// to `out[run * TILE_ROWS]`. Scores that the row does not see may be anything.
///
/// # Safety
/// The processor has AVX-512 F, BW and BF16.
///
/// # Panics
/// When `out` has fewer runs.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn powers(
    scores: &[f32; SEGMENT],
    seen: Range<usize>,
    runs: Range<usize>,
    out: &mut [RunBits],
) -> ScoreSums {
    const { assert!(SEGMENT == u128::BITS as usize && RUN == u32::BITS as usize) };
    let columns = (u128::MAX >> (SEGMENT - seen.len())) << seen.start;
    let masks: [u32; SEGMENT_RUNS] = std::array::from_fn(|run| (columns >> (run * RUN)) as u32);
    let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
    let (scores, _) = scores.as_chunks::<RUN>();
    // 2 to the power of minus infinity is 0: tokens that the row does not see weigh nothing.
    let load = |run: usize| {
        let (scores, mask) = (scores[run].as_ptr(), masks[run]);
        // SAFETY: `scores` is a run's 32 f32, of which each load reads 16 at most.
        unsafe {
            (
                _mm512_mask_loadu_ps(lowest, mask as u16, scores),
                _mm512_mask_loadu_ps(lowest, (mask >> LANES) as u16, scores.add(LANES)),
            )
        }
    };
    let mut maxima = lowest;
    for run in runs.clone() {
        let (low, high) = load(run);
        maxima = _mm512_max_ps(low, maxima);
        maxima = _mm512_max_ps(high, maxima);
    }
    let maximum = fold_lanes(maxima, |maxima, others| _mm512_max_ps(others, maxima));
    let maxima = _mm512_broadcastss_ps(_mm512_castps512_ps128(maximum));
    let mut total = _mm512_setzero_ps();
    for run in runs {
        let (low, high) = load(run);
        let low = power(_mm512_sub_ps(low, maxima));
        let high = power(_mm512_sub_ps(high, maxima));
        total = _mm512_add_ps(total, low);
        total = _mm512_add_ps(total, high);
        let RunBits(out) = &mut out[run * TILE_ROWS];
        // SAFETY: `out` is the 64 bytes that are stored. Both vector types are 64 bytes of which any bits are a value.
        unsafe {
            let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(out.as_mut_ptr().cast(), both);
        }
    }
    let total = fold_lanes(total, |total, others| _mm512_add_ps(total, others));
    ScoreSums {
        total: _mm512_cvtss_f32(total),
        maximum: _mm512_cvtss_f32(maximum),
    }
}

/// Joins the lanes of the upper half with those of the lower half, until one lane is left, the first.
#[inline]
#[target_feature(enable = "avx512f")]
fn fold_lanes(lanes: __m512, join: impl Fn(__m512, __m512) -> __m512) -> __m512 {
    let lanes = join(lanes, _mm512_shuffle_f32x4::<0b1110>(lanes, lanes));
    let lanes = join(lanes, _mm512_shuffle_f32x4::<0b01>(lanes, lanes));
    let lanes = join(lanes, _mm512_shuffle_ps::<0b1110>(lanes, lanes));
    join(lanes, _mm512_shuffle_ps::<0b01>(lanes, lanes))
}

/// [`crate::backend::cpu::kernels::attention::exp2::exp2`] of each lane.
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
