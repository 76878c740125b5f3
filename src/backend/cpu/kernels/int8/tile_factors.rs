//! Scales and sums of rows, side by side for whole AMX tiles of rows.

use super::sizes::{ACTIVATION_GROUP, SMALL_GROUP, TILE_ROWS};
use crate::backend::cpu::kernels::{buffers::scratch_slice, disjoint::DisjointSlices, pool::ThreadPool};

/// Tiles of rows in one task.
const TILES_PER_TASK: usize = 2;

/// Scales and sums of whole tiles of rows, `[rows / TILE_ROWS][groups][2][TILE_ROWS]`.
#[derive(Default)]
pub(super) struct TileFactors {
    /// For weights in groups of [`ACTIVATION_GROUP`].
    activation_groups: Vec<f32>,
    /// For weights in groups of [`SMALL_GROUP`].
    small_groups: Vec<f32>,
}

/// What the factors are taken from.
pub(super) struct RowFactors<'a> {
    pub rows: usize,
    pub cols: usize,
    /// Inputs of a group of weights.
    pub group: usize,
    /// Scales of the activations, `[rows, cols / ACTIVATION_GROUP]`.
    pub scales: &'a [f32],
    /// Sums of the activations' integers, `[rows, cols / group]`.
    pub sums: &'a [f32],
}

impl TileFactors {
    /// Arranges the factors for weights in groups of `source.group`.
    pub(super) fn set(&mut self, pool: &mut ThreadPool, source: &RowFactors<'_>) {
        let (tiles, groups) = (source.rows / TILE_ROWS, source.cols / source.group);
        let tile_len = groups * 2 * TILE_ROWS;
        let scales_per_row = source.cols / ACTIVATION_GROUP;
        let out = match source.group {
            SMALL_GROUP => &mut self.small_groups,
            _ => &mut self.activation_groups,
        };
        let out = DisjointSlices::new(scratch_slice(out, tiles * tile_len));
        pool.run_parts(tiles, TILES_PER_TASK, &|range| {
            for tile in range {
                // SAFETY: `run_parts` gives each task other tiles, and these elements are the tile's only.
                let out = unsafe { out.part(tile * tile_len, tile_len) };
                for (group, out) in out.as_chunks_mut::<{ 2 * TILE_ROWS }>().0.iter_mut().enumerate() {
                    let (scales, sums) = out.split_at_mut(TILE_ROWS);
                    for row in 0..TILE_ROWS {
                        let at = tile * TILE_ROWS + row;
                        scales[row] =
                            source.scales[at * scales_per_row + group * source.group / ACTIVATION_GROUP];
                        sums[row] = source.sums[at * groups + group];
                    }
                }
            }
        });
    }

    /// The factors for weights in groups of `group`.
    pub(super) fn for_groups_of(&self, group: usize) -> &[f32] {
        match group {
            SMALL_GROUP => &self.small_groups,
            _ => &self.activation_groups,
        }
    }
}
