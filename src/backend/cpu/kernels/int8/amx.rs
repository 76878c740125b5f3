//! AMX: products of 12 rows and 32 outputs, one group of inputs at a time.
//!
//! A group's products cost little here. What takes the time is bringing the group's integer sums from tiles to vectors,
//! scaling them and adding them up in floats. Per group it takes 20 cycles of the time-stamp counter to load and
//! multiply, 24 to store the sums and 37 to scale them, and these overlap little: 81 to 84 together. So everything is
//! arranged around the scaling: the float sums of 12 rows and 32 outputs stay in registers, and three groups are in
//! work at a time. The loop is in assembly, because compilers neither know tiles nor keep 24 sums in registers across
//! them.
//!
//! With it a prompt of 512 tokens of SmolLM2 in Q4_1 is processed at 2,263 tokens/s instead of 1,864 with VNNI, and
//! decoding of 64 sequences at 1,232 instead of 1,090.
//!
//! # The pipeline
//!
//! A tile register can only be read by storing it. So a group passes through three stages:
//!
//! ```text
//!   x, w --tileloadd--> tmm4 to 6 --tdpbssd--> integer sums in tiles             multiply
//!        --tilestored--> integer sums in memory, `dots`                          store
//!        --vcvtdq2ps--> zmm6, 7 --vmulps, vfmadd231ps--> float sums, zmm8 to 31  scale
//! ```
//!
//! and iteration `g` of the loop does each stage for another group:
//!
//! ```text
//!              prologue | g = 0 | g = 1 | g = 2 | g = 3 |    where the sums of group n are afterwards
//!   multiply   0, 1     | 2     | 3     | 4     | 5     |    tmm0, tmm1 if n is even, tmm2, tmm3 if it is odd
//!   store      0        | 1     | 2     | 3     | 4     |    half n % 2 of `dots`
//!   scale               | 0     | 1     | 2     | 3     |    added to zmm8 to zmm31
//! ```
//!
//! So a store has an iteration's time until what it has written is read, and so have the products until they are
//! stored. The loop's body is two iterations, one for even `g` and one for odd. The two groups behind the last are
//! multiplied, and the first of them is stored, but neither is scaled: that is why `x` and `w` must be readable for
//! [`GROUPS_BEYOND`] more groups.
//!
//! # Registers
//!
//! ```text
//!   tmm0, tmm1     integer sums of even groups: 12 rows x outputs 0..16 and 16..32
//!   tmm2, tmm3     integer sums of odd groups
//!   tmm4           12 rows x GROUP activations (bytes)
//!   tmm5, tmm6     weights: GROUP / 4 rows x outputs 0..16 and 16..32, a word of 4 bytes each
//!   tmm7           unused
//!
//!   zmm0, zmm1     weight scales of the group: outputs 0..16 and 16..32
//!   zmm2, zmm3     minimums of the group: outputs 0..16 and 16..32
//!   zmm4           activation scale of the row, in all lanes
//!   zmm5           sum of the row's activations in the group, in all lanes
//!   zmm6, zmm7     the row's integer sums as floats, scaled: outputs 0..16 and 16..32
//!   zmm8 + 2 * r   float sums of row r: outputs 0..16
//!   zmm9 + 2 * r   float sums of row r: outputs 16..32
//!
//!   x              activations of the next group to multiply: + GROUP bytes a group
//!   cols           bytes from one row of activations to the next
//!   x_factors      12 activation scales, then 12 sums, of the group to scale: + 96 bytes a group
//!   w              weights of the next group to multiply: + 32 * GROUP bytes a group
//!   w_factors      32 weight scales, then 32 minimums, of the group to scale: + 256 bytes a group
//!   groups         groups left to scale
//!   dots           the two halves of stored sums, 12 rows x 32 outputs each: 1,536 bytes a half
//!   step           128: bytes from one row to the next of `dots`, and from one row of weights to the next
//!   c, end         the next row of outputs to load, and to store
//!   stride         bytes from one row of outputs to the next
//! ```

use std::{
    arch::{
        asm,
        x86_64::{_mm512_setzero_ps, _mm512_storeu_ps},
    },
    mem::MaybeUninit,
};

use super::sizes::TILE_ROWS;
use crate::backend::cpu::kernels::{
    output::{Output, OutputTile},
    panel::STRIP,
    tile_config::{self, TileConfig, TileShape},
};

/// Groups behind the last that are loaded because the pipeline runs ahead: operands must be readable for these too.
pub(super) const GROUPS_BEYOND: usize = 2;

/// Shapes of the tile registers for groups of `group` inputs.
const fn shapes(group: usize) -> TileConfig {
    let rows = TILE_ROWS as u8;
    let sums = TileShape {
        rows,
        bytes_per_row: 64,
    };
    let activations = TileShape {
        rows,
        bytes_per_row: group as u16,
    };
    let weights = TileShape {
        rows: (group / 4) as u8,
        bytes_per_row: 64,
    };
    let unused = TileShape {
        rows: 0,
        bytes_per_row: 0,
    };
    TileConfig::new([sums, sums, sums, sums, activations, weights, weights, unused])
}

/// The integer sums of two groups, as tiles are stored: `[2][TILE_ROWS][STRIP]`.
#[repr(C, align(64))]
struct Dots([[[i32; STRIP]; TILE_ROWS]; 2]);

/// Operands of some tiles of rows and a strip of outputs. Pointers are to the first group.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    /// Inputs of a row, and bytes from one row to the next.
    pub cols: usize,
    /// Activations, `[tiles * TILE_ROWS][cols]`.
    pub x: *const i8,
    /// Scales of the activations, and sums of their integers: `[tiles][groups][2][TILE_ROWS]`.
    pub x_factors: *const f32,
    /// Signed weights, `[groups * GROUP / 4][STRIP][4]`.
    pub w: *const i8,
    /// Scales of the weights, and minimums if there are any: `[groups][2][STRIP]`.
    pub w_factors: *const f32,
    /// Whether the weights have minimums.
    pub mins: bool,
}

/// `c[i][j] = x[i] · w[j]`, or added to it, for `tiles` times [`TILE_ROWS`] rows. `GROUP` inputs share a scale.
///
/// # Safety
/// With `groups = cols / GROUP`, at least 1: each pointer of `operands` is readable for the elements that
/// [`Operands`] says, and `x` and `w` for [`GROUPS_BEYOND`] groups more (`GROUPS_BEYOND * GROUP` bytes behind the
/// last row of `x`, and `GROUPS_BEYOND * GROUP * STRIP` bytes of `w`). `c` is readable and writable for `tiles *
/// TILE_ROWS` rows of [`STRIP`] outputs, overlaps no operand, and while this runs nobody else accesses it. The
/// processor has AMX-INT8 and AVX-512 F, and the system has granted this process the use of tile data.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn product<const GROUP: usize>(operands: &Operands, tiles: usize, c: OutputTile) {
    const { assert!(GROUP == 16 || GROUP == 32) };
    // SAFETY: the caller vouches for AMX and the system's grant.
    unsafe { const { &shapes(GROUP) }.load() };
    for tile in 0..tiles {
        // SAFETY: `tile < tiles`, so the operands moved on by as many tiles still are tiles of rows of the caller's,
        // and so are the rows of `c`: `row < TILE_ROWS` and `lane + 16 <= STRIP`. The registers have just been shaped
        // for `GROUP`.
        unsafe {
            let operands = Operands {
                x: operands.x.add(tile * TILE_ROWS * operands.cols),
                x_factors: operands
                    .x_factors
                    .add(tile * operands.cols / GROUP * 2 * TILE_ROWS),
                ..*operands
            };
            let at = c.start.add(tile * TILE_ROWS * c.stride);
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
    // SAFETY: the caller vouches for AMX and the system's grant.
    unsafe { tile_config::release() };
}

/// One row of the group to scale: broadcasts its activation scale to zmm4, converts its integer sums to floats in
/// zmm6 and zmm7, and multiplies them by the weights' scales. `$dots` is the offset of the group's half of `dots`.
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

/// Adds what the minimums contribute to the row: minimum times sum of activations.
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

/// Adds the row, times its activation scale, to its float sums, zmm`$first` and zmm`$second`.
macro_rules! add_row {
    ($first:literal, $second:literal) => {
        concat!(
            "vfmadd231ps zmm",
            $first,
            ", zmm6, zmm4\n",
            "vfmadd231ps zmm",
            $second,
            ", zmm7, zmm4\n",
        )
    };
}

/// Scales one row and adds it to its float sums, zmm`$first` and zmm`$second`; with minimums (`mins`) or without
/// (`plain`).
macro_rules! scale_row {
    (mins, $dots:literal, $row:literal, $first:literal, $second:literal) => {
        concat!(
            dots_of_row!($dots, $row),
            mins_of_row!($row),
            add_row!($first, $second),
        )
    };
    (plain, $dots:literal, $row:literal, $first:literal, $second:literal) => {
        concat!(dots_of_row!($dots, $row), add_row!($first, $second),)
    };
}

/// One iteration: stores the sums of the next group, which are in tiles `$next_a` and `$next_b`, to the half of
/// `dots` at offset `$next`; multiplies the group after that in tiles `$a` and `$b`; and scales this group's sums,
/// which are in the half at offset `$dots`.
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

/// Multiplies a group in tiles `$a` and `$b`, and moves `x` and `w` on to the next.
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

/// Repeats a piece of assembly for each row, with the numbers of the row's two registers of float sums put in.
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

/// Makes the kernel for weights with minimums or without.
macro_rules! kernel {
    ($name:ident, $mins:ident) => {
        /// Adds the products of one tile of rows to `c`, whose rows are `stride` elements apart.
        ///
        /// # Safety
        /// What [`product`] asks for, with one tile, `c` and `stride`, and this thread's tile registers have the
        /// shapes for `GROUP`.
        #[target_feature(enable = "avx512f")]
        unsafe fn $name<const GROUP: usize>(operands: &Operands, c: *mut f32, stride: usize) {
            let mut dots = MaybeUninit::<Dots>::uninit();
            // SAFETY: the loop scales `groups` groups and multiplies two more, for which the caller vouches: each
            // multiply reads `GROUP` bytes of 12 rows of `x` and `32 * GROUP` bytes of `w`, each scaling 24 floats of
            // `x_factors` and 64 of `w_factors`. Of `c` it reads and writes 12 rows of 32 floats. `dots` is written
            // before it is read, in its 2 * 12 * 128 bytes. The assembly changes only registers that are named as
            // operands, the flags, and tiles, which the compiler does not use; it uses no stack.
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
