//! Rows of activations as eight-bit integers.

use super::{
    magic::MAGIC,
    sizes::{ACTIVATION_GROUP, GROUPS_BEYOND, SMALL_GROUP, TILE_ROWS},
};
#[cfg(target_arch = "x86_64")]
use super::{
    sizes::tiled_rows,
    tile_factors::{GroupSizes, RowFactors, TileFactors},
};
use crate::backend::cpu::kernels::{
    buffers::scratch_slice,
    compute::Compute,
    disjoint::DisjointSlices,
    elementwise::add_lanes,
    isa::{Isa, IsaKind, per_isa},
};

/// Rows in one task: a tile. Fewer rows take less time than waking another thread.
const ROWS_PER_TASK: usize = TILE_ROWS;

/// The integers of a group of activations, in no more lines of the cache than they need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C, align(32))]
pub(super) struct GroupValues(pub [i8; ACTIVATION_GROUP]);

/// Rows of activations as `value * scale`, with a scale for each [`ACTIVATION_GROUP`] of a row: the largest magnitude
/// of the group becomes ±127, the others are rounded to the nearest integer (ties to even). A group with a value that
/// is not finite has a NaN scale, so that the fault reaches every output.
#[derive(Default)]
pub(in crate::backend::cpu::kernels) struct Int8Rows {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Elements of [`Self::values`] from one row to the next, as [`stride`] gives them.
    pub(super) stride: usize,
    /// `[rows, stride]`, of which a row's first `cols / ACTIVATION_GROUP` are its groups, filled up with rows of any values to whole
    /// tiles, then at least [`GROUPS_BEYOND`] more. The buffers may be longer, with what a larger batch has left.
    pub(super) values: Vec<GroupValues>,
    /// `[rows, cols / ACTIVATION_GROUP]`
    pub(super) scales: Vec<f32>,
    /// Sums of the integers of each group, which are exact: `[rows, cols / ACTIVATION_GROUP]`.
    pub(super) sums: Vec<f32>,
    /// The same for small groups: `[rows, cols / SMALL_GROUP]`.
    pub(super) small_group_sums: Vec<f32>,
    /// Scales and sums for AMX tiles.
    #[cfg(target_arch = "x86_64")]
    pub(super) tiles: TileFactors,
}

/// Groups from one row to the next, for rows of `groups`: an odd number of lines of the cache. Tiles read sixteen rows at once.
/// If those were a multiple of 4,096 bytes apart, all would fall into one set of the first-level cache, which holds
/// fewer, and lines would be gone before their second group's turn.
fn stride(groups: usize) -> usize {
    const LINE: usize = 64 / ACTIVATION_GROUP;
    (groups.div_ceil(LINE) | 1) * LINE
}

impl Int8Rows {
    /// Quantises `x`, `[m, cols]`, and arranges the factors for AMX tiles where the processor has AMX and some rows are
    /// faster in tiles. `weight_groups` are the sizes of the groups of the weights that the rows will be multiplied with.
    ///
    /// # Panics
    /// When `cols` is not a multiple of [`ACTIVATION_GROUP`], or 0.
    pub(in crate::backend::cpu::kernels) fn set(
        &mut self,
        compute: &mut Compute,
        x: &[f32],
        cols: usize,
        weight_groups: impl Iterator<Item = usize>,
    ) {
        assert!(cols.is_multiple_of(ACTIVATION_GROUP) && cols > 0);
        let (m, isa) = (x.len() / cols, compute.isa);
        let groups = cols / ACTIVATION_GROUP;
        let stride = stride(groups);
        (self.rows, self.cols, self.stride) = (m, cols, stride);
        let values = DisjointSlices::new(scratch_slice(
            &mut self.values,
            m.next_multiple_of(TILE_ROWS) * stride + GROUPS_BEYOND,
        ));
        let scales = DisjointSlices::new(scratch_slice(&mut self.scales, m * groups));
        let sums = DisjointSlices::new(scratch_slice(&mut self.sums, m * groups));
        let small_sums = DisjointSlices::new(scratch_slice(&mut self.small_group_sums, m * 2 * groups));
        #[cfg(target_arch = "x86_64")]
        let factors = (isa.0 == IsaKind::Amx && tiled_rows(m) > 0)
            .then(|| self.tiles.resize(m, cols, GroupSizes::among(weight_groups)));
        #[cfg(not(target_arch = "x86_64"))]
        let _ = weight_groups;
        compute.pool.run_parts(m, ROWS_PER_TASK, &|rows| {
            let (first, rows) = (rows.start, rows.len());
            // SAFETY: `run_parts` gives each task other rows, and these elements are the rows' only.
            let mut out = unsafe {
                QuantisedGroups {
                    values: values.part(first * stride, rows * stride),
                    scales: scales.part(first * groups, rows * groups),
                    sums: sums.part(first * groups, rows * groups),
                    small_group_sums: small_sums.part(first * 2 * groups, rows * 2 * groups),
                }
            };
            for (row, x) in x[first * cols..][..rows * cols].chunks_exact(cols).enumerate() {
                quantise(isa, x, &mut out.row(row, groups, stride));
            }
            #[cfg(target_arch = "x86_64")]
            if let Some(factors) = &factors {
                let source = RowFactors {
                    scales: out.scales,
                    sums: out.sums,
                    small_group_sums: out.small_group_sums,
                };
                // SAFETY: a task's rows are a tile, and each task has another.
                unsafe { factors.set(first / TILE_ROWS, &source) };
            }
        });
    }
}

/// Quantised rows that a task writes, as [`Int8Rows`] has them.
struct QuantisedGroups<'a> {
    values: &'a mut [GroupValues],
    scales: &'a mut [f32],
    sums: &'a mut [f32],
    small_group_sums: &'a mut [f32],
}

impl QuantisedGroups<'_> {
    /// What is written of one of the rows, which has `groups` groups.
    fn row(&mut self, row: usize, groups: usize, stride: usize) -> QuantisedGroups<'_> {
        QuantisedGroups {
            values: &mut self.values[row * stride..][..groups],
            scales: &mut self.scales[row * groups..][..groups],
            sums: &mut self.sums[row * groups..][..groups],
            small_group_sums: &mut self.small_group_sums[row * 2 * groups..][..2 * groups],
        }
    }
}

/// A group whose largest magnitude is at most this becomes zeros: 127 divided by it could overflow.
const TINY: f32 = 1e-30;

/// A group's scale and the factor of its elements, which is 1 / scale. `largest` is the bits of the largest magnitude.
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

/// Quantises a row.
fn quantise(isa: Isa, x: &[f32], out: &mut QuantisedGroups<'_>) {
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Isa::available` makes these kinds only where it has found avx512f, avx512bw and avx512vl.
        IsaKind::Amx | IsaKind::Avx512Vnni | IsaKind::Avx512 => unsafe { quantise_avx512(x, out) },
        _ => quantise_plain(isa, x, out),
    }
}

/// [`quantise_plain`] in AVX-512 instructions, because compilers make scalar code of that.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn quantise_avx512(x: &[f32], out: &mut QuantisedGroups<'_>) {
    use std::arch::x86_64::{
        __m512, _mm_storeu_si128, _mm512_add_ps, _mm512_and_si512, _mm512_castps_si512, _mm512_cvtepi32_epi8,
        _mm512_loadu_ps, _mm512_max_epu32, _mm512_mul_ps, _mm512_reduce_add_ps, _mm512_reduce_max_epu32,
        _mm512_set1_epi32, _mm512_set1_ps, _mm512_sub_ps,
    };
    let groups = x
        .as_chunks::<ACTIVATION_GROUP>()
        .0
        .iter()
        .zip(out.values.iter_mut());
    let sums = out
        .sums
        .iter_mut()
        .zip(out.small_group_sums.as_chunks_mut::<2>().0);
    for (((x, GroupValues(values)), scale), (sum, small_sums)) in groups.zip(out.scales.iter_mut()).zip(sums)
    {
        // SAFETY: `x` is 32 f32; each load reads 16 of them and need not be aligned.
        let halves: [__m512; 2] = unsafe {
            [
                _mm512_loadu_ps(x.as_ptr()),
                _mm512_loadu_ps(x[SMALL_GROUP..].as_ptr()),
            ]
        };
        let mask = _mm512_set1_epi32(0x7fff_ffff);
        let magnitudes = halves.map(|half| _mm512_and_si512(_mm512_castps_si512(half), mask));
        let largest = _mm512_reduce_max_epu32(_mm512_max_epu32(magnitudes[0], magnitudes[1]));
        let factor;
        (*scale, factor) = scale_and_factor(largest);
        for (index, half) in halves.into_iter().enumerate() {
            let magic = _mm512_set1_ps(MAGIC);
            let rounded = _mm512_add_ps(_mm512_mul_ps(half, _mm512_set1_ps(factor)), magic);
            let bytes = _mm512_cvtepi32_epi8(_mm512_castps_si512(rounded));
            // SAFETY: the slice is the 16 bytes that are stored, which need not be aligned.
            unsafe {
                _mm_storeu_si128(
                    values[index * SMALL_GROUP..][..SMALL_GROUP].as_mut_ptr().cast(),
                    bytes,
                )
            };
            small_sums[index] = _mm512_reduce_add_ps(_mm512_sub_ps(rounded, magic));
        }
        *sum = small_sums[0] + small_sums[1];
    }
}

per_isa! {
    /// Quantises a row, in plain operations.
    fn quantise_plain(isa; x: &[f32], out: &mut QuantisedGroups<'_>) {
        let groups = x.as_chunks::<ACTIVATION_GROUP>().0.iter().zip(out.values.iter_mut());
        for (index, (x, GroupValues(values))) in groups.enumerate() {
            // Magnitudes have the order of their bits, and values that are not finite are above all others.
            let mut largest_of_lane = [0u32; SMALL_GROUP];
            for half in x.as_chunks::<SMALL_GROUP>().0 {
                for lane in 0..SMALL_GROUP {
                    largest_of_lane[lane] = largest_of_lane[lane].max(half[lane].to_bits() & 0x7fff_ffff);
                }
            }
            let mut width = SMALL_GROUP / 2;
            while width > 0 {
                for lane in 0..width {
                    largest_of_lane[lane] = largest_of_lane[lane].max(largest_of_lane[lane + width]);
                }
                width /= 2;
            }
            let factor;
            (out.scales[index], factor) = scale_and_factor(largest_of_lane[0]);
            let halves = x.as_chunks::<SMALL_GROUP>().0.iter().zip(values.as_chunks_mut::<SMALL_GROUP>().0);
            let mut both = 0.0;
            for (half, (x, values)) in halves.enumerate() {
                let mut rounded = [0f32; SMALL_GROUP];
                for lane in 0..SMALL_GROUP {
                    rounded[lane] = x[lane] * factor + MAGIC;
                    values[lane] = rounded[lane].to_bits() as i8;
                }
                // Sums of integers this small are exact in f32, in any order.
                let sum = add_lanes(rounded.map(|value| value - MAGIC));
                out.small_group_sums[2 * index + half] = sum;
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
    use crate::backend::cpu::kernels::test_support::{COARSER, compute};

    fn rows(isa: Isa, x: &[f32], cols: usize) -> Int8Rows {
        let mut rows = Int8Rows::default();
        rows.set(&mut compute(1, isa), x, cols, [ACTIVATION_GROUP].into_iter());
        rows
    }

    /// The integers of all rows.
    fn values(rows: &Int8Rows) -> Vec<i8> {
        let all = rows.values.chunks(rows.stride).take(rows.rows);
        let groups = all.flat_map(|row| &row[..rows.cols / ACTIVATION_GROUP]);
        groups.flat_map(|group| group.0).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64 / COARSER as u32))]
        #[test]
        fn values_are_the_nearest_and_sums_are_theirs(
            x in prop::collection::vec(-1e6f32..1e6, ACTIVATION_GROUP * 4), shrink in 0i32..30,
        ) {
            let x: Vec<f32> = x.iter().map(|v| v * 10f32.powi(-shrink)).collect();
            let found = rows(Isa::detect(), &x, 2 * ACTIVATION_GROUP);
            let integers = values(&found);
            for (i, v) in x.iter().enumerate() {
                let scale = found.scales[i / ACTIVATION_GROUP];
                let error = (f32::from(integers[i]) * scale - v).abs();
                prop_assert!(error <= scale * 0.5001, "{v} became {} x {scale}", integers[i]);
                prop_assert!(integers[i] != -128);
            }
            for (i, group) in integers.chunks(ACTIVATION_GROUP).enumerate() {
                prop_assert_eq!(found.sums[i], group.iter().map(|&v| f32::from(v)).sum::<f32>());
                prop_assert_eq!(found.sums[i], found.small_group_sums[2 * i] + found.small_group_sums[2 * i + 1]);
            }
            for isa in Isa::available() {
                let other = rows(isa, &x, 2 * ACTIVATION_GROUP);
                prop_assert_eq!(values(&other), integers.clone());
                prop_assert_eq!(&other.scales, &found.scales);
                prop_assert_eq!(&other.small_group_sums, &found.small_group_sums);
            }
        }
    }

    #[test]
    fn a_value_that_is_not_finite_spoils_its_group_only() {
        for fault in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0f32; 3 * ACTIVATION_GROUP];
            x[ACTIVATION_GROUP + 7] = fault;
            for isa in Isa::available() {
                let found = rows(isa, &x, 3 * ACTIVATION_GROUP);
                assert!(found.scales[0].is_finite() && found.scales[2].is_finite());
                assert!(found.scales[1].is_nan());
            }
        }
        assert_eq!(
            rows(Isa::detect(), &[0.0; ACTIVATION_GROUP], ACTIVATION_GROUP).scales,
            [0.0]
        );
    }
}
