//! How the processor's tile registers are shaped.

use std::arch::asm;

/// Shapes of the eight tile registers (Intel SDM, volume 1, "Tile configuration", palette 1).
#[repr(C, align(64))]
pub(super) struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

impl TileConfig {
    /// Of each register its rows, at most 16, and the bytes of a row, at most 64.
    pub(super) const fn new(shapes: [(u8, u16); 8]) -> Self {
        let mut config = Self {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            bytes_per_row: [0; 16],
            rows: [0; 16],
        };
        let mut tile = 0;
        while tile < shapes.len() {
            (config.rows[tile], config.bytes_per_row[tile]) = shapes[tile];
            tile += 1;
        }
        config
    }

    /// Shapes this thread's tiles so, until [`release`]. It takes as long as a hundred tiles' products.
    ///
    /// # Safety
    /// The processor has AMX, and the system lets this process use it. The shapes fit palette 1.
    pub(super) unsafe fn load(&self) {
        // SAFETY: by the caller's promise; the compiler does not use tiles.
        unsafe { asm!("ldtilecfg [{}]", in(reg) self, options(nostack, preserves_flags, readonly)) };
    }
}

/// Gives the tiles back: a context switch need not save them then.
///
/// # Safety
/// The processor has AMX.
pub(super) unsafe fn release() {
    // SAFETY: by the caller's promise.
    unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
}
