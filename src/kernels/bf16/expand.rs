//! Weights of a panel to pairs of bf16, for tiles.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm256_loadu_si256,
    _mm512_and_si512, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh,
    _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_maskz_shuffle_epi8,
    _mm512_mul_ps, _mm512_or_si512, _mm512_permutexvar_epi8, _mm512_permutexvar_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_set4_epi32, _mm512_setr_epi32, _mm512_setzero_ps, _mm512_slli_epi32,
    _mm512_srai_epi32, _mm512_srli_epi32, _mm512_storeu_si512, _mm512_sub_epi32, _mm512_xor_si512,
};

use super::{
    RUN,
    rows::RunBits,
    tiles::{Halves, PairBits, TILE},
};
use crate::kernels::{
    int8::{Strip, StripBits, StripScales},
    packed::PANEL,
    quantised::RUN_BYTES,
};

/// Vectors of a panel's outputs.
pub(super) const VECTORS: usize = PANEL / TILE;
/// So many bytes weights are fetched before they are needed.
const AHEAD: usize = 8 * RUN_BYTES;

/// Expands inputs `k..k + inputs` of a panel with integer weights into pairs from 0 on; both are multiples of the
/// weights' groups.
///
/// # Safety
/// The processor has AVX-512 F, BW, VBMI and BF16.
///
/// # Panics
/// When `strip` is not a whole panel of so many inputs, or `out` is too small.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
pub(super) fn integers(strip: &Strip<'_>, (k, inputs): (usize, usize), out: &mut Halves<'_>) {
    let group = strip.group;
    assert!(strip.width == PANEL && k.is_multiple_of(group) && inputs.is_multiple_of(group));
    let table = _mm512_sub_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
        _mm512_set1_epi32(strip.zero),
    );
    let table = _mm512_cvtepi32_ps(table);
    let short = strip.scales.are_short();
    for at in (k..k + inputs).step_by(group) {
        let words = match strip.bits {
            StripBits::Four(bytes) => &bytes[at / 8 * RUN_BYTES..][..group / 8 * RUN_BYTES],
            StripBits::Eight(bytes) => &bytes[at / 4 * RUN_BYTES..][..group / 4 * RUN_BYTES],
            StripBits::Unpacked(_) => unreachable!("panels are not taken apart"),
        };
        for vector in out.vectors() {
            let out = out.pairs_of((at - k) / 2, group / 2, vector);
            let words = words.chunks_exact(RUN_BYTES).map(|run| load(run, vector));
            let scale = factors(&strip.scales, at / group, vector);
            let min = match &strip.mins {
                Some(mins) => factors(mins, at / group, vector),
                None => _mm512_setzero_ps(),
            };
            match strip.bits {
                StripBits::Four(_) => {
                    for (word, out) in words.zip(out.as_chunks_mut().0) {
                        four(word, table, (scale, min), out);
                    }
                }
                _ if short => {
                    let scale = _mm512_mul_ps(scale, _mm512_set1_ps(1.0 / TOP_BYTE));
                    for (word, out) in words.zip(out.as_chunks_mut().0) {
                        eight(word, (scale, min), |top| top, out);
                    }
                }
                _ => {
                    for (word, out) in words.zip(out.as_chunks_mut().0) {
                        eight(word, (scale, min), |top| _mm512_srai_epi32::<24>(top), out);
                    }
                }
            }
        }
    }
}

/// A group's scales or minimums for a vector's outputs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn factors(scales: &StripScales<'_>, group: usize, vector: usize) -> __m512 {
    let lanes = |group: usize| group * PANEL + vector * TILE..group * PANEL + (vector + 1) * TILE;
    // SAFETY: sixteen elements each.
    unsafe {
        let halves = |values: &[u16]| _mm512_cvtph_ps(_mm256_loadu_si256(values.as_ptr().cast()));
        match scales {
            StripScales::F16(values) => halves(&values[lanes(group)]),
            StripScales::F32(values) => _mm512_loadu_ps(values[lanes(group)].as_ptr()),
            StripScales::Steps {
                bases,
                steps,
                per_base,
            } => {
                let steps = _mm_loadu_si128(steps[lanes(group)].as_ptr().cast());
                _mm512_mul_ps(
                    halves(&bases[lanes(group / per_base)]),
                    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(steps)),
                )
            }
        }
    }
}

/// Eight inputs of a vector's outputs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
fn four(word: __m512i, table: __m512, (scale, min): (__m512, __m512), out: &mut [PairBits; 4]) {
    let value = |bits| _mm512_fmadd_ps(_mm512_permutexvar_ps(bits, table), scale, min);
    macro_rules! shifted {
        ($shift:literal) => {
            value(_mm512_srli_epi32::<$shift>(word))
        };
    }
    store(&mut out[0], value(word), shifted!(8));
    store(&mut out[1], shifted!(16), shifted!(24));
    store(&mut out[2], shifted!(4), shifted!(12));
    store(&mut out[3], shifted!(20), shifted!(28));
}

/// What a byte counts for at the top of a word.
const TOP_BYTE: f32 = (1 << 24) as f32;

/// Four inputs of a vector's outputs, which stand for 0 at 128. `from_top` takes an input from the top byte, below
/// which there are zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
fn eight(
    word: __m512i,
    (scale, min): (__m512, __m512),
    from_top: impl Fn(__m512i) -> __m512i,
    out: &mut [PairBits; 2],
) {
    const TOP: u64 = 0x8888_8888_8888_8888;
    let word = _mm512_xor_si512(word, _mm512_set1_epi32(0x8080_8080u32 as i32));
    let top = |byte: i32| {
        let order = _mm512_or_si512(_mm512_set1_epi32(byte << 24), lanes_of_words());
        _mm512_maskz_shuffle_epi8(TOP, word, order)
    };
    let value = |top| _mm512_fmadd_ps(_mm512_cvtepi32_ps(from_top(top)), scale, min);
    let last = _mm512_and_si512(word, _mm512_set1_epi32(0xff00_0000u32 as i32));
    store(&mut out[0], value(top(0)), value(top(1)));
    store(&mut out[1], value(top(2)), value(last));
}

/// Where in its quarter of a vector a word begins, in its top byte.
#[inline]
#[target_feature(enable = "avx512f")]
fn lanes_of_words() -> __m512i {
    _mm512_set4_epi32(12 << 24, 8 << 24, 4 << 24, 0)
}

/// Rounds inputs that are f32, `[inputs][PANEL]`, into pairs from 0 on. A last input without a partner gets a zero.
///
/// # Safety
/// The processor has AVX-512 F, BW, VBMI and BF16.
///
/// # Panics
/// When `out` is too small.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
pub(super) fn floats(weights: &[f32], out: &mut Halves<'_>) {
    for (pair, weights) in weights.chunks(2 * PANEL).enumerate() {
        let (even, odd) = weights.split_at(PANEL);
        let odd = if odd.is_empty() { &[0.0; PANEL] } else { odd };
        for vector in out.vectors() {
            let lanes = vector * TILE..(vector + 1) * TILE;
            // SAFETY: sixteen elements each.
            let (even, odd) = unsafe {
                (
                    _mm512_loadu_ps(even[lanes.clone()].as_ptr()),
                    _mm512_loadu_ps(odd[lanes].as_ptr()),
                )
            };
            store(out.pair(pair, vector), even, odd);
        }
    }
}

/// Brings inputs that are bf16, `[inputs][PANEL]`, together in pairs from 0 on. A last input without a partner gets a
/// zero.
///
/// # Safety
/// The processor has AVX-512 F.
///
/// # Panics
/// When `out` is too small.
#[target_feature(enable = "avx512f")]
pub(super) fn bits(weights: &[u16], out: &mut Halves<'_>) {
    for (pair, weights) in weights.chunks(2 * PANEL).enumerate() {
        let (even, odd) = weights.split_at(PANEL);
        let odd = if odd.is_empty() { &[0; PANEL] } else { odd };
        ahead(weights);
        for vector in out.vectors() {
            let lanes = vector * TILE..(vector + 1) * TILE;
            let PairBits(out) = out.pair(pair, vector);
            // SAFETY: sixteen elements each.
            unsafe {
                let widen = |bits: &[u16]| _mm512_cvtepu16_epi32(_mm256_loadu_si256(bits.as_ptr().cast()));
                let (even, odd) = (widen(&even[lanes.clone()]), widen(&odd[lanes]));
                let both = _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
                _mm512_storeu_si512(out.as_mut_ptr().cast(), both);
            }
        }
    }
}

/// Rounds a row into its runs, filled up with zeros.
///
/// # Safety
/// The processor has AVX-512 F and BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(in crate::kernels) fn row<'a>(x: &[f32], out: impl Iterator<Item = &'a mut RunBits>) {
    for (x, out) in x.chunks(RUN).zip(out) {
        let mut run = [0.0; RUN];
        let x = if x.len() == RUN {
            x
        } else {
            run[..x.len()].copy_from_slice(x);
            &run
        };
        // SAFETY: sixteen elements each, and 64 bytes.
        unsafe {
            let (first, second) = (
                _mm512_loadu_ps(x.as_ptr()),
                _mm512_loadu_ps(x.as_ptr().add(RUN / 2)),
            );
            let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first));
            _mm512_storeu_si512(out.0.as_mut_ptr().cast(), both);
        }
    }
}

/// Has what comes [`AHEAD`] of these weights fetched: the hardware does not foresee enough of it.
#[inline]
#[target_feature(enable = "avx512f")]
fn ahead<T>(weights: &[T]) {
    let start = weights.as_ptr().cast::<i8>().wrapping_add(AHEAD);
    for line in 0..size_of_val(weights).div_ceil(64) {
        _mm_prefetch(start.wrapping_add(64 * line), _MM_HINT_T0);
    }
}

/// A vector's words, and has some that come later fetched: the hardware does not foresee enough of it.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(run: &[u8], vector: usize) -> __m512i {
    assert!(run.len() == RUN_BYTES && vector < VECTORS);
    // SAFETY: sixteen elements; what is only fetched may lie anywhere.
    unsafe {
        let at = run.as_ptr().add(vector * 4 * TILE);
        _mm_prefetch(at.wrapping_add(AHEAD).cast(), _MM_HINT_T0);
        _mm512_loadu_si512(at.cast())
    }
}

/// Rounds two inputs of a vector's outputs and brings them together in pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
fn store(PairBits(out): &mut PairBits, even: __m512, odd: __m512) {
    /// Bytes rather than words: that is one operation instead of two.
    const PAIRS: [u8; 64] = {
        let mut order = [0; 64];
        let mut i = 0;
        while i < 64 {
            order[i] = (i / 4 * 2 + i % 2 + i / 2 % 2 * 32) as u8;
            i += 1;
        }
        order
    };
    let both: __m512bh = _mm512_cvtne2ps_pbh(odd, even);
    // SAFETY: 64 bytes each; the vectors are bits of the same size.
    unsafe {
        let order = _mm512_loadu_si512(PAIRS.as_ptr().cast());
        let both = std::mem::transmute::<__m512bh, __m512i>(both);
        _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_permutexvar_epi8(order, both));
    }
}
