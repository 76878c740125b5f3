//! Shapes of the processor's AMX tile registers.

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

/// Shape of one tile register.
#[derive(Clone, Copy)]
pub(super) struct TileShape {
    /// Rows, at most 16.
    pub rows: u8,
    /// Bytes of a row, at most 64.
    pub bytes_per_row: u16,
}

impl TileConfig {
    /// The configuration that gives registers `tmm0` to `tmm7` these shapes.
    ///
    /// # Panics
    /// When a shape is larger than palette 1 has them; in a constant that stops the build.
    pub(super) const fn new(shapes: [TileShape; 8]) -> Self {
        let mut config = Self {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            bytes_per_row: [0; 16],
            rows: [0; 16],
        };
        let mut tile = 0;
        while tile < shapes.len() {
            assert!(shapes[tile].rows <= 16 && shapes[tile].bytes_per_row <= 64);
            config.rows[tile] = shapes[tile].rows;
            config.bytes_per_row[tile] = shapes[tile].bytes_per_row;
            tile += 1;
        }
        config
    }

    /// Gives this thread's tile registers these shapes, until [`release`]. It takes as long as the products of a
    /// hundred tiles, so kernels load a configuration once for many products.
    ///
    /// # Safety
    /// The processor has AMX-TILE, and the system has granted this process the use of tile data.
    pub(super) unsafe fn load(&self) {
        // SAFETY: the caller vouches for AMX-TILE. `self` is 64 readable bytes, and `new` lets only shapes of palette
        // 1 pass, so the instruction does not fault. It changes tile registers only, which the compiler does not use.
        unsafe { asm!("ldtilecfg [{}]", in(reg) self, options(nostack, preserves_flags, readonly)) };
    }
}

/// Empties this thread's tile registers, so that a context switch need not save them.
///
/// # Safety
/// The processor has AMX-TILE, and the system has granted this process the use of tile data.
pub(super) unsafe fn release() {
    // SAFETY: the caller vouches for AMX-TILE. The instruction changes tile registers only, which the compiler does
    // not use.
    unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
}
