//! AMX: a tile of 12 rows and 16 outputs in an instruction, one group of inputs at a time.
//!
//! The products themselves cost little here; what takes the time is scaling a group's integer sums and adding
//! them up in floats, so everything is arranged around that. The float sums of 12 rows and 32 outputs stay in
//! registers. While one group is scaled, the integers of the next are on their way to memory (a tile cannot be
//! read otherwise), and those of the one after that are being multiplied. The loop is in assembly: compilers
//! neither know the tiles nor keep 24 sums in registers across them.

use std::{
    arch::{
        asm,
        x86_64::{_mm512_setzero_ps, _mm512_storeu_ps},
    },
    mem::MaybeUninit,
};

use super::{STRIP, TILE_ROWS, Target};
use crate::backend::cpu::kernels::{
    Output,
    tile_config::{self, TileConfig},
};

/// Groups that are loaded before anybody knows whether there are so many: operands reach this much further.
pub(super) const GROUPS_BEYOND: usize = 2;

/// Shapes for groups of so many inputs: registers 0 to 3 hold sums, 4 the rows, 5 and 6 the weights of 16 outputs each.
const fn shapes(group: usize) -> TileConfig {
    let (sums, rows) = ((TILE_ROWS as u8, 64), (TILE_ROWS as u8, group as u16));
    let weights = ((group / 4) as u8, 64);
    TileConfig::new([sums, sums, sums, sums, rows, weights, weights, (0, 0)])
}

/// The integer sums of two groups, as tiles are stored: `[2][TILE_ROWS][STRIP]`.
#[repr(C, align(64))]
struct Dots([[[i32; STRIP]; TILE_ROWS]; 2]);

/// Operands of some tiles of rows and a strip of outputs. Pointers are to the first group.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    /// Inputs of a row, and bytes from one row to the next.
    pub cols: usize,
    /// `[tiles * TILE_ROWS][cols]`
    pub x: *const i8,
    /// `[tiles][groups][2][TILE_ROWS]`: scales of the rows, and sums of their integers.
    pub x_factors: *const f32,
    /// Signed weights, `[groups * GROUP / 4][STRIP][4]`.
    pub w: *const i8,
    /// `[groups][2][STRIP]`: scales, and minimums if there are any.
    pub w_factors: *const f32,
    /// Whether the weights have minimums.
    pub mins: bool,
}

/// `c[i][j] = x[i] · w[j]`, or added to it, for `tiles` times [`TILE_ROWS`] rows; `GROUP` inputs share a scale.
///
/// # Safety
/// The operands are as [`Operands`] says; rows and weights may be read for [`GROUPS_BEYOND`] more groups. `c` is
/// valid for the rows and [`STRIP`] outputs. The processor has AMX-INT8 and AVX-512 F, and the system lets this
/// process use them.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn product<const GROUP: usize>(operands: &Operands, tiles: usize, c: Target) {
    const { assert!(GROUP == 16 || GROUP == 32) };
    // SAFETY: by the caller's promise, and no tile is larger than 12 rows of 64 bytes.
    unsafe { const { &shapes(GROUP) }.load() };
    for tile in 0..tiles {
        // SAFETY: by the caller's promise.
        unsafe {
            let operands = Operands {
                x: operands.x.add(tile * TILE_ROWS * operands.cols),
                x_factors: operands
                    .x_factors
                    .add(tile * operands.cols / GROUP * 2 * TILE_ROWS),
                ..*operands
            };
            let at = c.at.add(tile * TILE_ROWS * c.stride);
            if c.output == Output::Replace {
                for row in 0..TILE_ROWS {
                    for lane in (0..STRIP).step_by(16) {
                        _mm512_storeu_ps(at.add(row * c.stride + lane), _mm512_setzero_ps());
                    }
                }
            }
            if operands.mins {
                with_mins::<GROUP>(&operands, at, c.stride);
            } else {
                without_mins::<GROUP>(&operands, at, c.stride);
            }
        }
    }
    // SAFETY: by the caller's promise.
    unsafe { tile_config::release() };
}

/// `sums = t + ...` for a row: its scale is broadcast, its integers become floats, scaled by the weights' scales.
macro_rules! dots_of_row {
    ($dots:literal, $row:literal) => {
        concat!(
            "vbroadcastss zmm4, [{x_factors} + 4 * ",
            $row,
            "]\n",
            "vcvtdq2ps zmm6, [{dots} + ",
            $dots,
            " + 128 * ",
            $row,
            "]\n",
            "vcvtdq2ps zmm7, [{dots} + ",
            $dots,
            " + 128 * ",
            $row,
            " + 64]\n",
            "vmulps zmm6, zmm6, zmm0\n",
            "vmulps zmm7, zmm7, zmm1\n",
        )
    };
}

/// The minimums' share.
macro_rules! mins_of_row {
    ($row:literal) => {
        concat!(
            "vbroadcastss zmm5, [{x_factors} + 48 + 4 * ",
            $row,
            "]\n",
            "vfmadd231ps zmm6, zmm2, zmm5\n",
            "vfmadd231ps zmm7, zmm3, zmm5\n",
        )
    };
}

macro_rules! scale_row {
    (mins, $dots:literal, $row:literal, $first:literal, $second:literal) => {
        concat!(
            dots_of_row!($dots, $row),
            mins_of_row!($row),
            "vfmadd231ps zmm",
            $first,
            ", zmm6, zmm4\n",
            "vfmadd231ps zmm",
            $second,
            ", zmm7, zmm4\n",
        )
    };
    (plain, $dots:literal, $row:literal, $first:literal, $second:literal) => {
        concat!(
            dots_of_row!($dots, $row),
            "vfmadd231ps zmm",
            $first,
            ", zmm6, zmm4\n",
            "vfmadd231ps zmm",
            $second,
            ", zmm7, zmm4\n",
        )
    };
}

/// One group: stores the sums of the next, multiplies the one after that, and scales this one's.
macro_rules! group {
    ($mins:ident, $next_a:literal, $next_b:literal, $next:literal, $a:literal, $b:literal, $dots:literal) => {
        concat!(
            "tilestored [{dots} + {step} * 1 + ",
            $next,
            "], ",
            $next_a,
            "\n",
            "tilestored [{dots} + {step} * 1 + ",
            $next,
            " + 64], ",
            $next_b,
            "\n",
            multiply!($a, $b),
            "vmovups zmm0, [{w_factors}]\n",
            "vmovups zmm1, [{w_factors} + 64]\n",
            "vmovups zmm2, [{w_factors} + 128]\n",
            "vmovups zmm3, [{w_factors} + 192]\n",
            scale_row!($mins, $dots, "0", "8", "9"),
            scale_row!($mins, $dots, "1", "10", "11"),
            scale_row!($mins, $dots, "2", "12", "13"),
            scale_row!($mins, $dots, "3", "14", "15"),
            scale_row!($mins, $dots, "4", "16", "17"),
            scale_row!($mins, $dots, "5", "18", "19"),
            scale_row!($mins, $dots, "6", "20", "21"),
            scale_row!($mins, $dots, "7", "22", "23"),
            scale_row!($mins, $dots, "8", "24", "25"),
            scale_row!($mins, $dots, "9", "26", "27"),
            scale_row!($mins, $dots, "10", "28", "29"),
            scale_row!($mins, $dots, "11", "30", "31"),
            "add {x_factors}, 96\n",
            "add {w_factors}, 256\n",
        )
    };
}

/// Multiplies the next group and goes on.
macro_rules! multiply {
    ($a:literal, $b:literal) => {
        concat!(
            "tileloadd tmm4, [{x} + {cols} * 1]\n",
            "tileloadd tmm5, [{w} + {step} * 1]\n",
            "tileloadd tmm6, [{w} + {step} * 1 + 64]\n",
            "tilezero ",
            $a,
            "\n",
            "tilezero ",
            $b,
            "\n",
            "tdpbssd ",
            $a,
            ", tmm4, tmm5\n",
            "tdpbssd ",
            $b,
            ", tmm4, tmm6\n",
            "add {x}, {group}\n",
            "add {w}, 32 * {group}\n",
        )
    };
}

macro_rules! each_sum {
    ($before:literal, $between:literal, $after:literal) => {
        concat!(
            each_sum!(row $before, $between, $after, "8", "9"),
            each_sum!(row $before, $between, $after, "10", "11"),
            each_sum!(row $before, $between, $after, "12", "13"),
            each_sum!(row $before, $between, $after, "14", "15"),
            each_sum!(row $before, $between, $after, "16", "17"),
            each_sum!(row $before, $between, $after, "18", "19"),
            each_sum!(row $before, $between, $after, "20", "21"),
            each_sum!(row $before, $between, $after, "22", "23"),
            each_sum!(row $before, $between, $after, "24", "25"),
            each_sum!(row $before, $between, $after, "26", "27"),
            each_sum!(row $before, $between, $after, "28", "29"),
            each_sum!(row $before, $between, $after, "30", "31"),
        )
    };
    (row $before:literal, $between:literal, $after:literal, $first:literal, $second:literal) => {
        concat!($before, $first, $between, $second, $after)
    };
}

macro_rules! kernel {
    ($name:ident, $mins:ident) => {
        /// Adds a tile's products to `c`.
        ///
        /// # Safety
        /// As [`product`], for one tile; the tiles are configured.
        #[target_feature(enable = "avx512f")]
        unsafe fn $name<const GROUP: usize>(operands: &Operands, c: *mut f32, stride: usize) {
            let mut dots = MaybeUninit::<Dots>::uninit();
            // SAFETY: by the caller's promise; only registers named here are changed, besides tiles, which the
            // compiler does not use.
            unsafe {
                asm!(
                    each_sum!("vmovups zmm", ", [{c}]\nvmovups zmm", ", [{c} + 64]\nadd {c}, {stride}\n"),
                    multiply!("tmm0", "tmm1"),
                    multiply!("tmm2", "tmm3"),
                    "tilestored [{dots} + {step} * 1], tmm0",
                    "tilestored [{dots} + {step} * 1 + 64], tmm1",
                    "2:",
                    group!($mins, "tmm2", "tmm3", "1536", "tmm0", "tmm1", "0"),
                    "dec {groups}",
                    "jz 3f",
                    group!($mins, "tmm0", "tmm1", "0", "tmm2", "tmm3", "1536"),
                    "dec {groups}",
                    "jnz 2b",
                    "3:",
                    each_sum!("vmovups [{end}], zmm", "\nvmovups [{end} + 64], zmm", "\nadd {end}, {stride}\n"),
                    x = inout(reg) operands.x => _,
                    cols = in(reg) operands.cols,
                    x_factors = inout(reg) operands.x_factors => _,
                    w = inout(reg) operands.w => _,
                    w_factors = inout(reg) operands.w_factors => _,
                    groups = inout(reg) operands.cols / GROUP => _,
                    dots = in(reg) dots.as_mut_ptr(),
                    step = in(reg) 4 * STRIP,
                    group = const GROUP,
                    c = inout(reg) c => _,
                    end = inout(reg) c => _,
                    stride = in(reg) 4 * stride,
                    out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
                    out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
                    out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                    out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _,
                    out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
                    out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
                    out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _,
                    out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
                    options(nostack),
                );
            }
        }
    };
}

kernel!(with_mins, mins);
kernel!(without_mins, plain);
