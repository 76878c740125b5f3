//! How many rows and inputs are taken together.

/// Most rows of activations that a kernel for vectors takes at once: with two vectors of outputs, their sums and what
/// they are computed from are in registers.
pub(in crate::backend::cpu::kernels) const MAX_ROWS: usize = 6;
/// Most rows for which a kernel takes a whole panel: weights are then read in the order in which they lie in memory,
/// and the sums still are in registers.
pub(in crate::backend::cpu::kernels) const PANEL_ROWS: usize = 2;
/// Rows that are taken together in AMX tiles.
pub(in crate::backend::cpu::kernels) const TILE_ROWS: usize = 16;
/// Outputs that are taken together in AMX tiles: the sums of so many for [`TILE_ROWS`] rows fill 16 of 32 registers.
#[cfg(target_arch = "x86_64")]
pub(super) const TILE_OUTPUTS: usize = 16;

/// Groups behind the last that AMX kernels load ahead of use and then do not use.
pub(super) const GROUPS_BEYOND: usize = 2;

/// Activations of a row that share a scale.
pub(super) const ACTIVATION_GROUP: usize = 32;
/// Weights that share a scale in formats whose groups are small. In the others an [`ACTIVATION_GROUP`] of weights does.
pub(super) const SMALL_GROUP: usize = 16;

/// Fewest rows for which tiles are faster than vectors: they pay for unpacking the weights. 24 rows take 10 % longer in tiles.
#[cfg(target_arch = "x86_64")]
const FEWEST_ROWS: usize = 28;
/// Fewest rows behind the last whole tile for which one more tile is faster than vectors, which take fewer at once. The tile
/// takes as long as one of [`TILE_ROWS`] rows.
#[cfg(target_arch = "x86_64")]
const FEWEST_LAST_ROWS: usize = MAX_ROWS + 1;

/// How many of `rows` rows, the first ones, are faster in tiles than in vectors where the processor has AMX.
#[cfg(target_arch = "x86_64")]
pub(super) fn tiled_rows(rows: usize) -> usize {
    let rest = rows % TILE_ROWS;
    if rows < FEWEST_ROWS {
        0
    } else if rest < FEWEST_LAST_ROWS {
        rows - rest
    } else {
        rows
    }
}
