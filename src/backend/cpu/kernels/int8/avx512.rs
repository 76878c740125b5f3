//! AVX-512 with VNNI: 64 products of bytes in an instruction, 16 outputs in a vector.

use std::arch::x86_64::{
    __m512, __m512i, _MM_HINT_T1, _mm_loadu_si128, _mm_prefetch, _mm256_loadu_si256, _mm512_add_epi32,
    _mm512_and_si512, _mm512_castsi512_ps, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtph_ps,
    _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mul_ps,
    _mm512_or_si512, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_slli_epi32, _mm512_srli_epi32, _mm512_storeu_ps, _mm512_sub_epi32,
};

use super::{
    magic::{MAGIC, MAGIC_BITS},
    operands::RowPointers,
    sizes::ACTIVATION_GROUP,
    tile_lines::TileFloats,
};
use crate::backend::cpu::kernels::{
    output::{Output, OutputTile},
    panel::{PANEL, PANEL_WORD_BYTES, STRIP},
    strip::{SIX_BIT_UNIT, SIX_BIT_WORDS, Strip, StripBits, StripScales},
};

/// Prefetch distance of weights, in bytes, to the second-level cache. To the first, fewer lines are under way at a time: one to
/// eight sequences of SmolLM2 decode 3 to 9 % slower, and one of a model of 1B parameters 12 %. Without prefetching, decoding of six
/// sequences of SmolLM2 takes half as long again, because the hardware does not foresee enough: a strip has two of the four lines in
/// which a word of all of a panel's outputs lies.
/// Half the distance is 5 % slower, and that of a whole strip (9 to 18 KB) up to 20 %.
///
/// Tried and not taken: code of its own for each size of groups, with minimums and without, so that nothing is decided between two
/// groups; it was no faster.
const PREFETCH_DISTANCE: usize = 8192;
/// Most rows for which four-bit products have two chains of additions for each sum, one for either half of a word:
/// with so few rows, a single chain would wait for its own results.
const TWO_CHAIN_ROWS: usize = 3;

/// Integer sums of a group for rows and vectors of outputs, each added to [`MAGIC_BITS`].
type Dots<const ROWS: usize, const VECTORS: usize> = [[__m512i; VECTORS]; ROWS];

/// The products of `ROWS` rows and `VECTORS * 16` outputs.
///
/// # Safety
/// [`RowPointers::new`] has checked `ROWS` rows and this strip, whose width is `VECTORS * 16`, and the rows are still
/// borrowed. `c` is readable and writable for as many rows and outputs, and while this runs nobody else accesses
/// those. The processor has AVX-512 F, BW, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn product<const ROWS: usize, const VECTORS: usize>(
    rows: &RowPointers,
    strip: &Strip<'_>,
    c: OutputTile,
) {
    let short = strip.scales.are_short();
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    // SAFETY: `i < ROWS`, `j < VECTORS` and `group < rows.groups`, so all that is read of rows, scales, sums, words
    // and `c` is inside of what the caller has checked or vouches for.
    unsafe {
        if c.output == Output::Add {
            for (i, row) in sums.iter_mut().enumerate() {
                for (j, sum) in row.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(c.start.add(i * c.stride + 16 * j));
                }
            }
        }
        for group in 0..rows.groups {
            let first = group * strip.group;
            let words = strip.bits.words(first) * PANEL_WORD_BYTES;
            let at = strip.bits.bytes().as_ptr().add(words);
            let dots = match strip.bits {
                StripBits::Four(_) => multiply_four_bit(rows, at, first, strip, group),
                StripBits::Six(_) => multiply_six_bit::<ROWS, VECTORS>(rows, at, first, strip, group),
                StripBits::Eight(_) => multiply_eight_bit::<ROWS, VECTORS>(rows, at, first, strip, group),
            };
            let scales = read::<VECTORS>(&strip.scales, group);
            let mins = strip.mins.as_ref().map(|mins| read::<VECTORS>(mins, group));
            let offsets = scales.map(|scale| _mm512_mul_ps(scale, _mm512_set1_ps(-MAGIC)));
            let x_scales = rows.scales.add(first / ACTIVATION_GROUP);
            let scales_per_row = rows.cols / ACTIVATION_GROUP;
            for i in 0..ROWS {
                let x_scale = _mm512_set1_ps(*x_scales.add(i * scales_per_row));
                let mut t = [_mm512_setzero_ps(); VECTORS];
                for j in 0..VECTORS {
                    t[j] = if short {
                        _mm512_fmadd_ps(_mm512_castsi512_ps(dots[i][j]), scales[j], offsets[j])
                    } else {
                        let dot = _mm512_sub_epi32(dots[i][j], _mm512_set1_epi32(MAGIC_BITS));
                        _mm512_mul_ps(scales[j], _mm512_cvtepi32_ps(dot))
                    };
                }
                if let Some(mins) = mins {
                    let sum = _mm512_set1_ps(*rows.sums.add(i * rows.groups + group));
                    for j in 0..VECTORS {
                        t[j] = _mm512_fmadd_ps(mins[j], sum, t[j]);
                    }
                }
                for j in 0..VECTORS {
                    sums[i][j] = _mm512_fmadd_ps(t[j], x_scale, sums[i][j]);
                }
            }
        }
        for (i, row) in sums.iter().enumerate() {
            for (j, sum) in row.iter().enumerate() {
                _mm512_storeu_ps(c.start.add(i * c.stride + 16 * j), *sum);
            }
        }
    }
}

/// What a group's sums start from: the constant, and what the bits that stand for 0 contribute to the sum is
/// subtracted.
///
/// # Safety
/// `rows` points to `ROWS` rows, of which `group` is a group. The processor has AVX-512 F, BW, VL and VNNI.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn start<const ROWS: usize, const VECTORS: usize>(
    rows: &RowPointers,
    strip: &Strip<'_>,
    group: usize,
) -> Dots<ROWS, VECTORS> {
    let mut dots = [[_mm512_set1_epi32(MAGIC_BITS); VECTORS]; ROWS];
    if strip.zero != 0 {
        for (i, row) in dots.iter_mut().enumerate() {
            // SAFETY: `i < ROWS` and `group` is one of the rows' groups, so the caller vouches for the sum.
            let sum = unsafe { *rows.sums.add(i * rows.groups + group) } as i32;
            *row = [_mm512_set1_epi32(MAGIC_BITS - strip.zero * sum); VECTORS];
        }
    }
    dots
}

/// The integer sums of a group of four-bit weights, whose first input is `first`.
///
/// # Safety
/// As for [`product`] `rows` and `strip` are checked, `group` is one of the rows' groups, and `at` points to the
/// strip's first word of it. The processor has AVX-512 F, BW, VL and VNNI.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn multiply_four_bit<const ROWS: usize, const VECTORS: usize>(
    rows: &RowPointers,
    at: *const u8,
    first: usize,
    strip: &Strip<'_>,
    group: usize,
) -> Dots<ROWS, VECTORS> {
    let low_half = _mm512_set1_epi8(15);
    // SAFETY: the group has `strip.group / 8` words, of which `VECTORS * 64` bytes are read, `PANEL_WORD_BYTES`
    // apart; of each of `ROWS` rows the 8 activations of a word are read, as two unaligned i32.
    unsafe {
        let mut dots = start::<ROWS, VECTORS>(rows, strip, group);
        let mut second_dots = [[_mm512_setzero_si512(); VECTORS]; ROWS];
        for word in 0..strip.group / 8 {
            let (mut low_weights, mut high_weights) = (
                [_mm512_setzero_si512(); VECTORS],
                [_mm512_setzero_si512(); VECTORS],
            );
            for j in 0..VECTORS {
                let both = load_and_prefetch(at.add(word * PANEL_WORD_BYTES + 64 * j));
                low_weights[j] = _mm512_and_si512(both, low_half);
                high_weights[j] = _mm512_and_si512(_mm512_srli_epi32::<4>(both), low_half);
            }
            for i in 0..ROWS {
                let x = rows.values.add(i * rows.stride + first + 8 * word).cast::<i32>();
                let (low_x, high_x) = (
                    _mm512_set1_epi32(x.read_unaligned()),
                    _mm512_set1_epi32(x.add(1).read_unaligned()),
                );
                for j in 0..VECTORS {
                    dots[i][j] = _mm512_dpbusd_epi32(dots[i][j], low_weights[j], low_x);
                    if ROWS <= TWO_CHAIN_ROWS {
                        second_dots[i][j] = _mm512_dpbusd_epi32(second_dots[i][j], high_weights[j], high_x);
                    } else {
                        dots[i][j] = _mm512_dpbusd_epi32(dots[i][j], high_weights[j], high_x);
                    }
                }
            }
        }
        if ROWS <= TWO_CHAIN_ROWS {
            for i in 0..ROWS {
                for j in 0..VECTORS {
                    dots[i][j] = _mm512_add_epi32(dots[i][j], second_dots[i][j]);
                }
            }
        }
        dots
    }
}

/// Loads 64 bytes of weights, and prefetches what lies [`PREFETCH_DISTANCE`] behind.
///
/// # Safety
/// `at` is readable for 64 bytes, which need not be aligned. The processor has AVX-512 F.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_and_prefetch(at: *const u8) -> __m512i {
    _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(PREFETCH_DISTANCE).cast());
    // SAFETY: the caller vouches for the bytes.
    unsafe { _mm512_loadu_si512(at.cast()) }
}

/// The integer sums of a group of eight-bit weights, whose first input is `first`.
///
/// # Safety
/// As for [`multiply_four_bit`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn multiply_eight_bit<const ROWS: usize, const VECTORS: usize>(
    rows: &RowPointers,
    at: *const u8,
    first: usize,
    strip: &Strip<'_>,
    group: usize,
) -> Dots<ROWS, VECTORS> {
    // SAFETY: the group has `strip.group / 4` words, of which `VECTORS * 64` bytes are read, `PANEL_WORD_BYTES` apart; of each
    // of `ROWS` rows the 4 activations of a word are read, as an unaligned i32.
    unsafe {
        let mut dots = start::<ROWS, VECTORS>(rows, strip, group);
        for word in 0..strip.group / 4 {
            let mut weights = [_mm512_setzero_si512(); VECTORS];
            for (j, weights) in weights.iter_mut().enumerate() {
                *weights = load_and_prefetch(at.add(word * PANEL_WORD_BYTES + 64 * j));
            }
            for (i, row) in dots.iter_mut().enumerate() {
                let x = rows.values.add(i * rows.stride + first + 4 * word).cast::<i32>();
                let x = _mm512_set1_epi32(x.read_unaligned());
                for (dot, weights) in row.iter_mut().zip(weights) {
                    *dot = _mm512_dpbusd_epi32(*dot, weights, x);
                }
            }
        }
        dots
    }
}

/// The integer sums of a group of six-bit weights, whose first input is `first`.
///
/// # Safety
/// As for [`multiply_four_bit`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn multiply_six_bit<const ROWS: usize, const VECTORS: usize>(
    rows: &RowPointers,
    at: *const u8,
    first: usize,
    strip: &Strip<'_>,
    group: usize,
) -> Dots<ROWS, VECTORS> {
    // SAFETY: the group has `strip.group / SIX_BIT_UNIT` units of `SIX_BIT_WORDS` words, of which `VECTORS * 64` bytes are read,
    // `PANEL_WORD_BYTES` apart; of each of `ROWS` rows the 16 activations of a unit are read, as unaligned i32.
    unsafe {
        let mut dots = start::<ROWS, VECTORS>(rows, strip, group);
        for unit in 0..strip.group / SIX_BIT_UNIT {
            let words = at.add(unit * SIX_BIT_WORDS * PANEL_WORD_BYTES);
            let mut vectors = [[_mm512_setzero_si512(); 4]; VECTORS];
            for (j, quarters) in vectors.iter_mut().enumerate() {
                let [first_low, second_low, high] =
                    [0, 1, 2].map(|word| load_and_prefetch(words.add(word * PANEL_WORD_BYTES + 64 * j)));
                *quarters = [
                    join_bits(first_low, _mm512_slli_epi32::<4>(high)),
                    join_bits(_mm512_srli_epi32::<4>(first_low), _mm512_slli_epi32::<2>(high)),
                    join_bits(second_low, high),
                    join_bits(_mm512_srli_epi32::<4>(second_low), _mm512_srli_epi32::<2>(high)),
                ];
            }
            for (i, row) in dots.iter_mut().enumerate() {
                let x = rows
                    .values
                    .add(i * rows.stride + first + SIX_BIT_UNIT * unit)
                    .cast::<i32>();
                for quarter in 0..4 {
                    let x = _mm512_set1_epi32(x.add(quarter).read_unaligned());
                    for (dot, quarters) in row.iter_mut().zip(&vectors) {
                        *dot = _mm512_dpbusd_epi32(*dot, quarters[quarter], x);
                    }
                }
            }
        }
        dots
    }
}

/// Six-bit weights: their low four bits, and their high two, which stand where they belong. Other bits are ignored.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn join_bits(low: __m512i, high: __m512i) -> __m512i {
    let low = _mm512_and_si512(low, _mm512_set1_epi8(15));
    _mm512_or_si512(low, _mm512_and_si512(high, _mm512_set1_epi8(0x30)))
}

/// Writes the scales of a strip's weights from group `first` on, their minimums if there are any, and the scales times minus
/// [`MAGIC`], to `out`: for each vector of outputs `[groups][3]`.
///
/// # Safety
/// The strip's scales and minimums cover the groups before `first` and as many more as `out` has. The processor has AVX-512 F, BW, VL and VNNI.
///
/// # Panics
/// When `out` is not whole groups of the strip's outputs.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn read_factors(strip: &Strip<'_>, first: usize, out: &mut [TileFloats]) {
    // SAFETY: the caller vouches for the scales and minimums of a strip's or a panel's outputs.
    unsafe {
        match strip.width {
            STRIP => read_factors_of::<{ STRIP / 16 }>(strip, first, out),
            PANEL => read_factors_of::<{ PANEL / 16 }>(strip, first, out),
            width => unreachable!("strips have {STRIP} or {PANEL} outputs and not {width}"),
        }
    }
}

/// [`read_factors`] for `VECTORS * 16` outputs.
///
/// # Safety
/// What [`read_factors`] asks for, and the strip has as many outputs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn read_factors_of<const VECTORS: usize>(strip: &Strip<'_>, first: usize, out: &mut [TileFloats]) {
    assert!(out.len().is_multiple_of(3 * VECTORS));
    let groups = out.len() / (3 * VECTORS);
    for group in 0..groups {
        // SAFETY: the caller vouches for the group's scales and minimums. Each store writes one of the arrays.
        unsafe {
            let scales = read::<VECTORS>(&strip.scales, first + group);
            let mins = match &strip.mins {
                Some(mins) => read::<VECTORS>(mins, first + group),
                None => [_mm512_setzero_ps(); VECTORS],
            };
            for vector in 0..VECTORS {
                let offset = _mm512_mul_ps(scales[vector], _mm512_set1_ps(-MAGIC));
                let out = out[(vector * groups + group) * 3..].iter_mut();
                for (TileFloats(out), values) in out.zip([scales[vector], mins[vector], offset]) {
                    _mm512_storeu_ps(out.as_mut_ptr(), values);
                }
            }
        }
    }
}

/// A group's scales or minimums.
///
/// # Safety
/// `scales` has values of this group for `VECTORS * 16` outputs. The processor has AVX-512 F, BW, VL and VNNI.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn read<const VECTORS: usize>(scales: &StripScales<'_>, group: usize) -> [__m512; VECTORS] {
    let mut out = [_mm512_setzero_ps(); VECTORS];
    for (j, out) in out.iter_mut().enumerate() {
        // SAFETY: each load reads 16 outputs' values of the group (or of the group's base), and `j < VECTORS`, so the
        // caller vouches for them.
        *out = unsafe {
            match scales {
                StripScales::F16(values) => _mm512_cvtph_ps(_mm256_loadu_si256(
                    values.as_ptr().add(group * PANEL + 16 * j).cast(),
                )),
                StripScales::F32(values) => _mm512_loadu_ps(values.as_ptr().add(group * PANEL + 16 * j)),
                StripScales::Steps {
                    bases,
                    steps,
                    groups_per_base,
                } => {
                    let base = bases.as_ptr().add(group / groups_per_base * PANEL + 16 * j);
                    let step = _mm_loadu_si128(steps.as_ptr().add(group * PANEL + 16 * j).cast());
                    _mm512_mul_ps(
                        _mm512_cvtph_ps(_mm256_loadu_si256(base.cast())),
                        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(step)),
                    )
                }
            }
        };
    }
    out
}
