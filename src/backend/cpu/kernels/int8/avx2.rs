//! AVX2: 32 products of bytes in an instruction, 8 outputs in a vector.

use std::arch::x86_64::{
    __m256, __m256i, _mm_loadl_epi64, _mm_loadu_si128, _mm256_abs_epi8, _mm256_add_epi16, _mm256_add_epi32,
    _mm256_and_si256, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps,
    _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_setzero_si256, _mm256_sign_epi8, _mm256_srli_epi32, _mm256_storeu_ps, _mm256_sub_epi32,
    _mm256_xor_si256,
};

use super::{RowsAt, SPAN, Strip, StripBits, StripScales, Target};
use crate::backend::cpu::kernels::{Output, packed::PANEL};

/// # Safety
/// As [`super::product`], for `ROWS` rows and `VECTORS` times 16 outputs whose operands have been checked; the processor has AVX2, FMA and
/// F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn product<const ROWS: usize, const VECTORS: usize>(
    rows: &RowsAt,
    strip: &Strip<'_>,
    c: Target,
) {
    for lane in (0..16 * VECTORS).step_by(8) {
        // SAFETY: all addresses are inside the operands that the caller has checked.
        unsafe {
            let mut sums = [_mm256_setzero_ps(); ROWS];
            if c.output == Output::Add {
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm256_loadu_ps(c.at.add(i * c.stride + lane));
                }
            }
            for group in 0..rows.groups {
                let first = group * strip.group;
                let dots: [__m256i; ROWS] = match strip.bits {
                    StripBits::Four(bytes) => {
                        let at = bytes.as_ptr().add(first / 8 * 4 * PANEL + 4 * lane);
                        four(rows, at, first, strip, group)
                    }
                    StripBits::Eight(bytes) => {
                        let at = bytes.as_ptr().add(first / 4 * 4 * PANEL + 4 * lane);
                        eight(rows, at, 4 * PANEL, first, strip)
                    }
                    StripBits::Unpacked(_) => unreachable!("only AVX-512 kernels are given unpacked strips"),
                };
                let scales = read(&strip.scales, group, lane);
                let mins = strip.mins.as_ref().map(|mins| read(mins, group, lane));
                for i in 0..ROWS {
                    let x_scale = *rows.scales.add(i * (rows.cols / SPAN) + first / SPAN);
                    let mut t = _mm256_mul_ps(scales, _mm256_cvtepi32_ps(dots[i]));
                    if let Some(mins) = mins {
                        let sum = *rows.sums.add(i * rows.groups + group);
                        t = _mm256_fmadd_ps(mins, _mm256_set1_ps(sum), t);
                    }
                    sums[i] = _mm256_fmadd_ps(t, _mm256_set1_ps(x_scale), sums[i]);
                }
            }
            for (i, sum) in sums.iter().enumerate() {
                _mm256_storeu_ps(c.at.add(i * c.stride + lane), *sum);
            }
        }
    }
}

/// # Safety
/// `at` is the first of 8 outputs' bytes of this group; rows and strip reach to the group's end.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn four<const ROWS: usize>(
    rows: &RowsAt,
    at: *const u8,
    first: usize,
    strip: &Strip<'_>,
    group: usize,
) -> [__m256i; ROWS] {
    let (low, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
    let mut pairs = [_mm256_setzero_si256(); ROWS];
    // SAFETY: by the caller's promise.
    unsafe {
        // A pair is at most 2 * 15 * 127, and eight of them are added: 30,480 fits 16 bits.
        for run in 0..strip.group / 8 {
            let both = _mm256_loadu_si256(at.add(run * 4 * PANEL).cast());
            let even = _mm256_and_si256(both, low);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<4>(both), low);
            for (i, pairs) in pairs.iter_mut().enumerate() {
                let x = rows.values.add(i * rows.cols + first + 8 * run).cast::<i32>();
                let even_x = _mm256_set1_epi32(x.read_unaligned());
                let odd_x = _mm256_set1_epi32(x.add(1).read_unaligned());
                *pairs = _mm256_add_epi16(*pairs, _mm256_maddubs_epi16(even, even_x));
                *pairs = _mm256_add_epi16(*pairs, _mm256_maddubs_epi16(odd, odd_x));
            }
        }
        let mut dots = pairs.map(|pairs| _mm256_madd_epi16(pairs, ones));
        if strip.zero != 0 {
            for (i, dot) in dots.iter_mut().enumerate() {
                let sum = *rows.sums.add(i * rows.groups + group) as i32;
                *dot = _mm256_sub_epi32(*dot, _mm256_set1_epi32(strip.zero * sum));
            }
        }
        dots
    }
}

/// # Safety
/// As [`four`], with runs of four inputs `step` bytes apart.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn eight<const ROWS: usize>(
    rows: &RowsAt,
    at: *const u8,
    step: usize,
    first: usize,
    strip: &Strip<'_>,
) -> [__m256i; ROWS] {
    let ones = _mm256_set1_epi16(1);
    // Signed weights, magnitude by sign-adjusted input: 2 * 128 * 127 fits 16 bits, 2 * 255 * 127 would not.
    let flip = _mm256_set1_epi8(if strip.zero == 128 { -128 } else { 0 });
    let mut dots = [_mm256_setzero_si256(); ROWS];
    // SAFETY: by the caller's promise.
    unsafe {
        for run in 0..strip.group / 4 {
            let weights = _mm256_xor_si256(_mm256_loadu_si256(at.add(run * step).cast()), flip);
            let magnitudes = _mm256_abs_epi8(weights);
            for (i, dot) in dots.iter_mut().enumerate() {
                let x = rows.values.add(i * rows.cols + first + 4 * run).cast::<i32>();
                let x = _mm256_sign_epi8(_mm256_set1_epi32(x.read_unaligned()), weights);
                let pairs = _mm256_maddubs_epi16(magnitudes, x);
                *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(pairs, ones));
            }
        }
    }
    dots
}

/// # Safety
/// The scales reach to this group; the processor has AVX2 and F16C.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn read(scales: &StripScales<'_>, group: usize, lane: usize) -> __m256 {
    // SAFETY: by the caller's promise.
    unsafe {
        match scales {
            StripScales::F16(values) => {
                _mm256_cvtph_ps(_mm_loadu_si128(values.as_ptr().add(group * PANEL + lane).cast()))
            }
            StripScales::F32(values) => _mm256_loadu_ps(values.as_ptr().add(group * PANEL + lane)),
            StripScales::Steps {
                bases,
                steps,
                per_base,
            } => {
                let base = bases.as_ptr().add(group / per_base * PANEL + lane);
                let step = _mm_loadl_epi64(steps.as_ptr().add(group * PANEL + lane).cast());
                _mm256_mul_ps(
                    _mm256_cvtph_ps(_mm_loadu_si128(base.cast())),
                    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(step)),
                )
            }
        }
    }
}
