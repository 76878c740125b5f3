//! `out = x · Wᵀ` over packed weights.

use std::cell::RefCell;

#[cfg(target_arch = "x86_64")]
use super::int8::TileScratch;
use super::{
    Isa, PackedMatrix, Products, ThreadPool,
    bf16::{self, Bf16Rows, Bf16Scratch},
    buffers::sized,
    int8::{self, Int8Rows, MAX_ROWS, PANEL_ROWS, STRIP, TILE_ROWS, Target},
    micro::{self, LANES, Tile, WIDE_ROWS},
    packed::PANEL,
    pool::DisjointSlices,
};

/// Inputs expanded at a time: a tile of 128 x 64 f32 fits the first-level cache.
const TILE_INPUTS: usize = 128;
/// Rows of `x` that share one expansion of a tile. More would not pay, fewer let workers share long prompts.
const ROWS_PER_TASK: usize = 192;
/// The same in bf16, where expanding takes more of the time.
const BF16_ROWS_PER_TASK: usize = 256;

/// Strips in a panel.
const STRIPS: usize = PANEL / STRIP;
/// Into so many tasks for each thread a product of few rows is cut: enough to share it evenly.
const TASKS_PER_THREAD: usize = 4;

/// From this many rows on, four-bit weights are taken apart once for all of them.
const UNPACK_ROWS: usize = 12;

/// Several matrices over the same input, their outputs side by side.
pub struct Linear {
    parts: Vec<PackedMatrix>,
    precision: Products,
}

impl Linear {
    /// Puts matrices with equal `cols` side by side.
    ///
    /// # Panics
    /// When they differ in `cols`; loaders check shapes first.
    pub fn new(parts: Vec<PackedMatrix>, precision: Products) -> Self {
        assert!(parts.windows(2).all(|pair| pair[0].cols() == pair[1].cols()));
        Self { parts, precision }
    }

    /// Outputs in all.
    pub fn rows(&self) -> usize {
        self.parts.iter().map(PackedMatrix::rows).sum()
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.parts.first().map_or(0, PackedMatrix::cols)
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(PackedMatrix::bytes).sum()
    }

    /// How activations enter.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn precision(&self) -> Products {
        self.precision
    }

    /// The matrices.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn parts(&self) -> &[PackedMatrix] {
        &self.parts
    }

    /// Row `row` of the only matrix, as f32.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        if let Some(matrix) = self.parts.first() {
            matrix.read_row(row, out);
        }
    }
}

/// Whether the product replaces what is in `out` or is added to it (a residual connection).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// `out = x · Wᵀ`
    Replace,
    /// `out += x · Wᵀ`, each chain starting from the old value.
    Add,
}

thread_local! {
    /// The calling thread's activations.
    pub(super) static ROWS: RefCell<RoundedRows> = RefCell::default();
    pub(super) static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Activations as products take them.
#[derive(Default)]
pub(super) struct RoundedRows {
    int8: Int8Rows,
    pub bf16: Bf16Rows,
    /// What lies between the products of a feed-forward part.
    #[cfg(target_arch = "x86_64")]
    pub gated: Bf16Rows,
}

/// A worker's buffers; they grow to the largest product and stay.
#[derive(Default)]
pub(super) struct Scratch {
    /// Expanded weights, `[TILE_INPUTS][PANEL]`.
    tile: Vec<f32>,
    /// Outputs of a panel that is not whole, `[rows][PANEL]`.
    spare: Vec<f32>,
    integers: Int8Scratch,
    pub bf16: Bf16Scratch,
}

#[derive(Default)]
struct Int8Scratch {
    /// A strip of four-bit weights taken apart, `[k / 4][STRIP][4]`.
    bytes: Vec<u8>,
    #[cfg(target_arch = "x86_64")]
    tiles: TileScratch,
}

/// Multiplies `x` (`[m, cols]`, row-major) with `weights`, into `out` (`[m, rows]`).
///
/// # Panics
/// When the slices do not have these sizes.
pub fn matmul(pool: &mut ThreadPool, isa: Isa, x: &[f32], weights: &Linear, out: &mut [f32], output: Output) {
    let (rows, cols) = (weights.rows(), weights.cols());
    if rows == 0 || cols == 0 {
        return;
    }
    let m = x.len() / cols;
    assert!(x.len() == m * cols && out.len() == m * rows);
    let in_integers = |part: &PackedMatrix| weights.precision == Products::Int8 && part.is_quantised();
    ROWS.with_borrow_mut(|RoundedRows { int8, bf16, .. }| {
        if weights.precision == Products::Bf16 {
            bf16.set(pool, isa, x, cols);
        }
        if weights.parts.iter().any(in_integers) {
            int8.set(pool, isa, x, cols);
            #[cfg(target_arch = "x86_64")]
            int8.set_tiles(pool, isa, weights.parts.iter().map(PackedMatrix::tile_step));
        }
        let inputs = |part: &PackedMatrix| match weights.precision {
            Products::Bf16 => Inputs::Bf16(bf16),
            Products::Int8 if in_integers(part) => Inputs::Int8(int8),
            Products::Int8 | Products::F32 => Inputs::F32(x),
        };
        multiply(pool, isa, (m, &inputs), weights, out, output);
    });
}

/// [`matmul`] of rows that are rounded to bf16 already.
///
/// # Panics
/// When sizes differ.
#[cfg(target_arch = "x86_64")]
pub(super) fn matmul_rounded(
    pool: &mut ThreadPool,
    isa: Isa,
    x: &Bf16Rows,
    weights: &Linear,
    out: &mut [f32],
    output: Output,
) {
    assert!(x.cols() == weights.cols() && out.len() == x.rows() * weights.rows());
    multiply(pool, isa, (x.rows(), &|_| Inputs::Bf16(x)), weights, out, output);
}

/// [`matmul`] of `m` rows, which are there as each part takes them.
fn multiply<'a>(
    pool: &mut ThreadPool,
    isa: Isa,
    (m, inputs): (usize, &(dyn Fn(&PackedMatrix) -> Inputs<'a> + Sync)),
    weights: &Linear,
    out: &mut [f32],
    output: Output,
) {
    let rows = weights.rows();
    let strips: usize = weights.parts.iter().map(|part| part.panels() * STRIPS).sum();
    // Many rows: a panel at a time, so that workers share it evenly whatever delays them. Few rows: longer
    // runs, since a task costs as much as a strip.
    let few = match weights.precision {
        Products::Bf16 => bf16::takes_halves(isa, m),
        Products::Int8 | Products::F32 => {
            let in_integers = |part| matches!(inputs(part), Inputs::Int8(_));
            m <= MAX_ROWS && weights.parts.iter().all(in_integers)
        }
    };
    let run = if few {
        strips.div_ceil(TASKS_PER_THREAD * pool.threads())
    } else {
        STRIPS
    };
    let chunk_rows = rows_per_task(weights.precision, m);
    let chunks = m.div_ceil(chunk_rows);
    let slices = DisjointSlices::new(out);
    // Chunk by chunk, so that a worker's share is of the rows that its shares of other regions are of.
    let runs = strips.div_ceil(run);
    pool.run(runs * chunks, &|task| {
        let (first, chunk) = (task % runs * run, task / runs);
        let first_row = chunk * chunk_rows;
        let mut skipped = 0;
        let mut first_output = 0;
        for part in &weights.parts {
            let own = part.panels() * STRIPS;
            let (from, to) = (first.max(skipped), (first + run).min(skipped + own));
            if from < to {
                let block = Block {
                    matrix: part,
                    x: inputs(part),
                    strips: (from - skipped, to - skipped),
                    rows: (first_row, chunk_rows.min(m - first_row)),
                    out: slices.pointer(first_row * rows + first_output),
                    out_stride: rows,
                    output,
                };
                // SAFETY: tasks cover disjoint (rows, outputs) blocks of `out`, and `out` lives until `run`
                // returns.
                SCRATCH.with_borrow_mut(|scratch| unsafe { block.run(isa, scratch) });
            }
            skipped += own;
            first_output += part.rows();
        }
    });
}

/// Rows of `m` that share one expansion of weights, in whole tiles.
pub(super) fn rows_per_task(precision: Products, m: usize) -> usize {
    let (most, tile) = match precision {
        Products::Bf16 => (BF16_ROWS_PER_TASK, bf16::TILE_ROWS),
        Products::Int8 | Products::F32 => (ROWS_PER_TASK, TILE_ROWS),
    };
    m.div_ceil(m.div_ceil(most).max(1))
        .next_multiple_of(tile)
        .max(tile)
}

/// Rows of activations, and with them how the product is computed.
#[derive(Clone, Copy)]
enum Inputs<'a> {
    F32(&'a [f32]),
    Bf16(&'a Bf16Rows),
    Int8(&'a Int8Rows),
}

/// Neighbouring strips of one matrix, for some rows of `x`.
struct Block<'a> {
    matrix: &'a PackedMatrix,
    /// All rows of activations.
    x: Inputs<'a>,
    /// First strip and the one after the last; only products in integers take less than whole panels.
    strips: (usize, usize),
    /// First row and number of rows.
    rows: (usize, usize),
    /// The matrix's first output of the first row.
    out: *mut f32,
    out_stride: usize,
    output: Output,
}

impl Block<'_> {
    /// # Safety
    /// `out` is valid for this block's rows and outputs, `out_stride` apart, and nobody else uses them.
    unsafe fn run(&self, isa: Isa, scratch: &mut Scratch) {
        let (mut strip, end) = self.strips;
        while strip < end {
            let whole_panel = strip.is_multiple_of(STRIPS) && strip + STRIPS <= end;
            let count = match self.x {
                Inputs::Int8(_) if !whole_panel || self.rows.1 > PANEL_ROWS => 1,
                Inputs::Bf16(_) if bf16::takes_halves(isa, self.rows.1) => 1,
                _ => STRIPS,
            };
            // SAFETY: by the caller's promise.
            unsafe { self.run_strips(isa, strip, count, scratch) };
            strip += count;
        }
    }

    /// # Safety
    /// As [`Self::run`].
    unsafe fn run_strips(&self, isa: Isa, strip: usize, count: usize, scratch: &mut Scratch) {
        let Scratch {
            tile,
            spare,
            integers,
            bf16,
        } = scratch;
        let first = strip * STRIP;
        let Some(width) = self.matrix.rows().checked_sub(first).filter(|&left| left > 0) else {
            return;
        };
        let (width, whole) = (width.min(count * STRIP), count * STRIP);
        // SAFETY: outputs of this block.
        let out = unsafe { self.out.add(first) };
        // Kernels write whole strips: where the matrix ends inside of one, they do so in a spare tile.
        let (at, stride) = if width == whole {
            (out, self.out_stride)
        } else {
            let spare = sized(spare, self.rows.1 * PANEL);
            if self.output == Output::Add {
                for (i, row) in spare.chunks_exact_mut(PANEL).take(self.rows.1).enumerate() {
                    // SAFETY: this block's own outputs.
                    let out = unsafe { std::slice::from_raw_parts(out.add(i * self.out_stride), width) };
                    row[..width].copy_from_slice(out);
                }
            }
            (spare.as_mut_ptr(), PANEL)
        };
        let target = Target {
            at,
            stride,
            output: self.output,
        };
        // SAFETY: `target` holds this block's rows, in whole strips.
        unsafe {
            match self.x {
                Inputs::Int8(x) => self.run_int8(isa, x, (strip, count), integers, target),
                Inputs::Bf16(x) => {
                    bf16::product(isa, x, self.rows, (self.matrix, strip), bf16, target);
                }
                Inputs::F32(x) => self.run_f32(isa, x, strip / STRIPS, tile, target),
            }
        }
        if width < whole {
            for (i, row) in spare.chunks_exact(PANEL).take(self.rows.1).enumerate() {
                // SAFETY: this block's own outputs.
                let out = unsafe { std::slice::from_raw_parts_mut(out.add(i * self.out_stride), width) };
                out.copy_from_slice(&row[..width]);
            }
        }
    }

    /// # Safety
    /// `target` is this block's own, for `count` strips' outputs.
    unsafe fn run_int8(
        &self,
        isa: Isa,
        x: &Int8Rows,
        (strip, count): (usize, usize),
        scratch: &mut Int8Scratch,
        target: Target,
    ) {
        let Some(mut strip) = self.matrix.strip(strip / STRIPS, strip % STRIPS, count) else {
            return;
        };
        let (first, rows) = self.rows;
        #[cfg(target_arch = "x86_64")]
        // SAFETY: rows and strips are inside of the target.
        let done = unsafe { int8::product_of_tiles(isa, x, self.rows, &strip, &mut scratch.tiles, target) };
        #[cfg(not(target_arch = "x86_64"))]
        let done = 0;
        let (first, rows) = (first + done, rows - done);
        if rows == 0 {
            return;
        }
        if rows > UNPACK_ROWS {
            strip = strip.unpacked(isa, self.matrix.cols(), &mut scratch.bytes);
        }
        let step = rows.div_ceil(rows.div_ceil(MAX_ROWS));
        for row in (0..rows).step_by(step) {
            // SAFETY: rows and strips are inside of the target.
            unsafe {
                let target = Target {
                    at: target.at.add((done + row) * target.stride),
                    ..target
                };
                int8::product(isa, x, (first + row, step.min(rows - row)), &strip, target);
            }
        }
    }

    /// # Safety
    /// `target` is this block's own, for a whole panel's width.
    unsafe fn run_f32(&self, isa: Isa, x: &[f32], panel: usize, tile: &mut Vec<f32>, target: Target) {
        let cols = self.matrix.cols();
        let (first, count) = self.rows;
        let step = TILE_INPUTS / self.matrix.tile_step() * self.matrix.tile_step();
        let mut k = 0;
        while k < cols {
            let inputs = step.min(cols - k);
            let weights = self.matrix.tile(isa, panel, k, inputs, tile);
            for row in (0..count).step_by(WIDE_ROWS) {
                // SAFETY: `x` holds all rows of `cols`, the weights `inputs` rows of PANEL, and `c` is this
                // block's own.
                unsafe {
                    let operands = Tile {
                        a: x[(first + row) * cols + k..].as_ptr(),
                        a_stride: cols,
                        w: weights.as_ptr(),
                        w_stride: PANEL,
                        c: target.at.add(row * target.stride),
                        c_stride: target.stride,
                        output: if k == 0 { target.output } else { Output::Add },
                        k: inputs,
                    };
                    micro::run(isa, WIDE_ROWS.min(count - row), PANEL / LANES, &operands);
                }
            }
            k += inputs;
        }
    }
}

#[cfg(test)]
#[path = "matmul_tests.rs"]
mod tests;
