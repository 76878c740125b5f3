//! Rows of activations in bf16.

use super::{
    layout::{RUN, RUN_PAIRS},
    round::{round, widen},
};
#[cfg(target_arch = "x86_64")]
use super::{
    layout::{RunBits, TILE_ROWS},
    round_row::round_row,
};
#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::kernels::isa::IsaKind;
use crate::backend::cpu::kernels::{
    buffers::scratch_slice, compute::Compute, disjoint::DisjointSlices, isa::per_isa,
};

/// Rows in one task, a whole tile.
const ROWS_PER_TASK: usize = 16;

/// Rounded rows, each filled up with zeros to whole runs. Only the buffer that the instruction set reads is filled.
#[derive(Default)]
pub(in crate::backend::cpu::kernels) struct Bf16Rows {
    rows: usize,
    cols: usize,
    /// For tiles, `[rows / TILE_ROWS][runs][TILE_ROWS]` with whole tiles of rows. Rows behind the last hold anything.
    #[cfg(target_arch = "x86_64")]
    bits: Vec<RunBits>,
    /// For vectors, `[rows][runs][even, odd][RUN_PAIRS]`: in each run the even inputs come before the odd ones.
    values: Vec<f32>,
}

impl Bf16Rows {
    /// Rounds `x`, `[m, cols]`.
    pub(in crate::backend::cpu::kernels) fn set(&mut self, compute: &mut Compute, x: &[f32], cols: usize) {
        let (m, isa) = (x.len() / cols, compute.isa);
        (self.rows, self.cols) = (m, cols);
        let runs = self.runs();
        #[cfg(target_arch = "x86_64")]
        if isa.0 == IsaKind::Amx {
            let tile = runs * TILE_ROWS;
            let out = DisjointSlices::new(scratch_slice(&mut self.bits, m.div_ceil(TILE_ROWS) * tile));
            return compute.pool.run_parts(m, ROWS_PER_TASK, &|rows| {
                // SAFETY: `run_parts` gives each task other rows, `ROWS_PER_TASK` of them, which is a whole tile;
                // these elements are that tile's only.
                let out = unsafe {
                    out.part(
                        rows.start / TILE_ROWS * tile,
                        rows.len().div_ceil(TILE_ROWS) * tile,
                    )
                };
                for (index, x) in x[rows.start * cols..rows.end * cols]
                    .chunks_exact(cols)
                    .enumerate()
                {
                    let out = out[index / TILE_ROWS * tile + index % TILE_ROWS..]
                        .iter_mut()
                        .step_by(TILE_ROWS);
                    // SAFETY: `Isa::available` makes `IsaKind::Amx` only where it has found avx512f and avx512bf16.
                    unsafe { round_row(x, out) };
                }
            });
        }
        let stride = runs * RUN;
        let out = DisjointSlices::new(scratch_slice(&mut self.values, m * stride));
        compute.pool.run_parts(m, ROWS_PER_TASK, &|rows| {
            for row in rows {
                // SAFETY: `run_parts` gives each task other rows, and these elements are the row's only.
                let out = unsafe { out.part(row * stride, stride) };
                deinterleave_row(isa, &x[row * cols..][..cols], out);
            }
        });
    }

    /// Takes the size `[rows, cols]`, for tiles, and lets the caller write the rows, which hold anything until then.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn resize_for_tiles(&mut self, rows: usize, cols: usize) -> RunSlices<'_> {
        (self.rows, self.cols) = (rows, cols);
        let runs = self.runs();
        let slices = DisjointSlices::new(scratch_slice(
            &mut self.bits,
            rows.div_ceil(TILE_ROWS) * runs * TILE_ROWS,
        ));
        RunSlices { runs, slices }
    }

    /// Number of rows.
    pub(in crate::backend::cpu::kernels) fn rows(&self) -> usize {
        self.rows
    }

    /// Number of inputs.
    pub(in crate::backend::cpu::kernels) fn cols(&self) -> usize {
        self.cols
    }

    /// Runs of a row.
    fn runs(&self) -> usize {
        self.cols.div_ceil(RUN)
    }

    /// For vectors: elements from one row to the next.
    pub(super) fn stride(&self) -> usize {
        self.runs() * RUN
    }

    /// For tiles: the tile that begins at row `row`, from run `run` to the last, `[runs][TILE_ROWS]`.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn tile(&self, row: usize, run: usize) -> &[RunBits] {
        let len = self.runs() * TILE_ROWS;
        &self.bits[row / TILE_ROWS * len..][..len][run * TILE_ROWS..]
    }

    /// For vectors: all rows from `row` on.
    pub(super) fn values(&self, row: usize) -> &[f32] {
        &self.values[row * self.stride()..self.rows * self.stride()]
    }
}

/// Rows for tiles, of which several workers write disjoint parts.
#[cfg(target_arch = "x86_64")]
pub(super) struct RunSlices<'a> {
    /// Runs of a row.
    runs: usize,
    slices: DisjointSlices<'a, RunBits>,
}

#[cfg(target_arch = "x86_64")]
impl RunSlices<'_> {
    /// `count` runs from `run` on of the tile that begins at row `row`: `[count][TILE_ROWS]`.
    ///
    /// # Safety
    /// While the returned slice is used, nobody else has a slice with one of these runs of this tile.
    ///
    /// # Panics
    /// When the runs or the tile do not exist.
    #[allow(
        clippy::mut_from_ref,
        reason = "disjoint parts are the purpose; the contract above makes it sound"
    )]
    pub(super) unsafe fn tile(&self, row: usize, run: usize, count: usize) -> &mut [RunBits] {
        assert!(run + count <= self.runs);
        // SAFETY: these elements are the tile's runs only, as the assertion makes sure, and the caller keeps those to
        // itself.
        unsafe {
            self.slices
                .part((row / TILE_ROWS * self.runs + run) * TILE_ROWS, count * TILE_ROWS)
        }
    }
}

per_isa! {
    /// Rounds a row into runs of `[even, odd][RUN_PAIRS]`, the last filled up with zeros.
    pub(in crate::backend::cpu::kernels) fn deinterleave_row(isa; x: &[f32], out: &mut [f32]) {
        for (x, out) in x.chunks(RUN).zip(out.as_chunks_mut::<RUN>().0) {
            let mut run = [0.0; RUN];
            run[..x.len()].copy_from_slice(x);
            for (pair, two) in run.as_chunks::<2>().0.iter().enumerate() {
                out[pair] = widen(round(two[0]));
                out[RUN_PAIRS + pair] = widen(round(two[1]));
            }
        }
    }
}
