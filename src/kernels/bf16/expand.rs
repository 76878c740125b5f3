//! Weights of a panel to pairs of bf16, for tiles.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _MM_HINT_T0, _mm_cvtsi32_si128, _mm_prefetch, _mm256_loadu_si256,
    _mm512_and_si512, _mm512_cvtepi32_ps, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_or_si512, _mm512_permutexvar_epi16, _mm512_permutexvar_ps,
    _mm512_set1_epi32, _mm512_slli_epi32, _mm512_srl_epi32, _mm512_storeu_si512, _mm512_sub_epi32,
};

use super::{
    RUN,
    rows::RunBits,
    tiles::{Halves, PairBits, TILE},
};
use crate::kernels::{
    Isa,
    int8::{Strip, StripBits},
    packed::PANEL,
    quantised::RUN_BYTES,
};

/// Vectors of a panel's outputs.
const VECTORS: usize = PANEL / TILE;
/// So many bytes weights are fetched before they are needed.
const AHEAD: usize = 8 * RUN_BYTES;

/// Expands inputs `k..k + inputs` of a panel with integer weights into pairs from 0 on; both are multiples of the
/// weights' groups.
///
/// # Safety
/// The processor has AVX-512 F, BW and BF16.
///
/// # Panics
/// When `strip` is not a whole panel of so many inputs, or `out` is too small.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn integers(isa: Isa, strip: &Strip<'_>, (k, inputs): (usize, usize), out: &mut Halves<'_>) {
    assert!(strip.width == PANEL && k.is_multiple_of(strip.group) && inputs.is_multiple_of(strip.group));
    assert!(out.pairs() >= inputs / 2);
    let table: [f32; 16] = std::array::from_fn(|bits| (bits as i32 - strip.zero) as f32);
    // SAFETY: sixteen elements.
    let table = unsafe { _mm512_loadu_ps(table.as_ptr()) };
    let zero = _mm512_set1_epi32(strip.zero);
    let (mut scales, mut mins) = ([0f32; PANEL], [0f32; PANEL]);
    for at in (k..k + inputs).step_by(strip.group) {
        strip.scales.read(isa, at / strip.group, &mut scales);
        if let Some(strip_mins) = &strip.mins {
            strip_mins.read(isa, at / strip.group, &mut mins);
        }
        let pair = (at - k) / 2;
        match strip.bits {
            StripBits::Four(bytes) => {
                let words = &bytes[at / 8 * RUN_BYTES..][..strip.group / 8 * RUN_BYTES];
                for (run, words) in words.chunks_exact(RUN_BYTES).enumerate() {
                    ahead(words);
                    for vector in 0..VECTORS {
                        let (word, scale, min) = load(words, &scales, &mins, vector);
                        let value = |shift| {
                            let value = _mm512_permutexvar_ps(shifted(word, shift), table);
                            _mm512_fmadd_ps(value, scale, min)
                        };
                        for (index, shift) in [0, 16, 4, 20].into_iter().enumerate() {
                            store(
                                out,
                                pair + 4 * run + index,
                                vector,
                                value(shift),
                                value(shift + 8),
                            );
                        }
                    }
                }
            }
            StripBits::Eight(bytes) => {
                let words = &bytes[at / 4 * RUN_BYTES..][..strip.group / 4 * RUN_BYTES];
                for (run, words) in words.chunks_exact(RUN_BYTES).enumerate() {
                    ahead(words);
                    for vector in 0..VECTORS {
                        let (word, scale, min) = load(words, &scales, &mins, vector);
                        let value = |shift| {
                            let bits = _mm512_and_si512(shifted(word, shift), _mm512_set1_epi32(255));
                            _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(bits, zero)), scale, min)
                        };
                        for (index, shift) in [0, 16].into_iter().enumerate() {
                            store(
                                out,
                                pair + 2 * run + index,
                                vector,
                                value(shift),
                                value(shift + 8),
                            );
                        }
                    }
                }
            }
            StripBits::Unpacked(_) => unreachable!("panels are not taken apart"),
        }
    }
}

/// Rounds inputs that are f32, `[inputs][PANEL]`, into pairs from 0 on. A last input without a partner gets a zero.
///
/// # Safety
/// The processor has AVX-512 F, BW and BF16.
///
/// # Panics
/// When `out` is too small.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn floats(weights: &[f32], out: &mut Halves<'_>) {
    for (pair, weights) in weights.chunks(2 * PANEL).enumerate() {
        let (even, odd) = weights.split_at(PANEL);
        let odd = if odd.is_empty() { &[0.0; PANEL] } else { odd };
        for vector in 0..VECTORS {
            let lanes = vector * TILE..(vector + 1) * TILE;
            // SAFETY: sixteen elements each.
            let (even, odd) = unsafe {
                (
                    _mm512_loadu_ps(even[lanes.clone()].as_ptr()),
                    _mm512_loadu_ps(odd[lanes].as_ptr()),
                )
            };
            store(out, pair, vector, even, odd);
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
        for vector in 0..VECTORS {
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

/// A vector's words, scales and minimums.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(
    words: &[u8],
    scales: &[f32; PANEL],
    mins: &[f32; PANEL],
    vector: usize,
) -> (__m512i, __m512, __m512) {
    assert!(words.len() == RUN_BYTES && vector < VECTORS);
    // SAFETY: sixteen elements each.
    unsafe {
        (
            _mm512_loadu_si512(words.as_ptr().add(vector * 4 * TILE).cast()),
            _mm512_loadu_ps(scales.as_ptr().add(vector * TILE)),
            _mm512_loadu_ps(mins.as_ptr().add(vector * TILE)),
        )
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn shifted(word: __m512i, shift: i32) -> __m512i {
    _mm512_srl_epi32(word, _mm_cvtsi32_si128(shift))
}

/// Rounds two inputs of a vector's outputs and brings them together in pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn store(out: &mut Halves<'_>, pair: usize, vector: usize, even: __m512, odd: __m512) {
    const PAIRS: [u16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 32 {
            order[i] = (i / 2 + i % 2 * 16) as u16;
            i += 1;
        }
        order
    };
    let both: __m512bh = _mm512_cvtne2ps_pbh(odd, even);
    // SAFETY: 64 bytes each; the vectors are bits of the same size.
    unsafe {
        let order = _mm512_loadu_si512(PAIRS.as_ptr().cast());
        let both = std::mem::transmute::<__m512bh, __m512i>(both);
        let PairBits(out) = out.pair(pair, vector);
        _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_permutexvar_epi16(order, both));
    }
}
