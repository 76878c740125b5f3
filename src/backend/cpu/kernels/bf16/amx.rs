//! AMX: products of up to 32 rows and 32 outputs, a run of 32 inputs at a time.
//!
//! Two tiles of rows and two of outputs are multiplied with one another, so each operand that is loaded is used
//! twice. That is as much as the first-level cache can keep up with.
//!
//! # Registers
//!
//! ```text
//!                        tmm6: outputs 0..16       tmm7: outputs 16..32
//!                      +-------------------------+-------------------------+
//!   tmm4: rows 0..16   | tmm0                    | tmm1                    |
//!   tmm5: rows 16..32  | tmm2                    | tmm3                    |
//!                      +-------------------------+-------------------------+
//!
//!   tmm0 to tmm3   float sums: 16 rows x 16 outputs each; they stay in registers over all runs
//!   tmm4, tmm5     a run of the rows: 16 rows x 32 inputs in bf16
//!   tmm6, tmm7     a run of the weights: 16 pairs of inputs x 16 outputs in bf16
//!
//!   x, second      the next run of rows 0..16, and of rows 16..32: + 1,024 bytes a run
//!   w, w_next      the next run of outputs 0..16, and of outputs 16..32: + `step` bytes a run
//!   step           bytes from one run of the weights to the next
//!   line           64: bytes from one row to the next of each tile that is loaded
//!   runs           runs left
//!   c              the sums' place in memory; `stride` bytes from one row of it to the next
//! ```
//!
//! With 16 rows or fewer, tmm2, tmm3 and tmm5 are not used.
//!
//! In a run of 32 rows, each product begins as soon as its operands are there:
//!
//! ```text
//!   load tmm6, tmm4, tmm7 | tmm0 += tmm4 * tmm6 | load tmm5 | tmm1 += tmm4 * tmm7 | tmm2 += tmm5 * tmm6
//!   | tmm3 += tmm5 * tmm7
//! ```
//!
//! Rows come from the second-level cache and are read once for each strip of weights, which stays in the first-level
//! cache. `tileloaddt1` says so to the processor, and then rows do not drive weights out of there: with 576 inputs a
//! thread's products alone reach 2.2 TFLOP/s, 1.7 with plain loads, and 1.6 when rows are prefetched besides (3.2 from
//! registers; tiles are slower when bits change). One tile of rows and four of weights, or two and three, reach 1.4 to 1.5
//! for so many inputs, and no more than 1.8 for fewer.

use std::arch::asm;

use super::layout::{PairBits, RunBits, TILE_ROWS};
use crate::backend::cpu::kernels::{
    output::{Output, OutputTile},
    tile_config::{TileConfig, TileShape},
};

/// Shapes of the tile registers for `rows` rows in all, at most two tiles of them: the first tile has the first
/// [`TILE_ROWS`] of them, or all if they are fewer, and the second the rows behind.
pub(in crate::backend::cpu::kernels) const fn shapes(rows: usize) -> TileConfig {
    let (first, second) = if rows > TILE_ROWS {
        (TILE_ROWS, rows - TILE_ROWS)
    } else {
        (rows, 1)
    };
    let first = TileShape {
        rows: first as u8,
        bytes_per_row: 64,
    };
    let second = TileShape {
        rows: second as u8,
        bytes_per_row: 64,
    };
    let weights = TileShape {
        rows: TILE_ROWS as u8,
        bytes_per_row: 64,
    };
    TileConfig::new([first, first, second, second, first, second, weights, weights])
}

/// Operands of one or two tiles of rows and two of outputs, as pointers to the first run.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu::kernels) struct Operands {
    /// The first tile of rows, `[runs][TILE_ROWS]`.
    pub x: *const RunBits,
    /// The second tile of rows where it is used; null otherwise.
    pub x_second: *const RunBits,
    /// The weights of the first sixteen outputs and of the next: `[runs]` of sixteen [`PairBits`], the runs
    /// [`Self::w_step`] apart.
    pub w: [*const PairBits; 2],
    /// [`PairBits`] from one run of the weights to the next, at least sixteen.
    pub w_step: usize,
    /// Number of runs, at least one.
    pub runs: usize,
}

/// `c[i][j] = x[i] · w[j]`, or added to it, for the rows that the tile registers are shaped for and 32 outputs.
///
/// # Safety
/// What [`load_sums`] (with `second` where [`Operands::x_second`] is not null), [`add_products`] and [`store_sums`]
/// ask for.
pub(super) unsafe fn product(operands: &Operands, c: OutputTile) {
    let second = !operands.x_second.is_null();
    // SAFETY: the caller vouches for what the three functions ask for.
    unsafe {
        load_sums(c, second);
        add_products(operands);
        store_sums(c, second);
    }
}

/// A product that is computed run by run, between pieces of other work. A run is computed by its four methods, each called once, in
/// the order in which they stand here.
///
/// # Safety
/// All four ask for what [`product`] does, for the operands and the outputs of the product that was begun last; and while it is
/// under way, nothing else changes this thread's tiles.
pub(in crate::backend::cpu::kernels) struct SteppedProduct {
    /// Those of the runs that are left.
    operands: Operands,
    /// Whether no run is done.
    is_first: bool,
    c: OutputTile,
}

impl SteppedProduct {
    /// A product without runs.
    pub(in crate::backend::cpu::kernels) const NONE: Self = Self {
        operands: Operands {
            x: std::ptr::null(),
            x_second: std::ptr::null(),
            w: [std::ptr::null(); 2],
            w_step: 0,
            runs: 0,
        },
        is_first: false,
        c: OutputTile {
            start: std::ptr::null_mut(),
            stride: 0,
            output: Output::Replace,
        },
    };

    /// Begins a product.
    pub(in crate::backend::cpu::kernels) fn begin(&mut self, operands: Operands, c: OutputTile) {
        // Field by field: the compiler copies a whole struct in words that lie across its fields, and the processor stalls when a
        // field is read soon after.
        self.operands = operands;
        self.is_first = true;
        self.c = c;
    }

    /// Whether there are runs left.
    #[inline(always)]
    pub(in crate::backend::cpu::kernels) fn is_under_way(&self) -> bool {
        self.operands.runs > 0
    }

    /// Loads a tile of rows and one of weights.
    ///
    /// # Safety
    /// See [`SteppedProduct`].
    #[inline(always)]
    pub(in crate::backend::cpu::kernels) unsafe fn load(&self) {
        let Operands { x, x_second, w, .. } = self.operands;
        // SAFETY: the caller vouches for what `load_sums` asks for, and for a run of each operand.
        unsafe {
            if self.is_first {
                load_sums(self.c, !x_second.is_null());
            }
            asm!(
                "tileloadd tmm6, [{w} + {line} * 1]",
                "tileloaddt1 tmm4, [{x} + {line} * 1]",
                w = in(reg) w[0], x = in(reg) x, line = in(reg) 64usize,
                options(nostack, preserves_flags, readonly),
            );
        }
    }

    /// Multiplies these, and loads the other tile of weights.
    ///
    /// # Safety
    /// See [`SteppedProduct`].
    #[inline(always)]
    pub(in crate::backend::cpu::kernels) unsafe fn multiply_first(&self) {
        // SAFETY: the caller vouches for a run of the weights.
        unsafe {
            asm!(
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w} + {line} * 1]",
                w = in(reg) self.operands.w[1], line = in(reg) 64usize,
                options(nostack, preserves_flags, readonly),
            );
        }
    }

    /// Multiplies these, and loads the other tile of rows, where there is one.
    ///
    /// # Safety
    /// See [`SteppedProduct`].
    #[inline(always)]
    pub(in crate::backend::cpu::kernels) unsafe fn multiply_second(&self) {
        let x_second = self.operands.x_second;
        // SAFETY: the caller vouches for a run of the rows.
        unsafe {
            asm!(
                "tdpbf16ps tmm1, tmm4, tmm7",
                options(nostack, preserves_flags, nomem)
            );
            if !x_second.is_null() {
                asm!(
                    "tileloaddt1 tmm5, [{x} + {line} * 1]",
                    x = in(reg) x_second, line = in(reg) 64usize,
                    options(nostack, preserves_flags, readonly),
                );
            }
        }
    }

    /// Multiplies these, and stores the sums after the last run.
    ///
    /// # Safety
    /// See [`SteppedProduct`].
    #[inline(always)]
    pub(in crate::backend::cpu::kernels) unsafe fn multiply_rest(&mut self) {
        let operands = &mut self.operands;
        let has_second = !operands.x_second.is_null();
        // SAFETY: the caller vouches for the outputs.
        unsafe {
            if has_second {
                asm!(
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    options(nostack, preserves_flags, nomem),
                );
            }
            if operands.runs == 1 {
                store_sums(self.c, has_second);
            }
        }
        operands.runs -= 1;
        operands.x = operands.x.wrapping_add(TILE_ROWS);
        if has_second {
            operands.x_second = operands.x_second.wrapping_add(TILE_ROWS);
        }
        operands.w[0] = operands.w[0].wrapping_add(operands.w_step);
        operands.w[1] = operands.w[1].wrapping_add(operands.w_step);
        self.is_first = false;
    }
}

/// Loads what sums start from to tmm0 to tmm3: 0, or what `c` holds. `second` says whether the second tile of rows is
/// used.
///
/// # Safety
/// This thread's tile registers have [`shapes`], for more than [`TILE_ROWS`] rows if `second`. `c` is readable and
/// writable for 32 outputs of as many rows as the first tile has, and if `second` of those behind that the second
/// tile has. Until [`store_sums`] nobody else accesses these. The processor has AMX-BF16, and the system has granted
/// this process the use of tile data.
pub(super) unsafe fn load_sums(c: OutputTile, second: bool) {
    let stride = 4 * c.stride;
    // SAFETY: the tiles' rows are `stride` bytes apart and 64 bytes long; those of tmm0 and tmm1 together are 32
    // outputs of the first `TILE_ROWS` rows, those of tmm2 and tmm3 of the rows behind, and the caller vouches for as
    // many rows as the shapes have. The assembly only reads memory and changes tiles, which the compiler does not
    // use.
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
            c = in(reg) c.start, stride = in(reg) stride, options(nostack, preserves_flags, readonly),
        );
        if second {
            asm!(
                "tileloadd tmm2, [{c} + {stride} * 1]",
                "tileloadd tmm3, [{c} + {stride} * 1 + 64]",
                c = in(reg) c.start.wrapping_add(TILE_ROWS * c.stride), stride = in(reg) stride,
                options(nostack, preserves_flags, readonly),
            );
        }
    }
}

/// Adds `x[i] · w[j]` to the sums in tmm0 to tmm3.
///
/// # Safety
/// This thread's tile registers have [`shapes`], for more than [`TILE_ROWS`] rows where [`Operands::x_second`] is not
/// null. The pointers of `operands` are readable for `operands.runs` runs as [`Operands`] describes them; of each run
/// of a tile of rows, for as many rows as the register's shape has. The processor has AMX-BF16, and the system has
/// granted this process the use of tile data.
pub(super) unsafe fn add_products(operands: &Operands) {
    // SAFETY: the loop ends after `operands.runs` runs, of which there is at least one. In each it loads a run of the
    // rows (1,024 bytes from the run before) and sixteen lines of either tile of weights, for which the caller
    // vouches. The assembly only reads memory; it changes registers that are named as
    // operands, flags, and tiles, which the compiler does not use.
    unsafe {
        if !operands.x_second.is_null() {
            asm!(
                "2:",
                "tileloadd tmm6, [{w} + {line} * 1]",
                "tileloaddt1 tmm4, [{x} + {line} * 1]",
                "tileloadd tmm7, [{w_next} + {line} * 1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloaddt1 tmm5, [{second} + {line} * 1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
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
                tile = const 64 * TILE_ROWS,
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
                tile = const 64 * TILE_ROWS,
                runs = inout(reg) operands.runs => _,
                options(nostack, readonly),
            );
        }
    }
}

/// Stores the sums in `c`.
///
/// # Safety
/// What [`load_sums`] asks for, which has been called with the same `c` and `second`.
pub(super) unsafe fn store_sums(c: OutputTile, second: bool) {
    let stride = 4 * c.stride;
    // SAFETY: the rows that are stored are those that `load_sums` describes, and nobody else accesses them.
    unsafe {
        asm!(
            "tilestored [{c} + {stride} * 1], tmm0",
            "tilestored [{c} + {stride} * 1 + 64], tmm1",
            c = in(reg) c.start, stride = in(reg) stride, options(nostack, preserves_flags),
        );
        if second {
            asm!(
                "tilestored [{c} + {stride} * 1], tmm2",
                "tilestored [{c} + {stride} * 1 + 64], tmm3",
                c = in(reg) c.start.wrapping_add(TILE_ROWS * c.stride), stride = in(reg) stride,
                options(nostack, preserves_flags),
            );
        }
    }
}
