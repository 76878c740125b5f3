//! AVX2: 32 products of bytes in an instruction, 8 outputs in a vector.
//!
//! The instruction multiplies unsigned by signed bytes and adds neighbouring products in 16 bits, so kernels keep
//! those sums from overflowing.

use std::arch::x86_64::{
    __m256, __m256i, _mm_loadl_epi64, _mm_loadu_si128, _mm256_abs_epi8, _mm256_add_epi16, _mm256_add_epi32,
    _mm256_and_si256, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps,
    _mm256_or_si256, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps,
    _mm256_setzero_ps, _mm256_setzero_si256, _mm256_sign_epi8, _mm256_slli_epi32, _mm256_srli_epi32,
    _mm256_storeu_ps, _mm256_sub_epi32, _mm256_xor_si256,
};

use super::{operands::RowPointers, sizes::ACTIVATION_GROUP};
use crate::backend::cpu::kernels::{
    output::{Output, OutputTile},
    panel::{PANEL, PANEL_WORD_BYTES},
    strip::{SIX_BIT_UNIT, SIX_BIT_WORDS, Strip, StripBits, StripScales},
};

/// The products of `ROWS` rows and `VECTORS * 16` outputs.
///
/// # Safety
/// [`RowPointers::new`] has checked `ROWS` rows and this strip, whose width is `VECTORS * 16`, and the rows are still
/// borrowed. `c` is readable and writable for as many rows and outputs, and while this runs nobody else accesses
/// those. The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn product<const ROWS: usize, const VECTORS: usize>(
    rows: &RowPointers,
    strip: &Strip<'_>,
    c: OutputTile,
) {
    for lane in (0..16 * VECTORS).step_by(8) {
        // SAFETY: `i < ROWS`, `group < rows.groups` and `lane + 8 <= 16 * VECTORS`, so all that is read of rows,
        // scales, sums, words and `c` is inside of what the caller has checked or vouches for.
        unsafe {
            let mut sums = [_mm256_setzero_ps(); ROWS];
            if c.output == Output::Add {
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm256_loadu_ps(c.start.add(i * c.stride + lane));
                }
            }
            for group in 0..rows.groups {
                let first = group * strip.group;
                let words = strip.bits.words(first) * PANEL_WORD_BYTES;
                let at = strip.bits.bytes().as_ptr().add(words + 4 * lane);
                let dots: [__m256i; ROWS] = match strip.bits {
                    StripBits::Four(_) => multiply_four_bit(rows, at, first, strip, group),
                    StripBits::Six(_) => multiply_six_bit(rows, at, first, strip, group),
                    StripBits::Eight(_) => multiply_eight_bit(rows, at, first, strip),
                };
                let scales = read(&strip.scales, group, lane);
                let mins = strip.mins.as_ref().map(|mins| read(mins, group, lane));
                for i in 0..ROWS {
                    let x_scale = *rows
                        .scales
                        .add(i * (rows.cols / ACTIVATION_GROUP) + first / ACTIVATION_GROUP);
                    let mut t = _mm256_mul_ps(scales, _mm256_cvtepi32_ps(dots[i]));
                    if let Some(mins) = mins {
                        let sum = *rows.sums.add(i * rows.groups + group);
                        t = _mm256_fmadd_ps(mins, _mm256_set1_ps(sum), t);
                    }
                    sums[i] = _mm256_fmadd_ps(t, _mm256_set1_ps(x_scale), sums[i]);
                }
            }
            for (i, sum) in sums.iter().enumerate() {
                _mm256_storeu_ps(c.start.add(i * c.stride + lane), *sum);
            }
        }
    }
}

/// The integer sums of a group of four-bit weights, whose first input is `first`, for 8 outputs.
///
/// # Safety
/// As for [`product`] `rows` and `strip` are checked, `group` is one of the rows' groups, and `at` points to the
/// group's first word of 8 outputs of the strip. The processor has AVX2, FMA and F16C.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_four_bit<const ROWS: usize>(
    rows: &RowPointers,
    at: *const u8,
    first: usize,
    strip: &Strip<'_>,
    group: usize,
) -> [__m256i; ROWS] {
    let (low_half, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
    let mut pairs = [_mm256_setzero_si256(); ROWS];
    // SAFETY: the group has `strip.group / 8` words, of which the 32 bytes of 8 outputs are read, `PANEL_WORD_BYTES`
    // apart; of each of `ROWS` rows the 8 activations of a word are read, as two unaligned i32, and the group's sum.
    unsafe {
        // A pair is at most 2 * 15 * 127, and eight of them are added: 30,480 fits 16 bits.
        for word in 0..strip.group / 8 {
            let both = _mm256_loadu_si256(at.add(word * PANEL_WORD_BYTES).cast());
            let low_weights = _mm256_and_si256(both, low_half);
            let high_weights = _mm256_and_si256(_mm256_srli_epi32::<4>(both), low_half);
            for (i, pairs) in pairs.iter_mut().enumerate() {
                let x = rows.values.add(i * rows.stride + first + 8 * word).cast::<i32>();
                let low_x = _mm256_set1_epi32(x.read_unaligned());
                let high_x = _mm256_set1_epi32(x.add(1).read_unaligned());
                *pairs = _mm256_add_epi16(*pairs, _mm256_maddubs_epi16(low_weights, low_x));
                *pairs = _mm256_add_epi16(*pairs, _mm256_maddubs_epi16(high_weights, high_x));
            }
        }
        let mut dots = pairs.map(|pairs| _mm256_madd_epi16(pairs, ones));
        subtract_zero(&mut dots, rows, strip, group);
        dots
    }
}

/// Subtracts what the bits that stand for 0 contribute to the integer sums of a group.
///
/// # Safety
/// `rows` points to `ROWS` rows, of which `group` is a group. The processor has AVX2, FMA and F16C.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn subtract_zero<const ROWS: usize>(
    dots: &mut [__m256i; ROWS],
    rows: &RowPointers,
    strip: &Strip<'_>,
    group: usize,
) {
    if strip.zero != 0 {
        for (i, dot) in dots.iter_mut().enumerate() {
            // SAFETY: `i < ROWS` and `group` is one of the rows' groups, so the caller vouches for the sum.
            let sum = unsafe { *rows.sums.add(i * rows.groups + group) } as i32;
            *dot = _mm256_sub_epi32(*dot, _mm256_set1_epi32(strip.zero * sum));
        }
    }
}

/// The integer sums of a group of six-bit weights, whose first input is `first`, for 8 outputs.
///
/// # Safety
/// As for [`multiply_four_bit`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_six_bit<const ROWS: usize>(
    rows: &RowPointers,
    at: *const u8,
    first: usize,
    strip: &Strip<'_>,
    group: usize,
) -> [__m256i; ROWS] {
    let (low_bits, high_bits) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
    let ones = _mm256_set1_epi16(1);
    let mut dots = [_mm256_setzero_si256(); ROWS];
    // SAFETY: the group has `strip.group / SIX_BIT_UNIT` units of `SIX_BIT_WORDS` words, of which the 32 bytes of 8 outputs are
    // read, `PANEL_WORD_BYTES` apart; of each of `ROWS` rows the 16 activations of a unit are read, as unaligned i32, and the
    // group's sum.
    unsafe {
        for unit in 0..strip.group / SIX_BIT_UNIT {
            let words = at.add(unit * SIX_BIT_WORDS * PANEL_WORD_BYTES);
            let [first_low, second_low, high] =
                [0, 1, 2].map(|word| _mm256_loadu_si256(words.add(word * PANEL_WORD_BYTES).cast()));
            let weights = [
                (first_low, _mm256_slli_epi32::<4>(high)),
                (_mm256_srli_epi32::<4>(first_low), _mm256_slli_epi32::<2>(high)),
                (second_low, high),
                (_mm256_srli_epi32::<4>(second_low), _mm256_srli_epi32::<2>(high)),
            ]
            .map(|(low, high)| {
                _mm256_or_si256(_mm256_and_si256(low, low_bits), _mm256_and_si256(high, high_bits))
            });
            for (i, dot) in dots.iter_mut().enumerate() {
                let x = rows
                    .values
                    .add(i * rows.stride + first + SIX_BIT_UNIT * unit)
                    .cast::<i32>();
                // A pair is at most 2 * 63 * 127, and two of them are added: 32,004 fits 16 bits.
                for half in [0, 2] {
                    let pairs = [half, half + 1].map(|quarter| {
                        let x = _mm256_set1_epi32(x.add(quarter).read_unaligned());
                        _mm256_maddubs_epi16(weights[quarter], x)
                    });
                    let pairs = _mm256_add_epi16(pairs[0], pairs[1]);
                    *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        subtract_zero(&mut dots, rows, strip, group);
    }
    dots
}

/// The integer sums of a group of eight-bit weights, whose first input is `first`, for 8 outputs.
///
/// # Safety
/// As for [`multiply_four_bit`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_eight_bit<const ROWS: usize>(
    rows: &RowPointers,
    at: *const u8,
    first: usize,
    strip: &Strip<'_>,
) -> [__m256i; ROWS] {
    let ones = _mm256_set1_epi16(1);
    // Multiplies the magnitude of a signed weight by the input with the weight's sign: 2 * 128 * 127 fits 16 bits, and
    // 2 * 255 * 127, with unsigned weights, would not.
    let flip = _mm256_set1_epi8(if strip.zero == 128 { -128 } else { 0 });
    let mut dots = [_mm256_setzero_si256(); ROWS];
    // SAFETY: the group has `strip.group / 4` words, of which the 32 bytes of 8 outputs are read, `PANEL_WORD_BYTES`
    // apart; of each of `ROWS` rows the 4 activations of a word are read, as an unaligned i32.
    unsafe {
        for word in 0..strip.group / 4 {
            let weights = _mm256_xor_si256(_mm256_loadu_si256(at.add(word * PANEL_WORD_BYTES).cast()), flip);
            let magnitudes = _mm256_abs_epi8(weights);
            for (i, dot) in dots.iter_mut().enumerate() {
                let x = rows.values.add(i * rows.stride + first + 4 * word).cast::<i32>();
                let x = _mm256_sign_epi8(_mm256_set1_epi32(x.read_unaligned()), weights);
                let pairs = _mm256_maddubs_epi16(magnitudes, x);
                *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(pairs, ones));
            }
        }
    }
    dots
}

/// A group's scales or minimums of the 8 outputs from `lane` on.
///
/// # Safety
/// `scales` has values of this group for `lane + 8` outputs. The processor has AVX2 and F16C.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn read(scales: &StripScales<'_>, group: usize, lane: usize) -> __m256 {
    // SAFETY: each load reads 8 outputs' values of the group (or of the group's base), which the caller vouches for.
    unsafe {
        match scales {
            StripScales::F16(values) => {
                _mm256_cvtph_ps(_mm_loadu_si128(values.as_ptr().add(group * PANEL + lane).cast()))
            }
            StripScales::F32(values) => _mm256_loadu_ps(values.as_ptr().add(group * PANEL + lane)),
            StripScales::Steps {
                bases,
                steps,
                groups_per_base,
            } => {
                let base = bases.as_ptr().add(group / groups_per_base * PANEL + lane);
                let step = _mm_loadl_epi64(steps.as_ptr().add(group * PANEL + lane).cast());
                _mm256_mul_ps(
                    _mm256_cvtph_ps(_mm_loadu_si128(base.cast())),
                    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(step)),
                )
            }
        }
    }
}
