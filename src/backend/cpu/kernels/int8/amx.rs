//! AMX: products of 16 rows and 16 outputs, one group of inputs at a time.
//!
//! A group's products cost little here. What takes the time is bringing the group's integer sums from tiles to vectors,
//! scaling them and adding them up in floats. So everything is arranged around the scaling: the float sums of 16 rows and
//! 16 outputs stay in registers, three groups are in work at a time, and the instructions for tiles stand between those that
//! scale rows, because the processor does both at the same time only where they are close together. The loop is in
//! assembly, because compilers neither know tiles nor keep 16 sums in registers across them.
//!
//! Once a thread has used tiles, its vector units do multiplications and multiply-adds at half their rate
//! ([`crate::backend::cpu::kernels::bf16`]), so these are counted. Integer sums start from [`MAGIC_BITS`] and are scaled by one
//! multiply-add where [`Operands::scaling`] allows it; with a conversion and a multiplication in its place a group takes a
//! quarter longer. It also takes a quarter longer when rows of tiles begin in one line of the cache and end in the next.
//!
//! With it, a feed-forward part of SmolLM2 in Q4_1 takes 205 µs on two threads for 32 rows, and 250 with VNNI; decoding of 32
//! sequences goes from 1,460 tokens/s to 1,730.
//!
//! Tried and not taken: twelve rows and 32 outputs at a time, so that rows are loaded once for two tiles of outputs, and eight
//! rows and 32 outputs for fewer rows (no faster); prefetching the next tile of outputs to the first-level cache besides the next
//! panel to the second (8 % slower).
//!
//! # The pipeline
//!
//! A tile register can only be read by storing it. So a group passes through three stages:
//!
//! ```text
//!   x, w --tileloadd--> tmm4, 5 --tdpbssd--> integer sums in a tile               multiply
//!        --tilestored--> integer sums in memory, `dots`                           store
//!        --vfmadd213ps, vfmadd231ps--> float sums, zmm16 to 31                    scale
//! ```
//!
//! and iteration `g` of the loop does each stage for another group:
//!
//! ```text
//!              prologue | g = 0 | g = 1 | g = 2 | g = 3 |    where the sums of group n are afterwards
//!   multiply   0, 1     | 2     | 3     | 4     | 5     |    tmm0 if n is even, tmm1 if it is odd
//!   store      0        | 1     | 2     | 3     | 4     |    half n % 2 of `dots`
//!   scale               | 0     | 1     | 2     | 3     |    added to zmm16 to zmm31
//! ```
//!
//! So a store has an iteration's time until what it has written is read, and so have the products until they are
//! stored. The loop's body is two iterations, one for even `g` and one for odd. The two groups behind the last are
//! multiplied, and the first of them is stored, but neither is scaled: that is why `x` and `w` must be readable for
//! [`GROUPS_BEYOND`](super::sizes::GROUPS_BEYOND) more groups.
//!
//! # Registers
//!
//! ```text
//!   tmm0, tmm1     integer sums of even and of odd groups: 16 rows x 16 outputs
//!   tmm4           16 rows x GROUP activations (bytes)
//!   tmm5           weights: GROUP / 4 rows x 16 outputs, a word of 4 bytes each
//!   others         unused
//!
//!   zmm0           weight scales of the group
//!   zmm1           minimums of the group
//!   zmm2           weight scales times -MAGIC
//!   zmm3 to 15     a row's integer sums as floats, scaled; rows take turns
//!   zmm16 + r      float sums of row r
//!
//!   x              activations of the next group to multiply: + GROUP bytes a group
//!   x_stride       bytes from one row of activations to the next
//!   x_factors      16 activation scales, then 16 sums, of the group to scale: + 128 bytes a group
//!   w              weights of the next group to multiply: + 16 * GROUP bytes a group
//!   w_factors      16 weight scales, minimums, and scales times -MAGIC, of the group to scale: + 192 bytes a group
//!   groups         groups left to scale
//!   dots           the frame: the two halves of stored sums, 16 rows x 16 outputs each, 1,024 bytes a half; then `c` and `stride`
//!   ahead          what is prefetched next: + 8 * GROUP bytes a group
//!   start          what integer sums start from: 16 outputs of any row
//!   zero           0: bytes from one row to the next of `start`
//!   line           64: bytes from one row to the next of `dots`, and from one row of weights to the next
//!   c, stride      the next row of what float sums start from, and bytes to the row behind; at the end the same of the outputs
//! ```

use std::{
    arch::asm,
    mem::{MaybeUninit, offset_of},
};

use super::{
    magic::MAGIC_BITS,
    sizes::{ACTIVATION_GROUP, SMALL_GROUP, TILE_OUTPUTS, TILE_ROWS},
};
use crate::backend::cpu::kernels::{
    output::{Output, OutputTile},
    tile_config::{TileConfig, TileShape},
};

/// Bytes that are prefetched for each input while a tile of rows is multiplied: a quarter of a panel of four-bit weights.
const PREFETCHED_PER_INPUT: usize = 8;

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
    TileConfig::new([sums, sums, unused, unused, activations, weights, unused, unused])
}

/// Shapes this thread's tile registers for groups of `group` inputs, which [`Operands::group`] may be, until they are
/// [released](crate::backend::cpu::kernels::tile_config::release).
///
/// # Safety
/// The processor has AMX-TILE, and the system has granted this process the use of tile data.
pub(super) unsafe fn load_shapes(group: usize) {
    let shapes = match group {
        ACTIVATION_GROUP => const { &shapes(ACTIVATION_GROUP) },
        _ => const { &shapes(SMALL_GROUP) },
    };
    // SAFETY: the caller vouches for AMX and the system's grant.
    unsafe { shapes.load() };
}

/// Memory of a kernel.
#[repr(C, align(64))]
struct Frame {
    /// The integer sums of two groups, as tiles are stored.
    dots: MaybeUninit<[[[i32; TILE_OUTPUTS]; TILE_ROWS]; 2]>,
    /// Where the first row of outputs is stored.
    c: *mut f32,
    /// Bytes from one row of outputs to the next.
    stride: usize,
}

/// A value for each output.
#[repr(C, align(64))]
struct Lanes<T>([T; TILE_OUTPUTS]);

/// What float sums start from that replace outputs.
static ZEROS: Lanes<f32> = Lanes([0.0; TILE_OUTPUTS]);

/// How integer sums become floats, times the scale of their weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scaling {
    /// By a multiply-add, because a scale times [`super::magic::MAGIC`] is exact.
    MultiplyAdd,
    /// By a conversion and a multiplication.
    Convert,
}

/// Operands of some tiles of rows and of [`TILE_OUTPUTS`] outputs. Pointers are to the first group.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    /// Inputs that are multiplied, whole groups.
    pub inputs: usize,
    /// Bytes from one row of activations to the next.
    pub x_stride: usize,
    /// Elements of [`Self::x_factors`] from one tile of rows to the next.
    pub x_factors_stride: usize,
    /// Inputs that share a scale of the weights: [`ACTIVATION_GROUP`] or [`SMALL_GROUP`].
    pub group: usize,
    /// Activations, `[tiles * TILE_ROWS][inputs]`.
    pub x: *const i8,
    /// Scales of the activations, and sums of their integers: `[tiles][groups][2][TILE_ROWS]`.
    pub x_factors: *const f32,
    /// Signed weights, `[inputs / 4][TILE_OUTPUTS][4]`.
    pub w: *const i8,
    /// Scales of the weights, minimums if there are any, and scales times minus [`super::magic::MAGIC`] for
    /// [`Scaling::MultiplyAdd`]: `[groups][3][TILE_OUTPUTS]`.
    pub w_factors: *const f32,
    /// Whether the weights have minimums.
    pub mins: bool,
    /// What the scales allow.
    pub scaling: Scaling,
    /// What is prefetched, any address: as many bytes from there on as [`PREFETCHED_PER_INPUT`] says, and as many more for each
    /// further tile of rows.
    pub ahead: *const u8,
}

impl Operands {
    /// Those of the rows behind so many tiles.
    pub(super) fn behind_tiles(&self, tiles: usize) -> Self {
        Self {
            x: self.x.wrapping_add(tiles * TILE_ROWS * self.x_stride),
            x_factors: self.x_factors.wrapping_add(tiles * self.x_factors_stride),
            ahead: self
                .ahead
                .wrapping_add(tiles * PREFETCHED_PER_INPUT * self.inputs),
            ..*self
        }
    }
}

/// `c[i][j] = x[i] · w[j]`, or added to it, for `tiles` times [`TILE_ROWS`] rows.
///
/// # Safety
/// With `groups = inputs / group`, at least 1: each pointer of `operands` is readable for the elements that
/// [`Operands`] says, and `x` and `w` for [`GROUPS_BEYOND`](super::sizes::GROUPS_BEYOND) groups more (`GROUPS_BEYOND * group` bytes behind the
/// last row of `x`, and `GROUPS_BEYOND * group * TILE_OUTPUTS` bytes of `w`). `c` is readable and writable for `tiles *
/// TILE_ROWS` rows of [`TILE_OUTPUTS`] outputs, overlaps no operand, and while this runs nobody else accesses it. This thread's
/// tile registers have the shapes that [`load_shapes`] gives them for the group. The processor has AMX-INT8 and AVX-512 F, and the
/// system has granted this process the use of tile data.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn product(operands: &Operands, tiles: usize, c: OutputTile) {
    for tile in 0..tiles {
        let operands = operands.behind_tiles(tile);
        let c = OutputTile {
            start: c.start.wrapping_add(tile * TILE_ROWS * c.stride),
            ..c
        };
        // SAFETY: `tile < tiles`, so the operands behind as many tiles still are tiles of rows of the caller's, and so are
        // the rows of `c`. The caller vouches for the shapes.
        unsafe {
            match operands.group {
                ACTIVATION_GROUP => product_of_tile::<ACTIVATION_GROUP>(&operands, c),
                _ => product_of_tile::<SMALL_GROUP>(&operands, c),
            }
        }
    }
}

/// [`product`] of one tile of rows and weights in groups of `GROUP`.
///
/// # Safety
/// What [`product`] asks for.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn product_of_tile<const GROUP: usize>(operands: &Operands, c: OutputTile) {
    // SAFETY: the caller vouches for what the kernels ask for.
    unsafe {
        match (operands.scaling, operands.mins) {
            (Scaling::MultiplyAdd, true) => with_mins::<GROUP>(operands, c),
            (Scaling::MultiplyAdd, false) => without_mins::<GROUP>(operands, c),
            (Scaling::Convert, true) => converted_with_mins::<GROUP>(operands, c),
            (Scaling::Convert, false) => converted_without_mins::<GROUP>(operands, c),
        }
    }
}

/// Loads one row's integer sums to zmm`$t` as floats times the weights' scales. `$dots` is the offset of the group's half of
/// `dots`.
macro_rules! dots_of_row {
    (add, $dots:literal, $row:literal, $t:literal) => {
        concat!(
            "vmovaps zmm",
            $t,
            ", [{dots} + ",
            $dots,
            " + 64 * ",
            $row,
            "]\n",
            "vfmadd213ps zmm",
            $t,
            ", zmm0, zmm2\n",
        )
    };
    (convert, $dots:literal, $row:literal, $t:literal) => {
        concat!(
            "vcvtdq2ps zmm",
            $t,
            ", [{dots} + ",
            $dots,
            " + 64 * ",
            $row,
            "]\n",
            "vmulps zmm",
            $t,
            ", zmm",
            $t,
            ", zmm0\n",
        )
    };
}

/// Adds what the minimums contribute to the row: minimum times sum of activations.
macro_rules! mins_of_row {
    (mins, $row:literal, $t:literal) => {
        concat!(
            "vfmadd231ps zmm",
            $t,
            ", zmm1, dword ptr [{x_factors} + 64 + 4 * ",
            $row,
            "]{{1to16}}\n",
        )
    };
    (plain, $row:literal, $t:literal) => {
        ""
    };
}

/// Scales one row and adds it, times its activation scale, to its float sums, zmm`$sums`; with minimums (`mins`) or without
/// (`plain`).
macro_rules! scale_row {
    ($scaling:ident, $mins:ident, $dots:literal, $row:literal, $t:literal, $sums:literal) => {
        concat!(
            dots_of_row!($scaling, $dots, $row, $t),
            mins_of_row!($mins, $row, $t),
            "vfmadd231ps zmm",
            $sums,
            ", zmm",
            $t,
            ", dword ptr [{x_factors} + 4 * ",
            $row,
            "]{{1to16}}\n",
        )
    };
}

/// What integer sums start from.
macro_rules! start {
    (add) => {
        MAGIC_BITS
    };
    (convert) => {
        0
    };
}

/// One iteration: stores the sums of the next group, which are in tile `$next_tile`, to the half of `dots` at offset
/// `$next`; multiplies the group after that in tile `$tile`; and scales this group's sums, which are in the half at
/// offset `$dots`.
macro_rules! group {
    ($scaling:ident, $mins:ident, $next_tile:literal, $next:literal, $tile:literal, $dots:literal) => {
        concat!(
            "vmovups zmm0, [{w_factors}]\n",
            "vmovups zmm1, [{w_factors} + 64]\n",
            "vmovups zmm2, [{w_factors} + 128]\n",
            "tilestored [{dots} + {line} * 1 + ",
            $next,
            "], ",
            $next_tile,
            "\n",
            scale_row!($scaling, $mins, $dots, "0", "3", "16"),
            scale_row!($scaling, $mins, $dots, "1", "4", "17"),
            scale_row!($scaling, $mins, $dots, "2", "5", "18"),
            "tileloadd tmm4, [{x} + {x_stride} * 1]\n",
            scale_row!($scaling, $mins, $dots, "3", "6", "19"),
            scale_row!($scaling, $mins, $dots, "4", "7", "20"),
            scale_row!($scaling, $mins, $dots, "5", "8", "21"),
            "tileloadd tmm5, [{w} + {line} * 1]\n",
            scale_row!($scaling, $mins, $dots, "6", "9", "22"),
            scale_row!($scaling, $mins, $dots, "7", "10", "23"),
            scale_row!($scaling, $mins, $dots, "8", "11", "24"),
            "tileloadd ",
            $tile,
            ", [{start} + {zero} * 1]\n",
            scale_row!($scaling, $mins, $dots, "9", "12", "25"),
            scale_row!($scaling, $mins, $dots, "10", "13", "26"),
            scale_row!($scaling, $mins, $dots, "11", "14", "27"),
            "tdpbssd ",
            $tile,
            ", tmm4, tmm5\n",
            "prefetcht1 [{ahead}]\n",
            "prefetcht1 [{ahead} + 64]\n",
            "prefetcht1 [{ahead} + 128]\n",
            "prefetcht1 [{ahead} + 192]\n",
            scale_row!($scaling, $mins, $dots, "12", "15", "28"),
            scale_row!($scaling, $mins, $dots, "13", "3", "29"),
            scale_row!($scaling, $mins, $dots, "14", "4", "30"),
            scale_row!($scaling, $mins, $dots, "15", "5", "31"),
            "add {x_factors}, 128\n",
            "add {w_factors}, 192\n",
            "add {x}, {group}\n",
            "add {w}, 16 * {group}\n",
            "add {ahead}, {ahead_step}\n",
        )
    };
}

/// Multiplies a group in tile `$tile`, and moves `x` and `w` on to the next.
macro_rules! multiply {
    ($tile:literal) => {
        concat!(
            "tileloadd tmm4, [{x} + {x_stride} * 1]\n",
            "tileloadd tmm5, [{w} + {line} * 1]\n",
            "tileloadd ",
            $tile,
            ", [{start} + {zero} * 1]\n",
            "tdpbssd ",
            $tile,
            ", tmm4, tmm5\n",
            "add {x}, {group}\n",
            "add {w}, 16 * {group}\n",
        )
    };
}

/// Repeats a piece of assembly for each row, with the number of the row's register of float sums put in.
macro_rules! each_sum {
    ($before:literal, $after:literal) => {
        concat!(
            $before, "16", $after, $before, "17", $after, $before, "18", $after, $before, "19", $after,
            $before, "20", $after, $before, "21", $after, $before, "22", $after, $before, "23", $after,
            $before, "24", $after, $before, "25", $after, $before, "26", $after, $before, "27", $after,
            $before, "28", $after, $before, "29", $after, $before, "30", $after, $before, "31", $after,
        )
    };
}

/// Makes the kernel for a way of scaling, and for weights with minimums or without.
macro_rules! kernel {
    ($name:ident, $scaling:ident, $mins:ident) => {
        /// [`product_of_tile`] of such weights.
        ///
        /// # Safety
        /// What [`product`] asks for.
        #[target_feature(enable = "avx512f")]
        unsafe fn $name<const GROUP: usize>(operands: &Operands, c: OutputTile) {
            const { assert!(TILE_ROWS == 16 && TILE_OUTPUTS == 16) };
            static START: Lanes<i32> = Lanes([start!($scaling); TILE_OUTPUTS]);
            let mut frame = Frame { dots: MaybeUninit::uninit(), c: c.start, stride: 4 * c.stride };
            let (from, from_stride) = match c.output {
                Output::Replace => (ZEROS.0.as_ptr(), 0),
                Output::Add => (c.start.cast_const(), 4 * c.stride),
            };
            // SAFETY: the loop scales `groups` groups and multiplies two more, for which the caller vouches: each
            // multiply reads `GROUP` bytes of 16 rows of `x` and `16 * GROUP` bytes of `w`, each scaling 32 floats of
            // `x_factors` and 48 of `w_factors`. It writes 16 rows of 16 floats of `c`, and reads as many before, of `c` or
            // of `ZEROS`. The frame's `dots` are written before they are read, in their 2 * 16 * 64 bytes, and `START` is
            // the line that is read. The assembly changes only registers that are named as operands, the flags, and tiles,
            // which the compiler does not use; it uses no stack.
            unsafe {
                asm!(
                    each_sum!("vmovups zmm", ", [{c}]\nadd {c}, {stride}\n"),
                    multiply!("tmm0"),
                    multiply!("tmm1"),
                    "tilestored [{dots} + {line} * 1], tmm0",
                    "2:",
                    group!($scaling, $mins, "tmm1", "1024", "tmm0", "0"),
                    "dec {groups}",
                    "jz 3f",
                    group!($scaling, $mins, "tmm0", "0", "tmm1", "1024"),
                    "dec {groups}",
                    "jnz 2b",
                    "3:",
                    "mov {c}, [{dots} + {frame_c}]",
                    "mov {stride}, [{dots} + {frame_stride}]",
                    each_sum!("vmovups [{c}], zmm", "\nadd {c}, {stride}\n"),
                    // The compiler does not know that vectors were used: without this, scalar code afterwards is slow.
                    "vzeroupper",
                    x = inout(reg) operands.x => _,
                    x_stride = in(reg) operands.x_stride,
                    x_factors = inout(reg) operands.x_factors => _,
                    w = inout(reg) operands.w => _,
                    w_factors = inout(reg) operands.w_factors => _,
                    groups = inout(reg) operands.inputs / GROUP => _,
                    dots = in(reg) &raw mut frame,
                    frame_c = const offset_of!(Frame, c),
                    frame_stride = const offset_of!(Frame, stride),
                    start = in(reg) START.0.as_ptr(),
                    zero = in(reg) 0usize,
                    line = in(reg) 64usize,
                    group = const GROUP,
                    ahead = inout(reg) operands.ahead => _,
                    ahead_step = const PREFETCHED_PER_INPUT * GROUP,
                    c = inout(reg) from => _,
                    stride = inout(reg) from_stride => _,
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

kernel!(with_mins, add, mins);
kernel!(without_mins, add, plain);
kernel!(converted_with_mins, convert, mins);
kernel!(converted_without_mins, convert, plain);
