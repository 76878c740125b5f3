//! Attention in AMX tiles, and numerators in AVX-512.
//!
//! 128 query rows share a segment of 128 tokens, whose values are arranged in pairs of tokens once. They are multiplied in
//! parts of 32 rows, and while the numerators of one part are computed in vectors, tiles multiply the values with those of the
//! part before and the keys with the queries of the part behind. With that, 139 rows of SmolLM2 that see 890 tokens take
//! 810 µs a layer on one thread instead of 1,050.
//!
//! Tried and not taken: prefetching more than two blocks ahead, or into the second-level cache only, and large pages for keys
//! and values; none is faster. A kernel in vectors for the rows of one token, which reads keys and values where they lie, takes
//! 3 to 5 % less where they come from memory and up to a fifth more where they come from a cache. Without any prefetching, decoding
//! 32 sequences of 512 tokens takes 40 % longer.

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

use super::{
    products::{KeyProducts, PAIR_OF_TILES, Products, ValueProducts},
    sub_tile::{SEGMENT_RUNS, SubTile, cap_scores, query_scale, sub_tiles},
};
use crate::backend::cpu::kernels::{
    attention::{
        cache::LayerCache,
        exp2::{EXP2, LEAST_EXPONENT, ROUNDING},
        query_tile::QueryTile,
        sizes::{BLOCK_TOKENS, SEGMENT},
        softmax::SoftmaxState,
    },
    bf16::{PairBits, ROW_BLOCK, RUN, RUN_PAIRS, RunBits, SteppedProduct, TILE_ROWS, round_row, shapes},
    buffers::scratch_slice,
    elementwise::ScoreSums,
    isa::Isa,
    micro::LANES,
    prefetch::CACHE_LINE,
    tile_config,
};

/// How many blocks ahead of the one whose values are arranged keys are prefetched.
const KEYS_AHEAD: usize = 2;
/// The same for values.
const VALUES_AHEAD: usize = 1;
/// Pairs of tokens in a block.
const BLOCK_PAIRS: usize = BLOCK_TOKENS / 2;

/// A worker's copy of what the products of a segment read.
#[derive(Default)]
pub(in crate::backend::cpu::kernels::attention) struct TileOperands {
    /// A scaled query.
    query: Vec<f32>,
    /// Rounded queries, `[rows / TILE_ROWS][runs of dimensions][TILE_ROWS]`.
    queries: Vec<RunBits>,
    /// Of two parts of a query tile, which take turns.
    parts: [PartMemory; 2],
    /// A segment's values in pairs of tokens, `[dimensions / PAIR_OF_TILES][SEGMENT_RUNS][2][RUN_PAIRS]`.
    values: Vec<PairBits>,
}

/// Memory for [`PartOperands`].
#[derive(Default)]
struct PartMemory {
    scores: Vec<f32>,
    numerators: Vec<RunBits>,
}

/// What softmax of a part's rows reads and writes.
struct PartOperands<'a> {
    /// Scores, `[ROW_BLOCK][SEGMENT]`.
    scores: &'a mut [f32],
    /// Rounded numerators, `[ROW_BLOCK / TILE_ROWS][SEGMENT_RUNS][TILE_ROWS]`.
    numerators: &'a mut [RunBits],
}

impl PartMemory {
    fn operands(&mut self) -> PartOperands<'_> {
        PartOperands {
            scores: scratch_slice(&mut self.scores, ROW_BLOCK * SEGMENT),
            numerators: scratch_slice(&mut self.numerators, ROW_BLOCK * SEGMENT_RUNS),
        }
    }
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
        let isa = self.isa;
        let groups = tile.layer.shape.head_dim.div_ceil(PAIR_OF_TILES);
        let TileOperands {
            queries,
            parts: [this, other],
            values,
            ..
        } = &mut *self.operands;
        let values = scratch_slice(values, groups * SEGMENT_RUNS * RUN);
        let (mut this, mut other) = (this.operands(), other.operands());
        let mut parts = sub_tiles(tile, segment);
        let mut part = parts.next();
        let first = part.as_ref().map(|part| KeyProducts {
            part,
            queries,
            cache,
            scores: this.scores,
        });
        let mut products = Products::new(first, None);
        // SAFETY: where there is a `TileQueries`, the processor has all of these features. The registers are shaped for
        // `min(tile.rows, ROW_BLOCK)` rows, and so has every part but perhaps the last, which may have fewer: its
        // tiles then read and write rows of scratch behind its own, which are there for `ROW_BLOCK` rows.
        unsafe {
            load_values(tile, cache, segment, values, &mut products);
            products.finish();
        }
        let mut before: Option<SubTile<'_>> = None;
        while let Some(current) = part {
            part = parts.next();
            let mut products = Products::new(
                part.as_ref().map(|part| KeyProducts {
                    part,
                    queries,
                    cache,
                    scores: other.scores,
                }),
                before.as_ref().map(|part| ValueProducts {
                    part,
                    numerators: other.numerators,
                    values,
                    weighted_sums: state.weighted_sums,
                }),
            );
            let mut sums = SoftmaxRows {
                maxima: state.maxima,
                denominators: state.denominators,
            };
            // SAFETY: as above.
            unsafe {
                exponentiate(isa, &current, &mut this, &mut sums, &mut products);
                products.finish();
            }
            before = Some(current);
            std::mem::swap(&mut this, &mut other);
        }
        let last = before.as_ref().map(|part| ValueProducts {
            part,
            numerators: other.numerators,
            values,
            weighted_sums: state.weighted_sums,
        });
        // SAFETY: as above.
        unsafe { Products::new(None, last).finish() };
    }
}

/// Maxima and denominators of a query tile's rows, `[rows]`.
struct SoftmaxRows<'a> {
    maxima: &'a mut [f32],
    denominators: &'a mut [f32],
}

/// Arranges a segment's values in pairs of tokens, `[dimensions / PAIR_OF_TILES][SEGMENT_RUNS][2][RUN_PAIRS]`, with zeros for
/// tokens that no row sees, and computes runs of `products` meanwhile.
///
/// # Safety
/// What [`Products::finish`] asks for, and the processor has AVX-512 F and BW.
unsafe fn load_values(
    tile: &QueryTile<'_>,
    cache: &LayerCache,
    segment: usize,
    values: &mut [PairBits],
    products: &mut Products<'_>,
) {
    let head_dim = tile.layer.shape.head_dim;
    let seen = tile.seen_by(0..tile.rows, segment);
    let last = tile.visible(tile.rows - 1).end - 1;
    let first_column = seen.start / RUN * RUN;
    let columns = (seen.end.next_multiple_of(RUN) - first_column) / BLOCK_TOKENS;
    for index in 0..columns {
        let column = first_column + index * BLOCK_TOKENS;
        let out = column / RUN * RUN + column % RUN / 2;
        // Blocks before the first token that is seen may have been evicted, and tokens behind the last may be
        // anything.
        if column + BLOCK_TOKENS <= seen.start || column >= seen.end {
            for group in values.chunks_exact_mut(SEGMENT_RUNS * RUN) {
                for tile in [out, out + RUN_PAIRS] {
                    group[tile..][..BLOCK_PAIRS].fill(PairBits::default());
                }
            }
        } else {
            let position = segment * SEGMENT + column;
            let block = cache.bf16_block_head(tile.block_head(position));
            let ahead = |blocks: usize| {
                cache.bf16_block_head(tile.block_head((position + blocks * BLOCK_TOKENS).min(last)))
            };
            // Later blocks are read soon, and the hardware does not foresee where they lie.
            let prefetched = [
                ahead(KEYS_AHEAD).keys.as_ptr().cast(),
                ahead(VALUES_AHEAD).values.as_ptr().cast(),
            ];
            let tokens = BLOCK_TOKENS.min(seen.end - column);
            let tokens = BlockTokens {
                values: &block.values[..tokens * head_dim],
                head_dim,
                prefetched,
            };
            // SAFETY: the caller vouches for AVX-512 F and BW, and for what the products ask for.
            unsafe { pair_tokens(&tokens, &mut values[out..], products.due(columns)) };
        }
    }
}

/// Replaces scores by rounded numerators, and computes runs of `products` meanwhile.
///
/// # Safety
/// What [`Products::finish`] asks for, and the processor has AVX-512 F, BW and BF16.
unsafe fn exponentiate(
    isa: Isa,
    part: &SubTile<'_>,
    operands: &mut PartOperands<'_>,
    sums: &mut SoftmaxRows<'_>,
    products: &mut Products<'_>,
) {
    let SubTile {
        tile,
        segment,
        rows,
        runs,
        ..
    } = part;
    let PartOperands { scores, numerators } = operands;
    for (index, (row, scores)) in rows.clone().zip(scores.as_chunks_mut::<SEGMENT>().0).enumerate() {
        let out = &mut numerators[index / TILE_ROWS * SEGMENT_RUNS * TILE_ROWS + index % TILE_ROWS..];
        match tile.seen(row, *segment) {
            None => {
                for run in runs.clone() {
                    out[run * TILE_ROWS] = RunBits::default();
                }
            }
            Some(seen) => {
                cap_scores(isa, tile, &mut scores[seen.clone()]);
                let of_row = RowScores {
                    scores,
                    seen,
                    first: runs.start,
                };
                let product = products.due(rows.len());
                // SAFETY: the caller vouches for AVX-512 F, BW and BF16, and for what the products ask for.
                let of_row = unsafe {
                    match runs.len() {
                        1 => powers::<1>(&of_row, out, product),
                        2 => powers::<2>(&of_row, out, product),
                        3 => powers::<3>(&of_row, out, product),
                        _ => powers::<SEGMENT_RUNS>(&of_row, out, product),
                    }
                };
                sums.denominators[row] = of_row.total;
                sums.maxima[row] = of_row.maximum;
            }
        }
    }
}

/// Values of a block's tokens.
struct BlockTokens<'a> {
    /// `[tokens][head_dim]`
    values: &'a [u16],
    head_dim: usize,
    /// As many bytes as a block's values are prefetched from each of these addresses.
    prefetched: [*const i8; 2],
}

/// Arranges a block's values in [`BLOCK_PAIRS`] pairs of tokens for each group of [`PAIR_OF_TILES`] dimensions and each of its
/// two tiles, with zeros for tokens that are not there, and computes a run of `product` meanwhile.
///
/// # Safety
/// The processor has AVX-512 F and BW. Where there is a product: what [`SteppedProduct`] asks for.
///
/// # Panics
/// When `out` has fewer pairs.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pair_tokens(
    block: &BlockTokens<'_>,
    out: &mut [PairBits],
    mut product: Option<&mut SteppedProduct>,
) {
    let BlockTokens {
        values: tokens,
        head_dim,
        prefetched,
    } = *block;
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
            if group == 0
                && pair % (BLOCK_PAIRS / 4) == 0
                && let Some(product) = &mut product
            {
                // SAFETY: the caller vouches for what the product asks for. Four pairs come here, in this order.
                unsafe {
                    match pair / (BLOCK_PAIRS / 4) {
                        0 => product.load(),
                        1 => product.multiply_first(),
                        2 => product.multiply_second(),
                        _ => product.multiply_rest(),
                    }
                }
            }
        }
    }
}

/// A row's scores.
struct RowScores<'a> {
    scores: &'a [f32; SEGMENT],
    /// Those that the row sees. The others may be anything.
    seen: Range<usize>,
    /// The first run of numerators that is wanted.
    first: usize,
}

/// Computes what [`super::vectors::powers`] does of a row's scores, and writes `RUNS` runs of the numerators, rounded, to
/// `out[run * TILE_ROWS]`. Meanwhile it computes a run of `product`: its instructions stand between those for vectors, for
/// the processor does both at the same time only where they are close together.
///
/// # Safety
/// The processor has AVX-512 F, BW and BF16. Where there is a product: what [`SteppedProduct`] asks for.
///
/// # Panics
/// When `out` or the segment has fewer runs.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn powers<const RUNS: usize>(
    row: &RowScores<'_>,
    out: &mut [RunBits],
    mut product: Option<&mut SteppedProduct>,
) -> ScoreSums {
    const { assert!(SEGMENT == u128::BITS as usize && RUN == u32::BITS as usize && RUNS > 0) };
    let RowScores { scores, seen, first } = row;
    if let Some(product) = &mut product {
        // SAFETY: the caller vouches for what the product asks for.
        unsafe { product.load() };
    }
    let columns = ((u128::MAX >> (SEGMENT - seen.len())) << seen.start) >> (first * RUN);
    let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
    let scores = &scores.as_chunks::<RUN>().0[*first..][..RUNS];
    let out = &mut out[first * TILE_ROWS..][..(RUNS - 1) * TILE_ROWS + 1];
    // 2 to the power of minus infinity is 0: tokens that the row does not see weigh nothing.
    let loaded: [[__m512; 2]; RUNS] = std::array::from_fn(|run| {
        let (scores, mask) = (scores[run].as_ptr(), (columns >> (run * RUN)) as u32);
        // SAFETY: `scores` is a run's 32 f32, of which each load reads 16 at most.
        unsafe {
            [
                _mm512_mask_loadu_ps(lowest, mask as u16, scores),
                _mm512_mask_loadu_ps(lowest, (mask >> LANES) as u16, scores.add(LANES)),
            ]
        }
    });
    let mut maxima = lowest;
    for half in loaded.as_flattened() {
        maxima = _mm512_max_ps(*half, maxima);
    }
    let maximum = fold_lanes(maxima, |maxima, others| _mm512_max_ps(others, maxima));
    let maxima = _mm512_broadcastss_ps(_mm512_castps512_ps128(maximum));
    if let Some(product) = &mut product {
        // SAFETY: as above.
        unsafe { product.multiply_first() };
    }
    let mut total = _mm512_setzero_ps();
    for (run, [low, high]) in loaded.into_iter().enumerate() {
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
        if let Some(product) = &mut product {
            // SAFETY: as above.
            unsafe {
                if run == 0 {
                    product.multiply_second();
                }
                if run == RUNS / 2 {
                    product.multiply_rest();
                }
            }
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
