//! Scales and sums of rows, side by side for whole AMX tiles of rows.

use super::sizes::{ACTIVATION_GROUP, SMALL_GROUP, TILE_ROWS};
use crate::backend::cpu::kernels::{buffers::scratch_slice, disjoint::DisjointSlices};

/// Scales and sums of whole tiles of rows, `[tiles][groups][2][TILE_ROWS]`, with zeros for rows that the last tile has not.
#[derive(Default)]
pub(super) struct TileFactors {
    /// For weights in groups of [`ACTIVATION_GROUP`].
    activation_groups: Vec<f32>,
    /// For weights in groups of [`SMALL_GROUP`].
    small_groups: Vec<f32>,
}

/// Which sizes of groups the weights have that rows are multiplied with.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct GroupSizes {
    /// Some have groups of [`ACTIVATION_GROUP`].
    pub activation_groups: bool,
    /// Some have groups of [`SMALL_GROUP`].
    pub small_groups: bool,
}

impl GroupSizes {
    /// The sizes among these.
    pub(super) fn among(groups: impl Iterator<Item = usize>) -> Self {
        let mut sizes = Self::default();
        for group in groups {
            sizes.activation_groups |= group == ACTIVATION_GROUP;
            sizes.small_groups |= group == SMALL_GROUP;
        }
        sizes
    }
}

/// What a tile's factors are taken from: at most [`TILE_ROWS`] rows.
pub(super) struct RowFactors<'a> {
    /// Scales of the activations, `[rows, cols / ACTIVATION_GROUP]`.
    pub scales: &'a [f32],
    /// Sums of the activations' integers, `[rows, cols / ACTIVATION_GROUP]`.
    pub sums: &'a [f32],
    /// The same for small groups, `[rows, cols / SMALL_GROUP]`.
    pub small_group_sums: &'a [f32],
}

/// [`TileFactors`] of which several threads write different tiles.
pub(super) struct TileFactorSlices<'a> {
    cols: usize,
    activation_groups: Option<DisjointSlices<'a, f32>>,
    small_groups: Option<DisjointSlices<'a, f32>>,
}

impl TileFactors {
    /// Makes room for the factors of `rows` rows of `cols` inputs.
    pub(super) fn resize(&mut self, rows: usize, cols: usize, sizes: GroupSizes) -> TileFactorSlices<'_> {
        let len = |group: usize| rows.div_ceil(TILE_ROWS) * (cols / group) * 2 * TILE_ROWS;
        let slices = |wanted: bool, memory, group| {
            wanted.then(|| DisjointSlices::new(scratch_slice(memory, len(group))))
        };
        TileFactorSlices {
            cols,
            activation_groups: slices(
                sizes.activation_groups,
                &mut self.activation_groups,
                ACTIVATION_GROUP,
            ),
            small_groups: slices(sizes.small_groups, &mut self.small_groups, SMALL_GROUP),
        }
    }

    /// The factors for weights in groups of `group`.
    pub(super) fn for_groups_of(&self, group: usize) -> &[f32] {
        match group {
            SMALL_GROUP => &self.small_groups,
            _ => &self.activation_groups,
        }
    }
}

impl TileFactorSlices<'_> {
    /// Arranges a tile's factors. Rows that the tile has not get zeros.
    ///
    /// # Safety
    /// No other thread arranges those of the same tile at the same time.
    ///
    /// # Panics
    /// When there is no such tile, or `source` has more than [`TILE_ROWS`] rows.
    pub(super) unsafe fn set(&self, tile: usize, source: &RowFactors<'_>) {
        for (out, group, sums) in [
            (&self.activation_groups, ACTIVATION_GROUP, source.sums),
            (&self.small_groups, SMALL_GROUP, source.small_group_sums),
        ] {
            let Some(out) = out else {
                continue;
            };
            let groups = self.cols / group;
            let len = groups * 2 * TILE_ROWS;
            // SAFETY: these elements are the tile's only, which the caller keeps to this call.
            let out = unsafe { out.part(tile * len, len) };
            if sums.len() < TILE_ROWS * groups {
                out.fill(0.0);
            }
            let scales = source.scales.chunks_exact(self.cols / ACTIVATION_GROUP);
            for (row, (scales, sums)) in scales.zip(sums.chunks_exact(groups)).enumerate() {
                let factors = out.as_chunks_mut::<{ 2 * TILE_ROWS }>().0.iter_mut();
                for (index, (out, sum)) in factors.zip(sums).enumerate() {
                    out[row] = scales[index * group / ACTIVATION_GROUP];
                    out[TILE_ROWS + row] = *sum;
                }
            }
        }
    }
}
