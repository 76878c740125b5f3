//! Rows of activations as eight-bit integers.

use super::super::{
    Isa, ThreadPool,
    buffers::sized,
    elementwise::add_lanes,
    isa::{IsaKind, per_isa},
    pool::DisjointSlices,
};

/// Activations that share a scale.
pub(in crate::backend::cpu::kernels) const SPAN: usize = 32;
/// The smallest run of weights with a scale of its own; sums are kept for this and for [`SPAN`].
pub(in crate::backend::cpu::kernels) const FINE: usize = 16;
/// Rows that one task quantises; fewer than this are not worth waking anybody for.
const ROWS_PER_TASK: usize = 16;
/// Bytes behind the last row that kernels may load, though not use.
const BEYOND: usize = 2 * SPAN;

/// `x ≈ value * scale`, a scale for each [`SPAN`] of a row: the largest magnitude becomes ±127, the rest is
/// rounded to the nearest (ties to even). A span with a value that is not finite has a NaN scale, so that a
/// fault upstream cannot vanish here.
#[derive(Default)]
pub(in crate::backend::cpu::kernels) struct Int8Rows {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// `[rows, cols]`, and more: what a larger batch has left behind, so all the others, and [`BEYOND`].
    pub values: Vec<i8>,
    /// `[rows, cols / SPAN]`
    pub scales: Vec<f32>,
    /// Sums of the integers, exact: `[rows, cols / SPAN]`.
    pub sums: Vec<f32>,
    /// Sums of the integers: `[rows, cols / FINE]`.
    pub fine_sums: Vec<f32>,
    #[cfg(target_arch = "x86_64")]
    pub(super) tiles: super::tiles::TileFactors,
}

impl Int8Rows {
    /// Quantises `x`, `[m, cols]`; `cols` is a multiple of [`SPAN`].
    pub(in crate::backend::cpu::kernels) fn set(
        &mut self,
        pool: &mut ThreadPool,
        isa: Isa,
        x: &[f32],
        cols: usize,
    ) {
        assert!(cols.is_multiple_of(SPAN) && cols > 0);
        let m = x.len() / cols;
        let spans = cols / SPAN;
        (self.rows, self.cols) = (m, cols);
        let values = DisjointSlices::new(sized(&mut self.values, m * cols + BEYOND));
        let scales = DisjointSlices::new(sized(&mut self.scales, m * spans));
        let sums = DisjointSlices::new(sized(&mut self.sums, m * spans));
        let fine_sums = DisjointSlices::new(sized(&mut self.fine_sums, m * 2 * spans));
        pool.run_parts(m, ROWS_PER_TASK, &|rows| {
            let (first, rows) = (rows.start, rows.len());
            // SAFETY: tasks take disjoint rows.
            let mut out = unsafe {
                Spans {
                    values: values.part(first * cols, rows * cols),
                    scales: scales.part(first * spans, rows * spans),
                    sums: sums.part(first * spans, rows * spans),
                    fine_sums: fine_sums.part(first * 2 * spans, rows * 2 * spans),
                }
            };
            quantise(isa, &x[first * cols..][..rows * cols], &mut out);
        });
    }

    /// Rows of the batch.
    pub(in crate::backend::cpu::kernels) fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub(in crate::backend::cpu::kernels) fn cols(&self) -> usize {
        self.cols
    }
}

struct Spans<'a> {
    values: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [f32],
    fine_sums: &'a mut [f32],
}

/// Below this a quotient by it would overflow; so small a span is zero for any purpose.
const TINY: f32 = 1e-30;
/// Adding it rounds to an integer, ties to even, and leaves that in the low bits.
const MAGIC: f32 = 12_582_912.0;

/// A span's scale and what its elements are multiplied with, from the bits of its largest magnitude.
#[inline(always)]
fn scale_and_factor(largest: u32) -> (f32, f32) {
    let largest = f32::from_bits(largest);
    if !largest.is_finite() {
        (f32::NAN, 0.0)
    } else if largest > TINY {
        (largest / 127.0, 127.0 / largest)
    } else {
        (0.0, 0.0)
    }
}

fn quantise(isa: Isa, x: &[f32], out: &mut Spans<'_>) {
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` is only made for a processor that has its features.
        IsaKind::Amx | IsaKind::Avx512Vnni | IsaKind::Avx512 => unsafe { quantise_avx512(x, out) },
        _ => quantise_plain(isa, x, out),
    }
}

/// [`quantise_plain`] by hand: compilers make scalar code of it.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn quantise_avx512(x: &[f32], out: &mut Spans<'_>) {
    use std::arch::x86_64::{
        __m512, _mm_storeu_si128, _mm512_add_ps, _mm512_and_si512, _mm512_castps_si512, _mm512_cvtepi32_epi8,
        _mm512_loadu_ps, _mm512_max_epu32, _mm512_mul_ps, _mm512_reduce_add_ps, _mm512_reduce_max_epu32,
        _mm512_set1_epi32, _mm512_set1_ps, _mm512_sub_ps,
    };
    let spans = x
        .as_chunks::<SPAN>()
        .0
        .iter()
        .zip(out.values.as_chunks_mut::<SPAN>().0);
    let sums = out.sums.iter_mut().zip(out.fine_sums.as_chunks_mut::<2>().0);
    for (((x, values), scale), (sum, fine_sums)) in spans.zip(out.scales.iter_mut()).zip(sums) {
        // SAFETY: sixteen elements each.
        let halves: [__m512; 2] =
            unsafe { [_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x[FINE..].as_ptr())] };
        let mask = _mm512_set1_epi32(0x7fff_ffff);
        let magnitudes = halves.map(|half| _mm512_and_si512(_mm512_castps_si512(half), mask));
        let largest = _mm512_reduce_max_epu32(_mm512_max_epu32(magnitudes[0], magnitudes[1]));
        let factor;
        (*scale, factor) = scale_and_factor(largest);
        for (index, half) in halves.into_iter().enumerate() {
            let magic = _mm512_set1_ps(MAGIC);
            let rounded = _mm512_add_ps(_mm512_mul_ps(half, _mm512_set1_ps(factor)), magic);
            let bytes = _mm512_cvtepi32_epi8(_mm512_castps_si512(rounded));
            // SAFETY: sixteen bytes.
            unsafe { _mm_storeu_si128(values[index * FINE..][..FINE].as_mut_ptr().cast(), bytes) };
            fine_sums[index] = _mm512_reduce_add_ps(_mm512_sub_ps(rounded, magic));
        }
        *sum = fine_sums[0] + fine_sums[1];
    }
}

per_isa! {
    fn quantise_plain(isa; x: &[f32], out: &mut Spans<'_>) {
        let spans = x.as_chunks::<SPAN>().0.iter().zip(out.values.as_chunks_mut::<SPAN>().0);
        for (index, (x, values)) in spans.enumerate() {
            // Magnitudes order like their bits, and what is not finite comes out on top.
            let mut tops = [0u32; FINE];
            for half in x.as_chunks::<FINE>().0 {
                for lane in 0..FINE {
                    tops[lane] = tops[lane].max(half[lane].to_bits() & 0x7fff_ffff);
                }
            }
            let mut width = FINE / 2;
            while width > 0 {
                for lane in 0..width {
                    tops[lane] = tops[lane].max(tops[lane + width]);
                }
                width /= 2;
            }
            let factor;
            (out.scales[index], factor) = scale_and_factor(tops[0]);
            let halves = x.as_chunks::<FINE>().0.iter().zip(values.as_chunks_mut::<FINE>().0);
            let mut both = 0.0;
            for (half, (x, values)) in halves.enumerate() {
                let mut rounded = [0f32; FINE];
                for lane in 0..FINE {
                    rounded[lane] = x[lane] * factor + MAGIC;
                    values[lane] = rounded[lane].to_bits() as i8;
                }
                // Small integers: their sums in f32 are exact in any order.
                let sum = add_lanes(rounded.map(|value| value - MAGIC));
                out.fine_sums[2 * index + half] = sum;
                both += sum;
            }
            out.sums[index] = both;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backend::cpu::kernels::COARSER;

    fn rows(isa: Isa, x: &[f32], cols: usize) -> Int8Rows {
        let mut rows = Int8Rows::default();
        rows.set(&mut ThreadPool::new(1).unwrap(), isa, x, cols);
        rows
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64 / COARSER as u32))]
        #[test]
        fn values_are_the_nearest_and_sums_are_theirs(
            x in prop::collection::vec(-1e6f32..1e6, SPAN * 4), shrink in 0i32..30,
        ) {
            let x: Vec<f32> = x.iter().map(|v| v * 10f32.powi(-shrink)).collect();
            let found = rows(Isa::detect(), &x, 2 * SPAN);
            for (i, v) in x.iter().enumerate() {
                let scale = found.scales[i / SPAN];
                let error = (f32::from(found.values[i]) * scale - v).abs();
                prop_assert!(error <= scale * 0.5001, "{v} became {} x {scale}", found.values[i]);
                prop_assert!(found.values[i] != -128);
            }
            for (i, span) in found.values[..x.len()].chunks(SPAN).enumerate() {
                prop_assert_eq!(found.sums[i], span.iter().map(|&v| f32::from(v)).sum::<f32>());
                prop_assert_eq!(found.sums[i], found.fine_sums[2 * i] + found.fine_sums[2 * i + 1]);
            }
            for isa in Isa::available() {
                let other = rows(isa, &x, 2 * SPAN);
                prop_assert_eq!(&other.values, &found.values);
                prop_assert_eq!(&other.scales, &found.scales);
                prop_assert_eq!(&other.fine_sums, &found.fine_sums);
            }
        }
    }

    #[test]
    fn what_is_not_finite_poisons_its_span_only() {
        for fault in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0f32; 3 * SPAN];
            x[SPAN + 7] = fault;
            for isa in Isa::available() {
                let found = rows(isa, &x, 3 * SPAN);
                assert!(found.scales[0].is_finite() && found.scales[2].is_finite());
                assert!(found.scales[1].is_nan());
            }
        }
        assert_eq!(rows(Isa::detect(), &[0.0; SPAN], SPAN).scales, [0.0]);
    }
}
