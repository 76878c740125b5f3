//! Rows of activations in bf16.

use super::{
    RUN,
    round::{round, widen},
};
use crate::backend::cpu::kernels::{Isa, ThreadPool, buffers::sized, isa::per_isa, pool::DisjointSlices};
#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::kernels::{
    bf16::{amx::ROWS, expand},
    isa::IsaKind,
};

/// Rows that one task rounds: whole tiles.
const ROWS_PER_TASK: usize = 16;

/// A run of a row, as a line of the cache.
#[repr(C, align(64))]
#[derive(Clone, Copy, Default)]
pub(in crate::backend::cpu::kernels) struct RunBits(pub [u16; RUN]);

/// Rounded rows, each filled up with zeros to whole runs.
#[derive(Default)]
pub(in crate::backend::cpu::kernels) struct Bf16Rows {
    rows: usize,
    cols: usize,
    /// For tiles, `[rows / ROWS][runs][ROWS]`; what would be rows behind the last is not defined.
    #[cfg(target_arch = "x86_64")]
    bits: Vec<RunBits>,
    /// For vectors, `[rows][runs][RUN]`: of each run the even inputs and then the odd ones.
    values: Vec<f32>,
}

impl Bf16Rows {
    /// Rounds `x`, `[m, cols]`.
    pub(in crate::backend::cpu::kernels) fn set(
        &mut self,
        pool: &mut ThreadPool,
        isa: Isa,
        x: &[f32],
        cols: usize,
    ) {
        let m = x.len() / cols;
        (self.rows, self.cols) = (m, cols);
        let runs = self.runs();
        #[cfg(target_arch = "x86_64")]
        if isa.0 == IsaKind::Amx {
            let tile = runs * ROWS;
            let out = DisjointSlices::new(sized(&mut self.bits, m.div_ceil(ROWS) * tile));
            return pool.run_parts(m, ROWS_PER_TASK, &|rows| {
                // SAFETY: tasks take disjoint rows, in whole tiles.
                let out = unsafe { out.part(rows.start / ROWS * tile, rows.len().div_ceil(ROWS) * tile) };
                for (index, x) in x[rows.start * cols..rows.end * cols]
                    .chunks_exact(cols)
                    .enumerate()
                {
                    let out = out[index / ROWS * tile + index % ROWS..].iter_mut().step_by(ROWS);
                    // SAFETY: an `Isa` is only made for a processor that has its features.
                    unsafe { expand::row(x, out) };
                }
            });
        }
        let stride = runs * RUN;
        let out = DisjointSlices::new(sized(&mut self.values, m * stride));
        pool.run_parts(m, ROWS_PER_TASK, &|rows| {
            for row in rows {
                // SAFETY: tasks take disjoint rows.
                let out = unsafe { out.part(row * stride, stride) };
                part_row(isa, &x[row * cols..][..cols], out);
            }
        });
    }

    /// Becomes `rows` of `cols` that are not defined, for tiles: who writes them.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn tiles(&mut self, rows: usize, cols: usize) -> RunSlices<'_> {
        (self.rows, self.cols) = (rows, cols);
        let runs = self.runs();
        let slices = DisjointSlices::new(sized(&mut self.bits, rows.div_ceil(ROWS) * runs * ROWS));
        RunSlices { runs, slices }
    }

    pub(in crate::backend::cpu::kernels) fn rows(&self) -> usize {
        self.rows
    }

    pub(in crate::backend::cpu::kernels) fn cols(&self) -> usize {
        self.cols
    }

    fn runs(&self) -> usize {
        self.cols.div_ceil(RUN)
    }

    /// Elements from one row to the next.
    pub(super) fn stride(&self) -> usize {
        self.runs() * RUN
    }

    /// Runs of a tile of rows, from one run on: `[runs][ROWS]`. The row begins a tile.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn tile(&self, row: usize, run: usize) -> &[RunBits] {
        let len = self.runs() * ROWS;
        &self.bits[row / ROWS * len..][..len][run * ROWS..]
    }

    /// Rows from `row` on.
    pub(super) fn values(&self, row: usize) -> &[f32] {
        &self.values[row * self.stride()..self.rows * self.stride()]
    }
}

/// Rows for tiles, whose parts are written by several workers.
#[cfg(target_arch = "x86_64")]
pub(super) struct RunSlices<'a> {
    runs: usize,
    slices: DisjointSlices<'a, RunBits>,
}

#[cfg(target_arch = "x86_64")]
impl RunSlices<'_> {
    /// Runs from `run` on of a tile of rows, which `row` begins: `[count][ROWS]`.
    ///
    /// # Safety
    /// Nobody else has these runs of these rows.
    #[allow(
        clippy::mut_from_ref,
        reason = "disjoint parts are the purpose; the contract above makes it sound"
    )]
    pub(super) unsafe fn tile(&self, row: usize, run: usize, count: usize) -> &mut [RunBits] {
        assert!(run + count <= self.runs);
        // SAFETY: by the caller's promise.
        unsafe {
            self.slices
                .part((row / ROWS * self.runs + run) * ROWS, count * ROWS)
        }
    }
}

per_isa! {
    /// Rounds a row into its runs, of each the even inputs and then the odd ones, filled up with zeros.
    pub(in crate::backend::cpu::kernels) fn part_row(isa; x: &[f32], out: &mut [f32]) {
        for (x, out) in x.chunks(RUN).zip(out.as_chunks_mut::<RUN>().0) {
            let mut run = [0.0; RUN];
            run[..x.len()].copy_from_slice(x);
            for (pair, two) in run.as_chunks::<2>().0.iter().enumerate() {
                out[pair] = widen(round(two[0]));
                out[RUN / 2 + pair] = widen(round(two[1]));
            }
        }
    }
}
