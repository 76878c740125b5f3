//! AMX: products of one tile of rows with a panel, a run of 32 inputs at a time. The sums of the panel's 64 outputs are in tile
//! registers.
//!
//! ```text
//!   tmm0 to tmm3   float sums: up to 16 rows x 16 outputs each
//!   tmm4           a run of the rows: up to 16 rows x 32 inputs in bf16
//!   tmm6, tmm7     a run of the weights of 16 outputs, in turns: 16 pairs of inputs x 16 outputs in bf16
//!   tmm5           unused
//! ```

use std::arch::asm;

use super::layout::{PairBits, RunBits, TILE_ROWS};
use crate::backend::cpu::kernels::{
    output::{Output, OutputTile},
    tile_config::{TileConfig, TileShape},
};

/// Shapes of the tile registers for `rows` rows, at most [`TILE_ROWS`].
pub(super) const fn shapes(rows: usize) -> TileConfig {
    let rows = TileShape {
        rows: rows as u8,
        bytes_per_row: 64,
    };
    let weights = TileShape {
        rows: TILE_ROWS as u8,
        bytes_per_row: 64,
    };
    let unused = TileShape {
        rows: 0,
        bytes_per_row: 0,
    };
    TileConfig::new([rows, rows, rows, rows, rows, unused, weights, weights])
}

/// Loads what sums start from: 0, or what `c` holds.
///
/// # Safety
/// This thread's tile registers have [`shapes`]. `c` is readable and writable for as many rows of a panel's outputs, and until
/// [`store`] nobody else accesses these. The processor has AMX-BF16, and the system has granted this process the use of tile data.
pub(super) unsafe fn load(c: OutputTile) {
    // SAFETY: the tiles' rows are `c.stride` floats apart and 64 bytes long; those of the four tiles together are a panel's
    // outputs, for which the caller vouches. The assembly only reads memory and changes tiles, which the compiler does not use.
    unsafe {
        match c.output {
            Output::Replace => asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nostack, preserves_flags, nomem)
            ),
            Output::Add => asm!(
                "tileloadd tmm0, [{c} + {stride} * 1]",
                "tileloadd tmm1, [{c} + {stride} * 1 + 64]",
                "tileloadd tmm2, [{c} + {stride} * 1 + 128]",
                "tileloadd tmm3, [{c} + {stride} * 1 + 192]",
                c = in(reg) c.start, stride = in(reg) 4 * c.stride, options(nostack, preserves_flags, readonly),
            ),
        }
    }
}

/// Adds the products of a run to the sums.
///
/// # Safety
/// This thread's tile registers have [`shapes`]. `x` is readable for as many rows of [`RunBits`], and `w` for the pairs of four
/// tiles of outputs, [`TILE_ROWS`] each. The processor has AMX-BF16, and the system has granted this process the use of tile data.
#[inline(always)]
pub(super) unsafe fn add_run(x: *const RunBits, w: *const PairBits) {
    // SAFETY: rows of tiles are 64 bytes long and 64 bytes apart; the caller vouches for all that is read. The assembly only reads
    // memory and changes tiles, which the compiler does not use.
    unsafe {
        asm!(
            "tileloadd tmm4, [{x} + {line} * 1]",
            "tileloadd tmm6, [{w} + {line} * 1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{w} + {line} * 1 + {tile}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm6, [{w} + {line} * 1 + 2 * {tile}]",
            "tdpbf16ps tmm2, tmm4, tmm6",
            "tileloadd tmm7, [{w} + {line} * 1 + 3 * {tile}]",
            "tdpbf16ps tmm3, tmm4, tmm7",
            x = in(reg) x, w = in(reg) w, line = in(reg) 64usize, tile = const 64 * TILE_ROWS,
            options(nostack, preserves_flags, readonly),
        );
    }
}

/// Stores the sums in `c`.
///
/// # Safety
/// What [`load`] asks for, which has been called with the same `c`.
pub(super) unsafe fn store(c: OutputTile) {
    // SAFETY: what is stored is what `load` describes, and nobody else accesses it.
    unsafe {
        asm!(
            "tilestored [{c} + {stride} * 1], tmm0",
            "tilestored [{c} + {stride} * 1 + 64], tmm1",
            "tilestored [{c} + {stride} * 1 + 128], tmm2",
            "tilestored [{c} + {stride} * 1 + 192], tmm3",
            c = in(reg) c.start, stride = in(reg) 4 * c.stride, options(nostack, preserves_flags),
        );
    }
}
