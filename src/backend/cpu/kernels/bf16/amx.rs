//! AMX: tiles of 16 rows, 16 outputs and 32 inputs in an instruction.
//!
//! Two tiles of rows and two of outputs at a time: each operand that is loaded is used twice, which is what the
//! first-level cache can keep up with.

use std::arch::asm;

use super::{rows::RunBits, tiles::PairBits};
use crate::backend::cpu::kernels::{Output, int8::Target, tile_config::TileConfig};

/// Most rows of a tile.
pub(in crate::backend::cpu::kernels) const ROWS: usize = 16;

/// So many runs of rows are fetched before they are multiplied: they come from the second-level cache, and the hardware
/// does not foresee what tiles load.
const AHEAD: usize = 4;

/// Shapes for so many rows in all, at most two tiles of them: registers 0 to 3 hold sums (0 and 1 of the first rows),
/// 4 and 5 rows, 6 and 7 weights.
pub(in crate::backend::cpu::kernels) const fn shapes(rows: usize) -> TileConfig {
    let (first, second) = if rows > ROWS {
        (ROWS, rows - ROWS)
    } else {
        (rows, 1)
    };
    let (first, second, full) = ((first as u8, 64), (second as u8, 64), (ROWS as u8, 64));
    TileConfig::new([first, first, second, second, first, second, full, full])
}

/// Pointers are to the first run.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu::kernels) struct Operands {
    /// `[runs][ROWS]`
    pub x: *const RunBits,
    /// The next rows, where there are more than [`ROWS`].
    pub x_second: *const RunBits,
    /// `[runs][16]` of the first sixteen outputs and of the next, runs [`Self::w_step`] lines apart.
    pub w: [*const PairBits; 2],
    /// At least [`ROWS`].
    pub w_step: usize,
    /// At least one.
    pub runs: usize,
}

/// `c[i][j] = x[i] · w[j]`, or added to it, for the rows that the tiles are shaped for and 32 outputs.
///
/// # Safety
/// The operands are as [`Operands`] says, `c` is valid for the rows and outputs, and the tiles are shaped for at most
/// [`ROWS`] rows without [`Operands::x_second`] and for more with it. The processor has AMX-BF16.
pub(in crate::backend::cpu::kernels) unsafe fn product(operands: &Operands, c: Target) {
    let second = !operands.x_second.is_null();
    // SAFETY: by the caller's promise.
    unsafe {
        load_sums(c, second);
        add_products(operands);
        store_sums(c, second);
    }
}

/// Sums start from 0, or from what is in `c`, `c_second` for rows beyond [`ROWS`].
///
/// # Safety
/// `c` is valid for the rows that the tiles are shaped for and 32 outputs. The processor has AMX-BF16.
pub(super) unsafe fn load_sums(c: Target, second: bool) {
    let stride = 4 * c.stride;
    // SAFETY: the compiler does not use tiles, and addresses are inside of what the caller vouches for.
    unsafe {
        if c.output == Output::Replace {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nostack, preserves_flags, nomem)
            );
            return;
        }
        asm!(
            "tileloadd tmm0, [{c} + {stride} * 1]",
            "tileloadd tmm1, [{c} + {stride} * 1 + 64]",
            c = in(reg) c.at, stride = in(reg) stride, options(nostack, preserves_flags, readonly),
        );
        if second {
            asm!(
                "tileloadd tmm2, [{c} + {stride} * 1]",
                "tileloadd tmm3, [{c} + {stride} * 1 + 64]",
                c = in(reg) c.at.wrapping_add(ROWS * c.stride), stride = in(reg) stride,
                options(nostack, preserves_flags, readonly),
            );
        }
    }
}

/// Adds `x[i] · w[j]` to the sums of the rows that the tiles are shaped for and 32 outputs.
///
/// # Safety
/// The operands are as [`Operands`] says, and the tiles are shaped for at most [`ROWS`] rows without
/// [`Operands::x_second`] and for more with it. The processor has AMX-BF16.
pub(super) unsafe fn add_products(operands: &Operands) {
    // SAFETY: the compiler does not use tiles, and addresses are inside of what the caller vouches for.
    unsafe {
        if !operands.x_second.is_null() {
            asm!(
                "2:",
                "tileloadd tmm6, [{w} + {line} * 1]",
                "tileloadd tmm4, [{x} + {line} * 1]",
                "tileloadd tmm7, [{w_next} + {line} * 1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                ".irp line, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
                "prefetcht0 [{x} + {ahead} + 64 * \\line]",
                ".endr",
                "tileloadd tmm5, [{second} + {line} * 1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                ".irp line, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
                "prefetcht0 [{second} + {ahead} + 64 * \\line]",
                ".endr",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {x}, {tile}",
                "add {second}, {tile}",
                "add {w}, {step}",
                "add {w_next}, {step}",
                "dec {runs}",
                "jnz 2b",
                x = inout(reg) operands.x => _,
                second = inout(reg) operands.x_second => _,
                w = inout(reg) operands.w[0] => _,
                w_next = inout(reg) operands.w[1] => _,
                step = in(reg) 64 * operands.w_step,
                line = in(reg) 64usize,
                tile = const 64 * ROWS,
                ahead = const AHEAD * 64 * ROWS,
                runs = inout(reg) operands.runs => _,
                options(nostack, readonly),
            );
        } else {
            asm!(
                "2:",
                "tileloadd tmm4, [{x} + {line} * 1]",
                "tileloadd tmm6, [{w} + {line} * 1]",
                "tileloadd tmm7, [{w_next} + {line} * 1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "add {x}, {tile}",
                "add {w}, {step}",
                "add {w_next}, {step}",
                "dec {runs}",
                "jnz 2b",
                x = inout(reg) operands.x => _,
                w = inout(reg) operands.w[0] => _,
                w_next = inout(reg) operands.w[1] => _,
                step = in(reg) 64 * operands.w_step,
                line = in(reg) 64usize,
                tile = const 64 * ROWS,
                runs = inout(reg) operands.runs => _,
                options(nostack, readonly),
            );
        }
    }
}

/// Leaves the sums in `c`.
///
/// # Safety
/// As [`load_sums`].
pub(super) unsafe fn store_sums(c: Target, second: bool) {
    let stride = 4 * c.stride;
    // SAFETY: addresses are inside of what the caller vouches for.
    unsafe {
        asm!(
            "tilestored [{c} + {stride} * 1], tmm0",
            "tilestored [{c} + {stride} * 1 + 64], tmm1",
            c = in(reg) c.at, stride = in(reg) stride, options(nostack, preserves_flags),
        );
        if second {
            asm!(
                "tilestored [{c} + {stride} * 1], tmm2",
                "tilestored [{c} + {stride} * 1 + 64], tmm3",
                c = in(reg) c.at.wrapping_add(ROWS * c.stride), stride = in(reg) stride,
                options(nostack, preserves_flags),
            );
        }
    }
}
