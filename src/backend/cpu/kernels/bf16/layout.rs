//! Sizes in which operands are cut, and how they lie in memory.

#[cfg(target_arch = "x86_64")]
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::kernels::panel::{PANEL, STRIP, STRIPS_PER_PANEL};

/// Inputs in a run: those that one instruction for tiles multiplies.
pub(in crate::backend::cpu::kernels) const RUN: usize = 32;
/// Pairs of inputs in a run.
pub(in crate::backend::cpu::kernels) const RUN_PAIRS: usize = RUN / 2;

/// Most rows of activations in a tile register.
#[cfg(target_arch = "x86_64")]
pub(in crate::backend::cpu::kernels) const TILE_ROWS: usize = 16;
/// Most rows of activations that are multiplied together: two tiles.
pub(in crate::backend::cpu::kernels) const ROW_BLOCK: usize = 32;

/// Outputs in a tile register, and in a vector of f32.
#[cfg(target_arch = "x86_64")]
pub(super) const TILE_OUTPUTS: usize = 16;
/// Vectors of a panel's outputs.
#[cfg(target_arch = "x86_64")]
pub(super) const PANEL_VECTORS: usize = PANEL / TILE_OUTPUTS;
/// Vectors of a strip's outputs.
#[cfg(target_arch = "x86_64")]
const STRIP_VECTORS: usize = STRIP / TILE_OUTPUTS;
/// [`PairBits`] of a run for a strip's outputs, in two tiles.
#[cfg(target_arch = "x86_64")]
pub(super) const STRIP_RUN: usize = RUN_PAIRS * STRIP_VECTORS;

/// A run of a row of activations, a line of the cache.
#[cfg(target_arch = "x86_64")]
#[repr(C, align(64))]
#[derive(Clone, Copy, Default)]
pub(in crate::backend::cpu::kernels) struct RunBits(pub [u16; RUN]);

/// A pair of inputs for a tile's outputs, a line of the cache. The even input is in the low bits, the odd one behind
/// it in the high bits.
#[cfg(target_arch = "x86_64")]
#[repr(C, align(64))]
#[derive(Clone, Copy, Default)]
pub(in crate::backend::cpu::kernels) struct PairBits(pub [u32; TILE_OUTPUTS]);

/// A row's sums for a panel's outputs.
#[cfg(target_arch = "x86_64")]
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct RowSums(pub [f32; PANEL]);

#[cfg(target_arch = "x86_64")]
impl Default for RowSums {
    fn default() -> Self {
        Self([0.0; PANEL])
    }
}

/// A panel's weights as tiles load them: for each strip `[run][tile of the strip][RUN_PAIRS]`. A strip that is not
/// wanted is empty.
#[cfg(target_arch = "x86_64")]
pub(super) struct PanelPairs<'a> {
    pub strips: [&'a mut [PairBits]; STRIPS_PER_PANEL],
}

#[cfg(target_arch = "x86_64")]
impl PanelPairs<'_> {
    /// Pair `pair` of all inputs, for the panel's outputs from `vector * TILE_OUTPUTS` on.
    #[inline]
    pub(super) fn pair(&mut self, pair: usize, vector: usize) -> &mut PairBits {
        let strip = &mut *self.strips[vector / STRIP_VECTORS];
        let (run, tile) = (pair / RUN_PAIRS, vector % STRIP_VECTORS);
        &mut strip[run * STRIP_RUN + tile * RUN_PAIRS + pair % RUN_PAIRS]
    }

    /// Vectors of outputs of the strips that are wanted.
    pub(super) fn vectors(&self) -> Range<usize> {
        let from = if self.strips[0].is_empty() {
            STRIP_VECTORS
        } else {
            0
        };
        let to = if self.strips[1].is_empty() {
            STRIP_VECTORS
        } else {
            PANEL_VECTORS
        };
        from..to
    }

    /// Fills the last run up with zeros, behind so many pairs.
    pub(super) fn fill_last_run(&mut self, pairs: usize) {
        for pair in pairs..pairs.next_multiple_of(RUN_PAIRS) {
            for vector in self.vectors() {
                *self.pair(pair, vector) = PairBits::default();
            }
        }
    }
}
