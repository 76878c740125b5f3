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

/// Activations of a row that share a scale.
pub(super) const ACTIVATION_GROUP: usize = 32;
/// Weights that share a scale in formats whose groups are small. In the others an [`ACTIVATION_GROUP`] of weights does.
pub(super) const SMALL_GROUP: usize = 16;
