//! A feed-forward part with a gate, `down(activation(gate(x)) * up(x))` (arXiv 2002.05202).

use super::{Activation, Isa, Linear, Output, ThreadPool, gate, matmul};
#[cfg(target_arch = "x86_64")]
use super::{
    Products,
    bf16::{GatedProduct, Panel},
    isa::IsaKind,
    matmul::{ROWS, RoundedRows, SCRATCH, matmul_rounded, rows_per_task},
    packed::PANEL,
};

/// With fewer tasks for each thread some threads would wait for others: the products one after the other are cut finer.
#[cfg(target_arch = "x86_64")]
const TASKS_PER_THREAD: usize = 2;

/// Of so few rows little lies between the products, and products of half a panel are shared more evenly.
#[cfg(target_arch = "x86_64")]
const FEW_ROWS: usize = 4;

/// The products of a gated feed-forward part.
pub struct GatedFeedForward<'a> {
    /// Gate and up side by side, with equal outputs.
    pub gate_up: &'a Linear,
    /// Of the gate.
    pub activation: Activation,
    /// Its inputs are the gate's outputs.
    pub down: &'a Linear,
}

/// What lies between the products, where it has to be in memory; the buffers grow to the largest batch and stay.
#[derive(Default)]
pub struct GatedBuffers {
    /// `[m, gate | up]`
    pub gate_up: Vec<f32>,
    /// `[m, gate]`
    pub gated: Vec<f32>,
}

impl GatedFeedForward<'_> {
    /// Runs rows `x` (`[m, inputs]`) into `out` (`[m, outputs]`). The bits are those of [`matmul()`], [`gate()`] and
    /// [`matmul()`].
    ///
    /// # Panics
    /// When sizes differ.
    pub fn run(
        &self,
        pool: &mut ThreadPool,
        isa: Isa,
        x: &[f32],
        buffers: &mut GatedBuffers,
        (out, output): (&mut [f32], Output),
    ) {
        #[cfg(target_arch = "x86_64")]
        if self.run_in_tiles(pool, isa, x, out, output) {
            return;
        }
        let GatedBuffers { gate_up, gated } = buffers;
        let (m, width) = (x.len() / self.gate_up.cols().max(1), self.down.cols());
        gate_up.resize(m * 2 * width, 0.0);
        gated.resize(m * width, 0.0);
        matmul(pool, isa, x, self.gate_up, gate_up, Output::Replace);
        gate(pool, isa, self.activation, gate_up, width, gated);
        matmul(pool, isa, gated, self.down, out, output);
    }

    /// The same in tiles of bf16, from which what lies between the products comes rounded. `false` where that can't be.
    #[cfg(target_arch = "x86_64")]
    fn run_in_tiles(
        &self,
        pool: &mut ThreadPool,
        isa: Isa,
        x: &[f32],
        out: &mut [f32],
        output: Output,
    ) -> bool {
        let (cols, width) = (self.gate_up.cols(), self.down.cols());
        let precisions = [self.gate_up.precision(), self.down.precision()];
        if isa.0 != IsaKind::Amx || precisions != [Products::Bf16; 2] || cols == 0 {
            return false;
        }
        let (m, panels) = (x.len() / cols, width.div_ceil(PANEL));
        let chunk_rows = rows_per_task(Products::Bf16, m);
        let tasks = panels * m.div_ceil(chunk_rows);
        if m <= FEW_ROWS || tasks < TASKS_PER_THREAD * pool.threads() {
            return false;
        }
        let Some(sources) = self.sources() else {
            return false;
        };
        ROWS.with_borrow_mut(|RoundedRows { bf16, gated, .. }| {
            bf16.set(pool, isa, x, cols);
            let product = GatedProduct::new(isa, bf16, self.activation, width, gated);
            pool.run(tasks, &|task| {
                let (panel, first) = (task % panels, task / panels * chunk_rows);
                let rows = (first, chunk_rows.min(m - first));
                SCRATCH.with_borrow_mut(|scratch| {
                    // SAFETY: tasks take disjoint (rows, outputs) blocks.
                    unsafe { product.panels(rows, panel, sources(panel), &mut scratch.bf16) };
                });
            });
            matmul_rounded(pool, isa, gated, self.down, out, output);
        });
        true
    }

    /// Where a panel's outputs of gate and up come from, if both are panels.
    #[cfg(target_arch = "x86_64")]
    fn sources<'a>(&'a self) -> Option<impl Fn(usize) -> [Panel<'a>; 2] + Sync> {
        let width = self.down.cols();
        let (gate, up, skipped) = match self.gate_up.parts() {
            [gate, up] if gate.rows() == width && up.rows() == width => (gate, up, 0),
            [both] if both.rows() == 2 * width && width.is_multiple_of(PANEL) => (both, both, width / PANEL),
            _ => return None,
        };
        Some(move |panel| [(gate, panel), (up, skipped + panel)])
    }
}

#[cfg(test)]
#[path = "gated_tests.rs"]
mod tests;
