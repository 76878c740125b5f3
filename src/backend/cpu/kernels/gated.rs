//! A feed-forward part with a gate, `down(activation(gate(x)) * up(x))` (arXiv 2002.05202).
//!
//! Where both products are in bf16 on AMX, gate, up and activation are one region: the same 64 outputs of gate and up
//! are joined where their sums are, and written as the rounded tiles that down reads. Otherwise gate and up of a
//! layer of SmolLM2 with 512 rows write 6.3 MB of f32, and the activation reads those to write 3.1 MB. Joined, such a
//! feed-forward part takes 1,423 µs instead of 1,826. With four rows or fewer little lies between the products, and
//! products of single strips share it more evenly among threads: one row takes 112 µs joined and 100 µs in turn.

#[cfg(target_arch = "x86_64")]
use super::{
    activations::RoundedRows,
    bf16::GatedProduct,
    isa::IsaKind,
    matmul::{ROUNDED_ROWS, SCRATCH, matmul_rounded, rows_per_task},
    packed::MatrixPanel,
    panel::PANEL,
    ranges::RowRange,
};
use super::{
    activations::TokenRows, compute::Compute, elementwise::gate, linear::Linear, matmul::matmul_by_kind,
    output::Output,
};
use crate::model::spec::Activation;
#[cfg(target_arch = "x86_64")]
use crate::model::spec::{Products, TokenKind};

/// Fewest tasks for each thread of a joined part. With fewer, threads wait for one another, and the products in turn
/// are cut finer.
#[cfg(target_arch = "x86_64")]
const TASKS_PER_THREAD: usize = 2;

/// Most rows that are computed in turn although they could be joined.
#[cfg(target_arch = "x86_64")]
const FEW_ROWS: usize = 4;

/// The products of a gated feed-forward part.
pub struct GatedFeedForward<'a> {
    /// Gate and up side by side, with equally many outputs.
    pub gate_up: &'a Linear,
    /// The gate's activation.
    pub activation: Activation,
    /// The product that reads the gated activations; it has as many inputs as the gate has outputs.
    pub down: &'a Linear,
}

/// Activations between the products, where they have to be in memory. The buffers grow to the largest batch and stay.
#[derive(Default)]
pub struct GatedBuffers {
    /// Outputs of gate and up, `[m, gate | up]`.
    pub gate_up: Vec<f32>,
    /// Inputs of down, `[m, gate]`.
    pub gated: Vec<f32>,
}

impl GatedFeedForward<'_> {
    /// Runs rows `x` (`[m, inputs]`) into `out` (`[m, outputs]`). The bits are those of [`matmul_by_kind()`], [`gate()`]
    /// and [`matmul_by_kind()`].
    ///
    /// # Panics
    /// When sizes differ.
    pub fn run(
        &self,
        compute: &mut Compute,
        x: TokenRows<'_>,
        buffers: &mut GatedBuffers,
        out: &mut [f32],
        output: Output,
    ) {
        let (cols, outputs, width) = (self.gate_up.cols(), self.down.rows(), self.down.cols());
        let m = x.values.len() / cols.max(1);
        assert!(x.values.len() == m * cols && out.len() == m * outputs);
        #[cfg(target_arch = "x86_64")]
        let joined = {
            let rows = self.rows_in_bf16(x, m);
            let (x, out) = (&x.values[..rows * cols], &mut out[..rows * outputs]);
            if self.run_joined(compute, x, out, output) {
                rows
            } else {
                0
            }
        };
        #[cfg(not(target_arch = "x86_64"))]
        let joined = 0;
        if joined == m {
            return;
        }
        let rest = |values| TokenRows {
            values,
            prompt: x.prompt.saturating_sub(joined),
        };
        let GatedBuffers { gate_up, gated } = buffers;
        gate_up.resize((m - joined) * 2 * width, 0.0);
        gated.resize((m - joined) * width, 0.0);
        let (values, out) = (&x.values[joined * cols..], &mut out[joined * outputs..]);
        matmul_by_kind(compute, rest(values), self.gate_up, gate_up, Output::Replace);
        gate(compute, self.activation, gate_up, width, gated);
        matmul_by_kind(compute, rest(gated), self.down, out, output);
    }

    /// How many of `m` leading rows both products compute in bf16.
    #[cfg(target_arch = "x86_64")]
    fn rows_in_bf16(&self, x: TokenRows<'_>, m: usize) -> usize {
        let both = |kind| {
            [self.gate_up, self.down]
                .iter()
                .all(|weights| weights.precision(kind) == Products::Bf16)
        };
        match (both(TokenKind::Prompt), both(TokenKind::Generated)) {
            (true, true) => m,
            (true, false) => x.prompt.min(m),
            (false, _) => 0,
        }
    }

    /// Joins gate, up and activation of rows in bf16 in one region. `false`, with nothing done, where that is not
    /// possible or not faster.
    #[cfg(target_arch = "x86_64")]
    fn run_joined(&self, compute: &mut Compute, x: &[f32], out: &mut [f32], output: Output) -> bool {
        let (cols, width) = (self.gate_up.cols(), self.down.cols());
        if compute.isa.0 != IsaKind::Amx || cols == 0 {
            return false;
        }
        let (m, panels) = (x.len() / cols, width.div_ceil(PANEL));
        let rows_per_task = rows_per_task(Products::Bf16, m);
        let tasks = panels * m.div_ceil(rows_per_task);
        if m <= FEW_ROWS || tasks < TASKS_PER_THREAD * compute.pool.threads() {
            return false;
        }
        let Some(sources) = self.sources() else {
            return false;
        };
        ROUNDED_ROWS.with_borrow_mut(|RoundedRows { bf16, gated, .. }| {
            bf16.set(compute, x, cols);
            let product = GatedProduct::new(compute.isa, bf16, self.activation, width, gated);
            compute.pool.run(tasks, &|task| {
                let (panel, first) = (task % panels, task / panels * rows_per_task);
                let rows = RowRange {
                    first,
                    count: rows_per_task.min(m - first),
                };
                SCRATCH.with_borrow_mut(|scratch| {
                    // SAFETY: each task has another pair of rows and panel, and `rows_per_task` is whole tiles of
                    // rows, so no two tasks write the same outputs.
                    unsafe { product.run_panel(rows, panel, sources(panel), &mut scratch.bf16) };
                });
            });
            matmul_rounded(compute, gated, self.down, out, output);
        });
        true
    }

    /// The panels that give a panel's outputs of gate and of up. `None` when the outputs of up do not begin at a panel.
    #[cfg(target_arch = "x86_64")]
    fn sources<'a>(&'a self) -> Option<impl Fn(usize) -> [MatrixPanel<'a>; 2] + Sync> {
        let width = self.down.cols();
        let (gate, up, skipped) = match self.gate_up.parts() {
            [gate, up] if gate.rows() == width && up.rows() == width => (gate, up, 0),
            [both] if both.rows() == 2 * width && width.is_multiple_of(PANEL) => (both, both, width / PANEL),
            _ => return None,
        };
        Some(move |panel| [gate.panel(panel), up.panel(skipped + panel)])
    }
}

#[cfg(test)]
#[path = "gated_tests.rs"]
mod tests;
