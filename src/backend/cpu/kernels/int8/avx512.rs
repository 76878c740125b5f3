//! AVX-512 with VNNI: 64 products of bytes in an instruction, 16 outputs in a vector.

use std::arch::x86_64::{
    __m512, __m512i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm256_loadu_si256, _mm512_add_epi32,
    _mm512_and_si512, _mm512_castsi512_ps, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtph_ps,
    _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mul_ps,
    _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_srli_epi32, _mm512_storeu_ps, _mm512_sub_epi32,
};

use super::{RowsAt, SPAN, STRIP, Strip, StripBits, StripScales, Target};
use crate::backend::cpu::kernels::{Output, packed::PANEL};

/// 1.5 * 2^23. An integer below 2^22 in magnitude, added to its bits, is that integer added to its value: read
/// as a float, it needs no conversion, and one multiply-add takes the constant off again and scales. That is
/// exact up to the rounding of the scaled value itself when `scale * MAGIC` is exact.
const MAGIC: f32 = 12_582_912.0;
const MAGIC_BITS: i32 = MAGIC.to_bits() as i32;

/// Up to so many rows, weights come from memory faster than they are used up; they are fetched ahead by
/// so many bytes.
const FEW_ROWS: usize = 4;
const AHEAD: usize = 4096;

/// Integer sums of a group, each added to [`MAGIC_BITS`]. Few rows have two each, one for either half of a run of eight inputs: a single
/// chain would wait for its own results.
type Dots<const ROWS: usize, const VECTORS: usize> = [[__m512i; VECTORS]; ROWS];

/// # Safety
/// As [`super::product`], for `ROWS` rows and `VECTORS` vectors of outputs whose operands have been checked;
/// the processor has AVX-512 F, BW and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn product<const ROWS: usize, const VECTORS: usize>(
    rows: &RowsAt,
    strip: &Strip<'_>,
    c: Target,
) {
    let short = strip.scales.are_short();
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    // SAFETY: all addresses are inside the operands that the caller has checked.
    unsafe {
        if c.output == Output::Add {
            for (i, row) in sums.iter_mut().enumerate() {
                for (j, sum) in row.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(c.at.add(i * c.stride + 16 * j));
                }
            }
        }
        for group in 0..rows.groups {
            let first = group * strip.group;
            let dots = match strip.bits {
                StripBits::Four(bytes) => {
                    let at = bytes.as_ptr().add(first / 8 * 4 * PANEL);
                    four(rows, at, first, strip, group)
                }
                StripBits::Eight(bytes) => {
                    let at = bytes.as_ptr().add(first / 4 * 4 * PANEL);
                    eight::<ROWS, VECTORS, { 4 * PANEL }>(rows, at, first, strip, group)
                }
                StripBits::Unpacked(bytes) => {
                    let at = bytes.as_ptr().add(first / 4 * 4 * STRIP);
                    eight::<ROWS, VECTORS, { 4 * STRIP }>(rows, at, first, strip, group)
                }
            };
            let scales = read::<VECTORS>(&strip.scales, group);
            let mins = strip.mins.as_ref().map(|mins| read::<VECTORS>(mins, group));
            let offsets = scales.map(|scale| _mm512_mul_ps(scale, _mm512_set1_ps(-MAGIC)));
            let x_scales = rows.scales.add(first / SPAN);
            let spans = rows.cols / SPAN;
            for i in 0..ROWS {
                let x_scale = _mm512_set1_ps(*x_scales.add(i * spans));
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
                _mm512_storeu_ps(c.at.add(i * c.stride + 16 * j), *sum);
            }
        }
    }
}

/// # Safety
/// Rows and strip reach to this group's end; the processor has the features.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn start<const ROWS: usize, const VECTORS: usize>(
    rows: &RowsAt,
    strip: &Strip<'_>,
    group: usize,
) -> Dots<ROWS, VECTORS> {
    let mut dots = [[_mm512_set1_epi32(MAGIC_BITS); VECTORS]; ROWS];
    if strip.zero != 0 {
        for (i, row) in dots.iter_mut().enumerate() {
            // SAFETY: by the caller's promise.
            let sum = unsafe { *rows.sums.add(i * rows.groups + group) } as i32;
            *row = [_mm512_set1_epi32(MAGIC_BITS - strip.zero * sum); VECTORS];
        }
    }
    dots
}

/// # Safety
/// `at` is the strip's first byte of this group, the rest as [`start`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn four<const ROWS: usize, const VECTORS: usize>(
    rows: &RowsAt,
    at: *const u8,
    first: usize,
    strip: &Strip<'_>,
    group: usize,
) -> Dots<ROWS, VECTORS> {
    let low = _mm512_set1_epi8(15);
    // SAFETY: by the caller's promise.
    unsafe {
        let mut dots = start::<ROWS, VECTORS>(rows, strip, group);
        let mut odd = [[_mm512_setzero_si512(); VECTORS]; ROWS];
        for run in 0..strip.group / 8 {
            let (mut even_weights, mut odd_weights) = (
                [_mm512_setzero_si512(); VECTORS],
                [_mm512_setzero_si512(); VECTORS],
            );
            for j in 0..VECTORS {
                if ROWS <= FEW_ROWS {
                    _mm_prefetch::<_MM_HINT_T0>(at.add(run * 4 * PANEL + 64 * j).wrapping_add(AHEAD).cast());
                }
                let pair = _mm512_loadu_si512(at.add(run * 4 * PANEL + 64 * j).cast());
                even_weights[j] = _mm512_and_si512(pair, low);
                odd_weights[j] = _mm512_and_si512(_mm512_srli_epi32::<4>(pair), low);
            }
            for i in 0..ROWS {
                let x = rows.values.add(i * rows.cols + first + 8 * run).cast::<i32>();
                let (even_x, odd_x) = (
                    _mm512_set1_epi32(x.read_unaligned()),
                    _mm512_set1_epi32(x.add(1).read_unaligned()),
                );
                for j in 0..VECTORS {
                    dots[i][j] = _mm512_dpbusd_epi32(dots[i][j], even_weights[j], even_x);
                    if ROWS <= 3 {
                        odd[i][j] = _mm512_dpbusd_epi32(odd[i][j], odd_weights[j], odd_x);
                    } else {
                        dots[i][j] = _mm512_dpbusd_epi32(dots[i][j], odd_weights[j], odd_x);
                    }
                }
            }
        }
        if ROWS <= 3 {
            for i in 0..ROWS {
                for j in 0..VECTORS {
                    dots[i][j] = _mm512_add_epi32(dots[i][j], odd[i][j]);
                }
            }
        }
        dots
    }
}

/// # Safety
/// As [`four`], with runs of four inputs `STEP` bytes apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn eight<const ROWS: usize, const VECTORS: usize, const STEP: usize>(
    rows: &RowsAt,
    at: *const u8,
    first: usize,
    strip: &Strip<'_>,
    group: usize,
) -> Dots<ROWS, VECTORS> {
    // SAFETY: by the caller's promise.
    unsafe {
        let mut dots = start::<ROWS, VECTORS>(rows, strip, group);
        for run in 0..strip.group / 4 {
            let mut weights = [_mm512_setzero_si512(); VECTORS];
            for (j, weights) in weights.iter_mut().enumerate() {
                if ROWS <= FEW_ROWS && STEP == 4 * PANEL {
                    _mm_prefetch::<_MM_HINT_T0>(at.add(run * STEP + 64 * j).wrapping_add(AHEAD).cast());
                }
                *weights = _mm512_loadu_si512(at.add(run * STEP + 64 * j).cast());
            }
            for (i, row) in dots.iter_mut().enumerate() {
                let x = rows.values.add(i * rows.cols + first + 4 * run).cast::<i32>();
                let x = _mm512_set1_epi32(x.read_unaligned());
                for (dot, weights) in row.iter_mut().zip(weights) {
                    *dot = _mm512_dpbusd_epi32(*dot, weights, x);
                }
            }
        }
        dots
    }
}

/// # Safety
/// The scales reach to this group; the processor has AVX-512 F.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn read<const VECTORS: usize>(scales: &StripScales<'_>, group: usize) -> [__m512; VECTORS] {
    let mut out = [_mm512_setzero_ps(); VECTORS];
    for (j, out) in out.iter_mut().enumerate() {
        // SAFETY: by the caller's promise.
        *out = unsafe {
            match scales {
                StripScales::F16(values) => _mm512_cvtph_ps(_mm256_loadu_si256(
                    values.as_ptr().add(group * PANEL + 16 * j).cast(),
                )),
                StripScales::F32(values) => _mm512_loadu_ps(values.as_ptr().add(group * PANEL + 16 * j)),
                StripScales::Steps {
                    bases,
                    steps,
                    per_base,
                } => {
                    let base = bases.as_ptr().add(group / per_base * PANEL + 16 * j);
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
