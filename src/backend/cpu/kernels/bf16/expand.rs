//! Weights of a panel to pairs of bf16, for tiles.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm256_loadu_si256,
    _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps,
    _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh, _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mask_permutexvar_epi8, _mm512_mul_ps, _mm512_or_si512, _mm512_permutex2var_ps,
    _mm512_permutexvar_epi8, _mm512_permutexvar_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setr_epi32,
    _mm512_setzero_ps, _mm512_slli_epi32, _mm512_srli_epi32, _mm512_storeu_si512, _mm512_sub_epi32,
    _mm512_sub_ps,
};

use super::{
    RUN,
    rows::RunBits,
    tiles::{HALF, Halves, PairBits, TILE},
};
use crate::backend::cpu::kernels::{
    int8::{Strip, StripBits, StripScales},
    packed::PANEL,
    quantised::RUN_BYTES,
};

/// Vectors of a panel's outputs.
pub(super) const VECTORS: usize = PANEL / TILE;
/// So many bytes weights are fetched before they are needed.
const AHEAD: usize = 16 * RUN_BYTES;

/// Integer weights of a panel.
pub(super) struct Integers<'a> {
    kind: Kind<'a>,
    /// What four bits stand for.
    table: __m512,
}

enum Kind<'a> {
    Four(Plain<'a, 4>),
    Eight(Plain<'a, 8>),
    Other(Strip<'a>),
}

/// A scale in f16 for each run of inputs, as most formats have it: with nothing left to decide, what comes before a
/// run's first weight takes less time.
struct Plain<'a, const WORDS: usize> {
    words: &'a [[[u8; RUN_BYTES]; WORDS]],
    scales: &'a [[u16; PANEL]],
    mins: Option<&'a [[u16; PANEL]]>,
}

impl<'a, const WORDS: usize> Plain<'a, WORDS> {
    /// Nothing for other scales.
    fn new(bytes: &'a [u8], strip: &Strip<'a>) -> Option<Self> {
        let f16 = |scales| match scales {
            StripScales::F16(values) if strip.group == RUN => Some(values.as_chunks().0),
            _ => None,
        };
        Some(Self {
            words: bytes.as_chunks().0.as_chunks().0,
            scales: f16(strip.scales)?,
            mins: match strip.mins {
                Some(mins) => Some(f16(mins)?),
                None => None,
            },
        })
    }

    /// Words, scale and minimum of a run, for a vector's outputs.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn run(&self, run: usize, vector: usize) -> (&'a [[u8; RUN_BYTES]; WORDS], [__m512; 2], [__m512; 2]) {
        let min = match self.mins {
            Some(mins) => twice(half_factors(&mins[run], vector)),
            None => [_mm512_setzero_ps(); 2],
        };
        let scale = twice(half_factors(&self.scales[run], vector));
        (&self.words[run], scale, min)
    }
}

impl<'a> Integers<'a> {
    /// # Safety
    /// The processor has AVX-512 F, BW, VBMI and BF16.
    ///
    /// # Panics
    /// When `strip` is not a whole panel.
    #[target_feature(enable = "avx512f")]
    pub(super) fn new(strip: Strip<'a>) -> Self {
        assert!(strip.width == PANEL && (strip.group == RUN || strip.group == RUN / 2));
        let bits = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let table = _mm512_cvtepi32_ps(_mm512_sub_epi32(bits, _mm512_set1_epi32(strip.zero)));
        let plain = match strip.bits {
            StripBits::Four(bytes) => Plain::new(bytes, &strip).map(Kind::Four),
            StripBits::Eight(bytes) => Plain::new(bytes, &strip).map(Kind::Eight),
            StripBits::Unpacked(_) => unreachable!("panels are not taken apart"),
        };
        Self {
            kind: plain.unwrap_or(Kind::Other(strip)),
            table,
        }
    }

    /// Expands a run of inputs for half a panel's outputs.
    ///
    /// # Safety
    /// As [`Self::new`].
    ///
    /// # Panics
    /// When there are not so many inputs.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
    pub(super) fn expand(&self, run: usize, half: usize, out: &mut [PairBits; HALF]) {
        match &self.kind {
            Kind::Four(weights) => expand_four(weights, self.table, (run, half), out),
            Kind::Eight(weights) => expand_eight(weights, (run, half), out),
            Kind::Other(strip) => expand_other(strip, self.table, (run, half), out),
        }
    }
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
fn expand_four(
    weights: &Plain<'_, 4>,
    table: __m512,
    (run, half): (usize, usize),
    out: &mut [PairBits; HALF],
) {
    for (index, out) in out.as_chunks_mut::<{ RUN / 2 }>().0.iter_mut().enumerate() {
        let vector = half * VECTORS / 2 + index;
        let (words, scale, min) = weights.run(run, vector);
        for (word, out) in words.iter().zip(out.as_chunks_mut().0) {
            four(load(word, vector), table, scale, min, out);
        }
    }
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
fn expand_eight(weights: &Plain<'_, 8>, (run, half): (usize, usize), out: &mut [PairBits; HALF]) {
    for (index, out) in out.as_chunks_mut::<{ RUN / 2 }>().0.iter_mut().enumerate() {
        let vector = half * VECTORS / 2 + index;
        let (words, scale, min) = weights.run(run, vector);
        for (word, out) in words.iter().zip(out.as_chunks_mut().0) {
            eight(load(word, vector), scale, min, out);
        }
    }
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
fn expand_other(strip: &Strip<'_>, table: __m512, (run, half): (usize, usize), out: &mut [PairBits; HALF]) {
    let groups = RUN / strip.group;
    for (index, out) in out.chunks_exact_mut(RUN / 2).enumerate() {
        let vector = half * VECTORS / 2 + index;
        for (group, out) in (groups * run..).zip(out.chunks_exact_mut(strip.group / 2)) {
            let scale = twice(factors(&strip.scales, group, vector));
            let min = match &strip.mins {
                Some(mins) => twice(factors(mins, group, vector)),
                None => [_mm512_setzero_ps(); 2],
            };
            match strip.bits {
                StripBits::Four(bytes) => {
                    let words = bytes.as_chunks().0[group * (strip.group / 8)..].iter();
                    for (word, out) in words.zip(out.as_chunks_mut().0) {
                        four(load(word, vector), table, scale, min, out);
                    }
                }
                StripBits::Eight(bytes) => {
                    let words = bytes.as_chunks().0[group * (strip.group / 4)..].iter();
                    for (word, out) in words.zip(out.as_chunks_mut().0) {
                        eight(load(word, vector), scale, min, out);
                    }
                }
                StripBits::Unpacked(_) => unreachable!("panels are not taken apart"),
            }
        }
    }
}

/// A vector's scales or minimums in f16.
#[inline]
#[target_feature(enable = "avx512f")]
fn half_factors(values: &[u16], vector: usize) -> __m512 {
    let values = &values[vector * TILE..][..TILE];
    // SAFETY: sixteen elements.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(values.as_ptr().cast()) })
}

/// A group's scales or minimums for a vector's outputs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn factors(scales: &StripScales<'_>, group: usize, vector: usize) -> __m512 {
    let lanes = group * PANEL + vector * TILE..group * PANEL + (vector + 1) * TILE;
    // SAFETY: sixteen elements each.
    unsafe {
        match scales {
            StripScales::F16(values) => half_factors(&values[group * PANEL..], vector),
            StripScales::F32(values) => _mm512_loadu_ps(values[lanes].as_ptr()),
            StripScales::Steps {
                bases,
                steps,
                per_base,
            } => {
                let steps = _mm_loadu_si128(steps[lanes].as_ptr().cast());
                _mm512_mul_ps(
                    half_factors(&bases[group / per_base * PANEL..], vector),
                    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(steps)),
                )
            }
        }
    }
}

/// Each output's value twice, for an even input and the odd one behind it: of the first eight outputs and of the others.
/// Two vectors like that, rounded, are pairs in their order.
#[inline]
#[target_feature(enable = "avx512f")]
fn twice(values: __m512) -> [__m512; 2] {
    let first = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    let second = _mm512_or_si512(first, _mm512_set1_epi32(8));
    [
        _mm512_permutexvar_ps(first, values),
        _mm512_permutexvar_ps(second, values),
    ]
}

/// As [`twice`], of words with four bytes each: `first` and the byte two behind it, or those after them.
const fn bytes_twice(half: usize, first: usize) -> [u8; 64] {
    let mut order = [0; 64];
    let mut at = 0;
    while at < order.len() {
        let (lane, byte) = (at / 4, at % 4);
        order[at] = (32 * half + lane / 2 * 4 + (first + lane % 2 + 2 * byte) % 4) as u8;
        at += 1;
    }
    order
}

/// Eight inputs of a vector's outputs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
fn four(word: __m512i, table: __m512, scale: [__m512; 2], min: [__m512; 2], out: &mut [PairBits; 4]) {
    const ORDERS: [[u8; 64]; 2] = [bytes_twice(0, 0), bytes_twice(1, 0)];
    let words = [0, 1].map(|half| _mm512_permutexvar_epi8(load_order(&ORDERS[half]), word));
    macro_rules! pairs {
        ($shift:literal) => {
            [0, 1].map(|half| {
                let bits = _mm512_srli_epi32::<$shift>(words[half]);
                _mm512_fmadd_ps(_mm512_permutexvar_ps(bits, table), scale[half], min[half])
            })
        };
    }
    store(&mut out[0], pairs!(0));
    store(&mut out[1], pairs!(8));
    store(&mut out[2], pairs!(4));
    store(&mut out[3], pairs!(12));
}

/// Four inputs of a vector's outputs, which stand for 0 at 128.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
fn eight(word: __m512i, scale: [__m512; 2], min: [__m512; 2], out: &mut [PairBits; 2]) {
    const ORDERS: [[[u8; 64]; 2]; 2] = [
        [bytes_twice(0, 0), bytes_twice(1, 0)],
        [bytes_twice(0, 2), bytes_twice(1, 2)],
    ];
    /// The lowest byte of each word.
    const LOWEST: u64 = 0x1111_1111_1111_1111;
    // An integer in the low bits of 2^23 is that much more: no conversion is needed.
    let whole = (1 << 23) as f32;
    let zero = _mm512_set1_ps(whole + 128.0);
    for (orders, out) in ORDERS.iter().zip(out) {
        let pairs = [0, 1].map(|half| {
            let above = _mm512_castps_si512(_mm512_set1_ps(whole));
            let bits = _mm512_mask_permutexvar_epi8(above, LOWEST, load_order(&orders[half]), word);
            let value = _mm512_sub_ps(_mm512_castsi512_ps(bits), zero);
            _mm512_fmadd_ps(value, scale[half], min[half])
        });
        store(out, pairs);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_order(order: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(order.as_ptr().cast()) }
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
    let first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    let second = _mm512_or_si512(first, _mm512_set1_epi32(8));
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
            let pairs = [
                _mm512_permutex2var_ps(even, first, odd),
                _mm512_permutex2var_ps(even, second, odd),
            ];
            store(out.pair(pair, vector), pairs);
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
pub(in crate::backend::cpu::kernels) fn row<'a>(x: &[f32], out: impl Iterator<Item = &'a mut RunBits>) {
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
fn load(run: &[u8; RUN_BYTES], vector: usize) -> __m512i {
    let words = &run[vector * 4 * TILE..][..4 * TILE];
    _mm_prefetch(words.as_ptr().wrapping_add(AHEAD).cast(), _MM_HINT_T0);
    // SAFETY: sixteen elements.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

/// Rounds pairs of inputs, of eight outputs and the eight behind them.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn store(PairBits(out): &mut PairBits, [first, second]: [__m512; 2]) {
    let both: __m512bh = _mm512_cvtne2ps_pbh(second, first);
    // SAFETY: 64 bytes; the vectors are bits of the same size.
    unsafe {
        let both = std::mem::transmute::<__m512bh, __m512i>(both);
        _mm512_storeu_si512(out.as_mut_ptr().cast(), both);
    }
}
