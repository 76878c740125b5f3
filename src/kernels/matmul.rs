//! `out = x · Wᵀ` over packed weights.

use std::{cell::RefCell, str::FromStr};

use super::{
    Isa, PackedMatrix, ThreadPool,
    int8::{self, Int8Rows, MAX_ROWS, STRIP},
    micro::{self, LANES, Tile, WIDE_ROWS},
    packed::PANEL,
    pool::Shards,
};

/// Inputs expanded at a time: a tile of 128 x 64 f32 fits the first-level cache.
const TILE_INPUTS: usize = 128;
/// Rows of `x` that share one expansion of a tile. More would not pay, fewer let workers share long prompts.
const ROWS_PER_TASK: usize = 192;

/// From this many rows on, four-bit weights are taken apart once for all of them.
const UNPACK_ROWS: usize = 12;

/// How activations enter products with quantised weights. Products with float weights are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Weights are expanded to f32: exact to rounding, the slower.
    F32,
    /// Activations are rounded to eight bits per run of 32, sums inside a run are exact integers.
    Int8,
}

impl Precision {
    /// As settings and provenance write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
        }
    }
}

impl FromStr for Precision {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "f32" => Ok(Self::F32),
            "int8" => Ok(Self::Int8),
            _ => Err("there are int8 and f32"),
        }
    }
}

/// Several matrices over the same input, their outputs side by side.
pub struct Fused {
    parts: Vec<PackedMatrix>,
    precision: Precision,
}

impl Fused {
    /// Puts matrices with equal `cols` side by side.
    ///
    /// # Panics
    /// When they differ in `cols`; loaders check shapes first.
    pub fn new(parts: Vec<PackedMatrix>, precision: Precision) -> Self {
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
    /// The calling thread's activations as integers.
    static INT8_ROWS: RefCell<Int8Rows> = RefCell::default();
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A worker's buffers; they grow to the largest product and stay.
#[derive(Default)]
struct Scratch {
    /// Expanded weights, `[TILE_INPUTS][PANEL]`.
    tile: Vec<f32>,
    /// Outputs of a panel that is not whole, `[rows][PANEL]`.
    spare: Vec<f32>,
    /// A strip of four-bit weights taken apart, `[k / 4][STRIP][4]`.
    bytes: Vec<u8>,
}

/// Multiplies `x` (`[m, cols]`, row-major) with `weights`, into `out` (`[m, rows]`).
///
/// # Panics
/// When the slices do not have these sizes.
pub fn matmul(pool: &mut ThreadPool, isa: Isa, x: &[f32], weights: &Fused, out: &mut [f32], output: Output) {
    let (rows, cols) = (weights.rows(), weights.cols());
    if rows == 0 || cols == 0 {
        return;
    }
    let m = x.len() / cols;
    assert!(x.len() == m * cols && out.len() == m * rows);
    INT8_ROWS.with_borrow_mut(|int8| {
        let wanted = weights.precision == Precision::Int8;
        let quantised = |part: &PackedMatrix| wanted && part.is_quantised();
        if weights.parts.iter().any(quantised) {
            int8.set(pool, isa, x, cols);
        }
        // Few rows are few tasks: halves keep the workers' shares even.
        let halves = if m <= MAX_ROWS && weights.parts.iter().all(quantised) {
            PANEL / STRIP
        } else {
            1
        };
        let panels: usize = weights.parts.iter().map(PackedMatrix::panels).sum();
        let chunks = m.div_ceil(ROWS_PER_TASK);
        let chunk_rows = m.div_ceil(chunks.max(1));
        let shards = Shards::new(out);
        pool.run(panels * halves * chunks, &|task| {
            let (index, chunk) = (task / chunks, task % chunks);
            let (mut panel, half) = (index / halves, index % halves);
            let mut first_output = 0;
            for part in &weights.parts {
                if panel < part.panels() {
                    let first_row = chunk * chunk_rows;
                    let first = panel * PANEL + half * STRIP;
                    let width = part.rows().saturating_sub(first).min(PANEL / halves);
                    if width == 0 {
                        return;
                    }
                    let block = Block {
                        matrix: part,
                        int8: quantised(part).then_some(&*int8),
                        panel,
                        first_strip: half,
                        width,
                        x,
                        rows: (first_row, chunk_rows.min(m - first_row)),
                        out: shards.pointer(first_row * rows + first_output + first),
                        out_stride: rows,
                        output,
                    };
                    // SAFETY: tasks cover disjoint (rows, outputs) blocks of `out`, and `out` lives until `run`
                    // returns.
                    SCRATCH.with_borrow_mut(|scratch| unsafe { block.run(isa, scratch) });
                    return;
                }
                panel -= part.panels();
                first_output += part.rows();
            }
        });
    });
}

/// Outputs of one panel, or of half of it, for some rows of `x`.
struct Block<'a> {
    matrix: &'a PackedMatrix,
    /// The activations as integers, when the product is one of integers.
    int8: Option<&'a Int8Rows>,
    panel: usize,
    /// The panel's first strip that is this block's; products in f32 take whole panels.
    first_strip: usize,
    /// Outputs.
    width: usize,
    x: &'a [f32],
    /// First row and number of rows.
    rows: (usize, usize),
    /// The first output of the first row.
    out: *mut f32,
    out_stride: usize,
    output: Output,
}

impl Block<'_> {
    /// # Safety
    /// `out` is valid for this block's rows and width, `out_stride` apart, and nobody else uses them.
    unsafe fn run(&self, isa: Isa, scratch: &mut Scratch) {
        let Scratch { tile, spare, bytes } = scratch;
        // Kernels write whole vectors: where the panel's end is not one, they do so in a spare tile.
        let unit = if self.int8.is_some() { STRIP } else { PANEL };
        let whole = self.width.next_multiple_of(unit);
        let partial = whole != self.width;
        let (c, c_stride) = if partial {
            spare.resize(ROWS_PER_TASK * PANEL, 0.0);
            (spare.as_mut_ptr(), PANEL)
        } else {
            (self.out, self.out_stride)
        };
        for i in 0..self.rows.1 {
            // SAFETY: row `i` of the output, or of the spare tile, which has `ROWS_PER_TASK` rows.
            unsafe {
                let row = std::slice::from_raw_parts_mut(c.add(i * c_stride), whole);
                match self.output {
                    Output::Replace => row.fill(0.0),
                    Output::Add if partial => {
                        let out = std::slice::from_raw_parts(self.out.add(i * self.out_stride), self.width);
                        row[..self.width].copy_from_slice(out);
                    }
                    Output::Add => {}
                }
            }
        }
        // SAFETY: `c` holds this block's rows, in whole vectors.
        unsafe {
            match self.int8 {
                Some(x) => self.run_int8(isa, x, bytes, c, c_stride),
                None => self.run_f32(isa, tile, c, c_stride),
            }
        }
        if partial {
            self.copy_out(spare);
        }
    }

    /// # Safety
    /// `c` is this block's own, `c_stride` apart, for the width rounded up to whole strips.
    unsafe fn run_int8(&self, isa: Isa, x: &Int8Rows, bytes: &mut Vec<u8>, c: *mut f32, c_stride: usize) {
        let (first, count) = self.rows;
        for index in 0..self.width.div_ceil(STRIP) {
            let Some(mut strip) = self.matrix.strip(self.panel, self.first_strip + index) else {
                return;
            };
            if count > UNPACK_ROWS {
                strip = strip.unpacked(isa, self.matrix.cols(), bytes);
            }
            for row in (0..count).step_by(MAX_ROWS) {
                let rows = (first + row, MAX_ROWS.min(count - row));
                // SAFETY: rows and strip are inside of `c`.
                unsafe {
                    int8::product(
                        isa,
                        x,
                        rows,
                        &strip,
                        c.add(row * c_stride + index * STRIP),
                        c_stride,
                    );
                }
            }
        }
    }

    /// # Safety
    /// `c` is this block's own, `c_stride` apart, for a whole panel's width.
    unsafe fn run_f32(&self, isa: Isa, tile: &mut Vec<f32>, c: *mut f32, c_stride: usize) {
        tile.resize(TILE_INPUTS * PANEL, 0.0);
        let cols = self.matrix.cols();
        let (first, count) = self.rows;
        let step = TILE_INPUTS / self.matrix.tile_step() * self.matrix.tile_step();
        let mut k = 0;
        while k < cols {
            let inputs = step.min(cols - k);
            let weights = match self.matrix.tile_in_place(self.panel, k, inputs) {
                Some(weights) => weights,
                None => {
                    let tile = &mut tile[..inputs * PANEL];
                    self.matrix.expand_tile(isa, self.panel, k, tile);
                    tile
                }
            };
            for row in (0..count).step_by(WIDE_ROWS) {
                // SAFETY: `x` holds all rows of `cols`, the weights `inputs` rows of PANEL, and `c` is this
                // block's own.
                unsafe {
                    let operands = Tile {
                        a: self.x[(first + row) * cols + k..].as_ptr(),
                        a_stride: cols,
                        w: weights.as_ptr(),
                        w_stride: PANEL,
                        c: c.add(row * c_stride),
                        c_stride,
                        k: inputs,
                    };
                    micro::run(isa, WIDE_ROWS.min(count - row), PANEL / LANES, &operands);
                }
            }
            k += inputs;
        }
    }

    /// Copies the outputs from the spare tile.
    fn copy_out(&self, spare: &[f32]) {
        for i in 0..self.rows.1 {
            // SAFETY: this block's own output; see `run`.
            let out =
                unsafe { std::slice::from_raw_parts_mut(self.out.add(i * self.out_stride), self.width) };
            out.copy_from_slice(&spare[i * PANEL..][..self.width]);
        }
    }
}

#[cfg(test)]
#[path = "matmul_tests.rs"]
mod tests;
