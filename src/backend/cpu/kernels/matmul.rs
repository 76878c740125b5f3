//! Products with packed weights, `out = x · Wᵀ`: cuts a product into tasks and hands each to the kernel of its
//! precision.

use std::cell::RefCell;

use super::{
    activations::{Activations, Inputs, RoundedRows, TokenRows},
    bf16::{self, Bf16Scratch},
    buffers::scratch_slice,
    compute::Compute,
    disjoint::DisjointSlices,
    int8::{self, Int8Rows, MAX_ROWS, PANEL_ROWS},
    isa::Isa,
    linear::Linear,
    micro::{self, LANES, Tile, TileSize, WIDE_ROWS},
    output::{Output, OutputTile},
    packed::{MatrixPanel, MatrixStrips, PackedMatrix},
    panel::{PANEL, STRIP, STRIPS_PER_PANEL},
    ranges::{InputRange, RowRange},
};
#[cfg(target_arch = "x86_64")]
use super::{bf16::Bf16Rows, int8::TileScratch};
use crate::model::spec::{Products, TokenKind};

/// Inputs that are expanded to f32 at a time: their weights of a panel, 128 x 64 f32 (32 KiB), fit the first-level
/// cache.
const F32_INPUTS: usize = 128;
/// Most rows of `x` that share one expansion of weights. More rows gain nothing, and fewer tasks share work less
/// evenly.
const ROWS_PER_TASK: usize = 192;
/// The same in bf16, where expanding takes a larger part of the time.
const BF16_ROWS_PER_TASK: usize = 256;

/// Tasks for each thread that a product of few rows is cut into: enough to share it evenly.
const TASKS_PER_THREAD: usize = 4;

thread_local! {
    /// The activations of the product that the calling thread computes, rounded.
    pub(super) static ROUNDED_ROWS: RefCell<RoundedRows> = RefCell::default();
    /// Each worker's buffers.
    pub(super) static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A worker's buffers; they grow to the largest product and stay.
#[derive(Default)]
pub(super) struct Scratch {
    /// Expanded weights, `[F32_INPUTS][PANEL]`.
    weights: Vec<f32>,
    /// Outputs of strips of which the matrix has not all outputs, `[rows][PANEL]`.
    partial_strips: Vec<f32>,
    #[cfg(target_arch = "x86_64")]
    tiles: TileScratch,
    pub bf16: Bf16Scratch,
}

/// Multiplies `x` (`[m, cols]`, row-major) with `weights`, into `out` (`[m, rows]`), all rows as those of prompts.
///
/// # Panics
/// When the slices do not have these sizes.
pub fn matmul(compute: &mut Compute, x: &[f32], weights: &Linear, out: &mut [f32], output: Output) {
    matmul_by_kind(compute, TokenRows::of_prompts(x), weights, out, output);
}

/// Multiplies `x` (`[m, cols]`) with `weights`, into `out` (`[m, rows]`), each row in the precision of its kind. Rows of
/// both kinds are computed in one region.
///
/// # Panics
/// When the slices do not have these sizes.
pub fn matmul_by_kind(
    compute: &mut Compute,
    x: TokenRows<'_>,
    weights: &Linear,
    out: &mut [f32],
    output: Output,
) {
    let (rows, cols) = (weights.rows(), weights.cols());
    if rows == 0 || cols == 0 {
        return;
    }
    let m = x.values.len() / cols;
    assert!(x.values.len() == m * cols && out.len() == m * rows);
    let prompt = if weights.is_uniform() { m } else { x.prompt.min(m) };
    let (prompt_rows, generated_rows) = x.values.split_at(prompt * cols);
    let (prompt_out, generated_out) = out.split_at_mut(prompt * rows);
    ROUNDED_ROWS.with_borrow_mut(|rounded| {
        rounded.set(compute, prompt_rows, weights, TokenKind::Prompt);
        rounded.set(compute, generated_rows, weights, TokenKind::Generated);
        let product = |x, rows, kind| Product {
            x: rounded.view(x, weights, kind),
            rows,
            weights,
            output,
        };
        let first = product(prompt_rows, prompt, TokenKind::Prompt);
        let second = product(generated_rows, m - prompt, TokenKind::Generated);
        let (first, second) = (
            first.plan(compute, prompt_out),
            second.plan(compute, generated_out),
        );
        let tasks = first.tasks();
        compute
            .pool
            .run(tasks + second.tasks(), &|task| match task.checked_sub(tasks) {
                None => first.run(task),
                Some(task) => second.run(task),
            });
    });
}

/// [`matmul`] of rows that are rounded to bf16 already.
///
/// # Panics
/// When sizes differ.
#[cfg(target_arch = "x86_64")]
pub(super) fn matmul_rounded(
    compute: &mut Compute,
    x: &Bf16Rows,
    weights: &Linear,
    out: &mut [f32],
    output: Output,
) {
    assert!(x.cols() == weights.cols() && out.len() == x.rows() * weights.rows());
    let product = Product {
        x: Activations::Bf16(x),
        rows: x.rows(),
        weights,
        output,
    };
    let planned = product.plan(compute, out);
    compute.pool.run(planned.tasks(), &|task| planned.run(task));
}

/// Most rows of `m` that share one expansion of weights: `m` in equal parts of whole tiles.
pub(super) fn rows_per_task(precision: Products, m: usize) -> usize {
    let (most, tile) = match precision {
        Products::Bf16 => (BF16_ROWS_PER_TASK, bf16::TILE_ROWS),
        Products::Int8 | Products::F32 => (ROWS_PER_TASK, int8::TILE_ROWS),
    };
    m.div_ceil(m.div_ceil(most).max(1))
        .next_multiple_of(tile)
        .max(tile)
}

/// A product of activations and weights, all rows in one precision.
struct Product<'a> {
    x: Activations<'a>,
    /// Rows of activations.
    rows: usize,
    weights: &'a Linear,
    output: Output,
}

/// A product that is cut into tasks.
struct PlannedProduct<'a> {
    product: Product<'a>,
    isa: Isa,
    strips_per_task: usize,
    /// Tasks that have the same rows.
    strip_blocks: usize,
    rows_per_task: usize,
    /// `[rows, outputs]`
    out: DisjointSlices<'a, f32>,
}

impl<'a> Product<'a> {
    /// Cuts the product into `out`, `[rows, outputs]`, which callers have checked, into tasks.
    fn plan(self, compute: &Compute, out: &'a mut [f32]) -> PlannedProduct<'a> {
        let isa = compute.isa;
        let parts = self.weights.parts();
        let strips: usize = parts.iter().map(|part| part.panels() * STRIPS_PER_PANEL).sum();
        // A task of many rows is one panel, so that threads share the work evenly even when some are delayed. A task
        // of few rows is more strips than that, because to begin a task takes as long as a strip.
        let strips_per_task = if self.has_few_rows(isa) {
            strips.div_ceil(TASKS_PER_THREAD * compute.pool.threads())
        } else {
            STRIPS_PER_PANEL
        };
        PlannedProduct {
            isa,
            strips_per_task,
            strip_blocks: strips.div_ceil(strips_per_task),
            rows_per_task: rows_per_task(self.x.precision(), self.rows),
            out: DisjointSlices::new(out),
            product: self,
        }
    }

    /// Whether kernels take single strips of so few rows, so that tasks need not be whole panels.
    fn has_few_rows(&self, isa: Isa) -> bool {
        match self.x {
            Activations::Bf16(_) => bf16::strips_together(isa, self.rows, false) < STRIPS_PER_PANEL,
            Activations::Int8 { .. } => {
                self.rows <= MAX_ROWS && self.weights.parts().iter().all(PackedMatrix::is_quantised)
            }
            Activations::F32(_) => false,
        }
    }
}

impl PlannedProduct<'_> {
    /// Number of tasks.
    fn tasks(&self) -> usize {
        self.strip_blocks * self.product.rows.div_ceil(self.rows_per_task)
    }

    /// Computes a task, which no other thread computes.
    fn run(&self, task: usize) {
        let Product {
            x,
            rows,
            weights,
            output,
        } = &self.product;
        let (outputs, rows_per_task) = (weights.rows(), self.rows_per_task);
        // All strips of some rows come before those of the next rows, so that a worker's work range is of the same
        // rows as in other regions.
        let first_strip = task % self.strip_blocks * self.strips_per_task;
        let first_row = task / self.strip_blocks * rows_per_task;
        let rows = RowRange {
            first: first_row,
            count: rows_per_task.min(rows - first_row),
        };
        let mut skipped_strips = 0;
        let mut skipped_outputs = 0;
        for part in weights.parts() {
            let part_end = skipped_strips + part.panels() * STRIPS_PER_PANEL;
            let first = first_strip.max(skipped_strips);
            let end = (first_strip + self.strips_per_task).min(part_end);
            if first < end {
                let block = Block {
                    matrix: part,
                    x: x.for_matrix(part),
                    strips: StripRange {
                        first: first - skipped_strips,
                        end: end - skipped_strips,
                    },
                    rows,
                    out: OutputTile {
                        start: self.out.pointer(first_row * outputs + skipped_outputs),
                        stride: outputs,
                        output: *output,
                    },
                };
                // SAFETY: `out` is `[rows, outputs]` and borrowed for as long as the plan exists. The block's outputs
                // are the part's, at `skipped_outputs..skipped_outputs + part.rows()` of each of these rows, and no
                // other task has the same strips of the same rows.
                SCRATCH.with_borrow_mut(|scratch| unsafe { block.run(self.isa, scratch) });
            }
            skipped_strips = part_end;
            skipped_outputs += part.rows();
        }
    }
}

/// Neighbouring strips of a matrix, counted over all its panels.
#[derive(Clone, Copy)]
struct StripRange {
    first: usize,
    /// The strip after the last.
    end: usize,
}

/// What one task computes of one matrix: neighbouring strips of outputs, for some rows of `x`.
struct Block<'a> {
    matrix: &'a PackedMatrix,
    /// All rows of activations.
    x: Inputs<'a>,
    /// Whole panels, but for products that take single strips.
    strips: StripRange,
    rows: RowRange,
    /// The matrix's outputs of the rows.
    out: OutputTile,
}

impl Block<'_> {
    /// Computes the block.
    ///
    /// # Safety
    /// `self.out` is readable and writable for `self.rows.count` rows of the matrix's outputs, and while this runs
    /// nobody else accesses those of the block's strips.
    unsafe fn run(&self, isa: Isa, scratch: &mut Scratch) {
        let StripRange { first, end } = self.strips;
        let mut strip = first;
        while strip < end {
            let whole_panel = strip.is_multiple_of(STRIPS_PER_PANEL) && strip + STRIPS_PER_PANEL <= end;
            let count = match self.x {
                Inputs::Int8(_) if !whole_panel => 1,
                Inputs::Bf16(_) => bf16::strips_together(isa, self.rows.count, whole_panel),
                _ => STRIPS_PER_PANEL,
            };
            // SAFETY: strips `strip..strip + count` are this block's: where `count` is a panel's, either
            // `whole_panel` says so, or the block is whole panels. The caller vouches for `self.out`.
            unsafe { self.run_strips(isa, strip, count, scratch) };
            strip += count;
        }
    }

    /// Computes `count` strips from `strip` on, counted over all panels.
    ///
    /// # Safety
    /// What [`Self::run`] asks for, and the strips are this block's.
    unsafe fn run_strips(&self, isa: Isa, strip: usize, count: usize, scratch: &mut Scratch) {
        let Scratch {
            weights,
            partial_strips,
            #[cfg(target_arch = "x86_64")]
            tiles,
            bf16,
        } = scratch;
        let first = strip * STRIP;
        let Some(width) = self.matrix.rows().checked_sub(first).filter(|&left| left > 0) else {
            return;
        };
        let (width, whole) = (width.min(count * STRIP), count * STRIP);
        let rows = self.rows.count;
        // SAFETY: the matrix has more than `first` outputs, so this points to an output of the first row.
        let out = unsafe { self.out.start.add(first) };
        // Kernels write whole strips. Where the matrix ends inside of one, they write it to scratch.
        let target = if width == whole {
            OutputTile {
                start: out,
                ..self.out
            }
        } else {
            let partial = scratch_slice(partial_strips, rows * PANEL);
            if self.out.output == Output::Add {
                for (i, row) in partial.chunks_exact_mut(PANEL).take(rows).enumerate() {
                    // SAFETY: outputs `first..first + width` of row `i` exist and are the block's, so the caller lets
                    // this thread read them.
                    let out = unsafe { std::slice::from_raw_parts(out.add(i * self.out.stride), width) };
                    row[..width].copy_from_slice(out);
                }
            }
            OutputTile {
                start: partial.as_mut_ptr(),
                stride: PANEL,
                output: self.out.output,
            }
        };
        let panel = self.matrix.panel(strip / STRIPS_PER_PANEL);
        let strips = MatrixStrips {
            panel,
            first: strip % STRIPS_PER_PANEL,
            count,
        };
        // SAFETY: `target` has `rows` rows of `count * STRIP` outputs: the block's own, whose `width` is whole, or this
        // thread's scratch, whose rows are `PANEL` long.
        unsafe {
            match self.x {
                Inputs::Int8(x) => {
                    #[cfg(target_arch = "x86_64")]
                    self.run_int8(isa, x, strips, tiles, target);
                    #[cfg(not(target_arch = "x86_64"))]
                    self.run_int8(isa, x, strips, target);
                }
                Inputs::Bf16(x) => bf16::product(isa, x, self.rows, strips, bf16, target),
                Inputs::F32(x) => self.run_f32(isa, x, panel, weights, target),
            }
        }
        if width < whole {
            for (i, row) in partial_strips.chunks_exact(PANEL).take(rows).enumerate() {
                // SAFETY: outputs `first..first + width` of row `i` exist and are the block's, so nobody else
                // accesses them.
                let out = unsafe { std::slice::from_raw_parts_mut(out.add(i * self.out.stride), width) };
                out.copy_from_slice(&row[..width]);
            }
        }
    }

    /// Computes strips in integers; nothing where the matrix is not quantised.
    ///
    /// # Safety
    /// `target` is readable and writable for `self.rows.count` rows of the strips' outputs, and nobody else accesses
    /// that.
    unsafe fn run_int8(
        &self,
        isa: Isa,
        x: &Int8Rows,
        strips: MatrixStrips<'_>,
        #[cfg(target_arch = "x86_64")] tiles: &mut TileScratch,
        target: OutputTile,
    ) {
        let MatrixStrips { panel, first, count } = strips;
        let Some(all) = panel.strips(first, count) else {
            return;
        };
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller vouches for the target, for all of these rows and the strips' width.
        let done = unsafe { int8::product_of_tiles(isa, x, self.rows, &all, tiles, target) };
        #[cfg(not(target_arch = "x86_64"))]
        let done = 0;
        let rows = self.rows.count - done;
        if rows == 0 {
            return;
        }
        let step = rows.div_ceil(rows.div_ceil(MAX_ROWS));
        let together = if rows <= PANEL_ROWS { count } else { 1 };
        for index in (0..count).step_by(together) {
            let Some(strip) = panel.strips(first + index, together) else {
                return;
            };
            let target = OutputTile {
                start: target.start.wrapping_add(index * STRIP),
                ..target
            };
            for row in (0..rows).step_by(step) {
                let part = self.rows.sub_range(done + row, step.min(rows - row));
                // SAFETY: `done + row` and the `part.count` rows from there on are below `self.rows.count`, for which the
                // caller vouches, as for the outputs of all strips.
                unsafe { int8::product(isa, x, part, &strip, target.rows_from(done + row)) };
            }
        }
    }

    /// Computes a panel in f32.
    ///
    /// # Safety
    /// `target` is readable and writable for `self.rows.count` rows of [`PANEL`] outputs, and nobody else accesses
    /// that.
    unsafe fn run_f32(
        &self,
        isa: Isa,
        x: &[f32],
        panel: MatrixPanel<'_>,
        scratch: &mut Vec<f32>,
        target: OutputTile,
    ) {
        let cols = self.matrix.cols();
        let RowRange { first, count } = self.rows;
        let step = F32_INPUTS / self.matrix.group_size() * self.matrix.group_size();
        let mut k = 0;
        while k < cols {
            let inputs = InputRange {
                first: k,
                count: step.min(cols - k),
            };
            let weights = panel.expanded(isa, inputs, scratch);
            for row in (0..count).step_by(WIDE_ROWS) {
                let size = TileSize {
                    rows: WIDE_ROWS.min(count - row),
                    vectors: PANEL / LANES,
                };
                // SAFETY: `x` is `[all rows, cols]`, of which `first + row..` are `size.rows` rows with
                // `inputs.count` inputs from `k` on; `weights` is `[inputs.count][PANEL]`; rows `row..row +
                // size.rows` of the target are below `count`, for which the caller vouches. The target overlaps
                // neither of the others: it is exclusive.
                unsafe {
                    let c = target.rows_from(row);
                    let operands = Tile {
                        a: x[(first + row) * cols + k..].as_ptr(),
                        a_stride: cols,
                        w: weights.as_ptr(),
                        w_stride: PANEL,
                        c: c.start,
                        c_stride: c.stride,
                        output: if k == 0 { target.output } else { Output::Add },
                        k: inputs.count,
                    };
                    micro::run(isa, size, &operands);
                }
            }
            k += inputs.count;
        }
    }
}

#[cfg(test)]
#[path = "matmul_tests.rs"]
mod tests;
