//! Products with the processor's tiles.

use std::ops::Range;

use super::{
    Bf16Rows, Bf16Scratch, RUN, TILE_ROWS,
    amx::{self, Operands, ROWS, shapes},
    expand::{self, Integers, VECTORS},
};
use crate::backend::cpu::kernels::{
    Isa, Output, PackedMatrix,
    buffers::sized,
    int8::{Strip, Target},
    packed::PANEL,
    tile_config,
};

/// Outputs of a tile.
pub(super) const TILE: usize = 16;
/// Pairs of inputs in a run for half a panel, in two tiles.
pub(super) const HALF: usize = RUN / 2 * PANEL / 2 / TILE;
/// Most inputs that are expanded at a time: half a panel's weights fit the first-level cache beside some rows.
const DEPTH: usize = 640;

/// A pair of inputs for a tile's outputs, an even input in the low bits and the odd one behind it in the high bits:
/// a line of the cache.
#[repr(C, align(64))]
#[derive(Clone, Copy, Default)]
pub(in crate::backend::cpu::kernels) struct PairBits(pub [u32; TILE]);

/// A row's sums for a panel's outputs.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct RowSums(pub [f32; PANEL]);

impl Default for RowSums {
    fn default() -> Self {
        Self([0.0; PANEL])
    }
}

/// A panel's weights as tiles load them: for each half `[run][tile of the half][RUN / 2]`, nothing for one that is
/// not wanted.
pub(super) struct Halves<'a> {
    pub first: &'a mut [PairBits],
    pub second: &'a mut [PairBits],
}

impl Halves<'_> {
    /// A pair of inputs, for the panel's outputs from `vector * TILE` on.
    #[inline]
    pub(super) fn pair(&mut self, pair: usize, vector: usize) -> &mut PairBits {
        let half = if vector < 2 {
            &mut *self.first
        } else {
            &mut *self.second
        };
        &mut half[pair / (RUN / 2) * HALF + vector % 2 * (RUN / 2) + pair % (RUN / 2)]
    }

    /// Vectors of outputs that are wanted.
    pub(super) fn vectors(&self) -> Range<usize> {
        let from = if self.first.is_empty() { VECTORS / 2 } else { 0 };
        let to = if self.second.is_empty() {
            VECTORS / 2
        } else {
            VECTORS
        };
        from..to
    }

    /// Fills up the last run, behind so many pairs.
    fn fill_up(&mut self, pairs: usize) {
        for pair in pairs..pairs.next_multiple_of(RUN / 2) {
            for vector in self.vectors() {
                *self.pair(pair, vector) = PairBits::default();
            }
        }
    }
}

/// Inputs that are expanded at a time, of so many. In equal parts, so that none is too short to be worth its sums' way
/// to memory and back.
pub(super) fn depth(cols: usize) -> usize {
    cols.div_ceil(cols.div_ceil(DEPTH)).next_multiple_of(RUN)
}

/// # Safety
/// As [`super::product`]; the processor has AMX-BF16 and AVX-512 BF16.
///
/// # Panics
/// As [`super::product`], and when the first row does not begin a tile.
pub(super) unsafe fn product(
    isa: Isa,
    x: &Bf16Rows,
    (first, count): (usize, usize),
    (matrix, panel): (&PackedMatrix, usize),
    scratch: &mut Bf16Scratch,
    c: Target,
) {
    assert!(first.is_multiple_of(ROWS) && count > 0);
    let whole = count / TILE_ROWS * TILE_ROWS;
    // Not in place: rows of the target may be so far apart that their sums would drive each other out of the cache.
    let sums = sized(&mut scratch.sums, count);
    if c.output == Output::Add {
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: a row of the target.
            sums.0
                .copy_from_slice(unsafe { std::slice::from_raw_parts(c.at.add(row * c.stride), PANEL) });
        }
    }
    let cols = x.cols();
    let depth = depth(cols);
    for k in (0..cols).step_by(depth) {
        let inputs = depth.min(cols - k);
        let runs = inputs.div_ceil(RUN);
        let (first_half, second_half) = sized(&mut scratch.pairs, 2 * runs * HALF).split_at_mut(runs * HALF);
        let mut halves = Halves {
            first: first_half,
            second: second_half,
        };
        // SAFETY: by the caller's promise.
        unsafe {
            expand_to(
                isa,
                (matrix, panel),
                (k, inputs),
                &mut scratch.expanded,
                &mut halves,
            )
        };
        let output = if k == 0 { c.output } else { Output::Add };
        let weights = [&*first_half, &*second_half];
        // SAFETY: by the caller's promise.
        unsafe {
            if whole > 0 {
                const { shapes(TILE_ROWS) }.load();
                multiply(x, (first, k / RUN), weights, &mut sums[..whole], output);
            }
            if whole < count {
                shapes(count - whole).load();
                multiply(x, (first + whole, k / RUN), weights, &mut sums[whole..], output);
            }
        }
    }
    // SAFETY: by the caller's promise.
    unsafe { tile_config::release() };
    for (row, sums) in sums.iter().enumerate() {
        // SAFETY: a row of the target.
        let out = unsafe { std::slice::from_raw_parts_mut(c.at.add(row * c.stride), PANEL) };
        out.copy_from_slice(&sums.0);
    }
}

/// Adds products of runs from `run` on to rows from `first` on.
///
/// # Safety
/// The processor has AMX-BF16, and the tiles are shaped for all the rows, or [`TILE_ROWS`] of them at a time.
pub(super) unsafe fn multiply(
    x: &Bf16Rows,
    (first, run): (usize, usize),
    weights: [&[PairBits]; 2],
    sums: &mut [RowSums],
    output: Output,
) {
    let count = sums.len();
    for (half, w) in weights.into_iter().enumerate() {
        for row in (0..count).step_by(TILE_ROWS) {
            let x_second = if count - row > ROWS {
                x.tile(first + row + ROWS, run).as_ptr()
            } else {
                std::ptr::null()
            };
            let operands = Operands {
                x: x.tile(first + row, run).as_ptr(),
                x_second,
                w: [w.as_ptr(), w[TILE..].as_ptr()],
                w_step: 2 * TILE,
                runs: w.len() / HALF,
            };
            let c = Target {
                at: sums[row..]
                    .as_mut_ptr()
                    .cast::<f32>()
                    .wrapping_add(half * PANEL / 2),
                stride: PANEL,
                output,
            };
            // SAFETY: rows and weights hold so many runs, and there are sums of all rows.
            unsafe { amx::product(&operands, c) };
        }
    }
}

/// # Safety
/// The processor has AVX-512 F, BW, VBMI and BF16.
pub(super) unsafe fn expand_to(
    isa: Isa,
    (matrix, panel): (&PackedMatrix, usize),
    (k, inputs): (usize, usize),
    expanded: &mut Vec<f32>,
    out: &mut Halves<'_>,
) {
    if let Some(strip) = matrix.strip(panel, 0, 2) {
        // SAFETY: by the caller's promise.
        return unsafe { integers(strip, k / RUN, out) };
    }
    // SAFETY: by the caller's promise.
    unsafe { expand_floats(isa, (matrix, panel), (k, inputs), expanded, out) };
}

/// Whole runs of integer weights, from one on.
///
/// # Safety
/// The processor has AVX-512 F, BW, VBMI and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
fn integers(strip: Strip<'_>, first: usize, out: &mut Halves<'_>) {
    let weights = Integers::new(strip);
    let halves = out
        .first
        .as_chunks_mut()
        .0
        .iter_mut()
        .zip(out.second.as_chunks_mut().0);
    for (run, (first, second)) in (first..).zip(halves) {
        weights.expand(run, 0, first);
        weights.expand(run, 1, second);
    }
}

/// Weights that are no integers, or what is wanted of them.
///
/// # Safety
/// The processor has AVX-512 F, BW, VBMI and BF16.
pub(super) unsafe fn expand_floats(
    isa: Isa,
    (matrix, panel): (&PackedMatrix, usize),
    (k, inputs): (usize, usize),
    expanded: &mut Vec<f32>,
    out: &mut Halves<'_>,
) {
    // SAFETY: by the caller's promise.
    unsafe {
        match matrix.bf16_in_place(panel, k, inputs) {
            Some(bits) => expand::bits(bits, out),
            None => expand::floats(matrix.tile(isa, panel, k, inputs, expanded), out),
        }
    }
    out.fill_up(inputs.div_ceil(2));
}
