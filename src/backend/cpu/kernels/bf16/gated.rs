//! Gate and up of a feed-forward part in AMX tiles: joined by the activation where their sums are, and rounded to bf16.
//!
//! With 512 rows of SmolLM2 gate, up and down took 11 to 14 % less time once each strip was multiplied with all rows in turn,
//! with loads of rows that do not drive weights out of the first-level cache (see [`super::amx`]). Half as many inputs at a
//! time was 8 % slower.
//!
//! Tried and not taken: expanding the next strip's weights between the instructions that multiply a strip, as attention does its
//! softmax. The two then take place at the same time, but two strips do not fit the first-level cache, and with fewer inputs at a time
//! sums are stored and loaded more often: within 2 % with 137 and 256 rows, whether with 576, 320 or 192 inputs.

use super::{
    amx::shapes,
    layout::{PanelPairs, ROW_BLOCK, RUN, RowSums, STRIP_RUN, TILE_ROWS},
    round_row::round_row,
    rows::{Bf16Rows, RunSlices},
    scratch::Bf16Scratch,
    tiles::{RunWeights, depth, expand_panel, multiply},
};
use crate::{
    backend::cpu::kernels::{
        buffers::scratch_slice,
        isa::{Isa, IsaKind},
        output::Output,
        packed::MatrixPanel,
        panel::PANEL,
        ranges::{InputRange, RowRange},
        tile_config,
    },
    model::spec::Activation,
};

/// `activation(gate · x) * (up · x)`, rounded to bf16.
pub(in crate::backend::cpu::kernels) struct GatedProduct<'a> {
    /// Has AMX, as [`Self::new`] has checked.
    isa: Isa,
    x: &'a Bf16Rows,
    activation: Activation,
    out: RunSlices<'a>,
    /// Outputs of a row.
    outputs: usize,
}

impl<'a> GatedProduct<'a> {
    /// A product with `outputs` outputs for each row of `x`, which [`Self::run_panel`] writes to `out`.
    ///
    /// # Panics
    /// Where the processor has no AMX.
    pub(in crate::backend::cpu::kernels) fn new(
        isa: Isa,
        x: &'a Bf16Rows,
        activation: Activation,
        outputs: usize,
        out: &'a mut Bf16Rows,
    ) -> Self {
        assert!(isa.0 == IsaKind::Amx);
        Self {
            isa,
            x,
            activation,
            out: out.resize_for_tiles(x.rows(), outputs),
            outputs,
        }
    }

    /// Computes panel `panel` of the outputs, for some rows. `sources` are the panels of weights of the gate and of
    /// up that give these outputs.
    ///
    /// # Safety
    /// While this runs nobody else accesses these outputs of these rows, nor of the other rows of their tiles.
    ///
    /// # Panics
    /// When the rows do not exist or do not begin at a tile, or sizes differ.
    pub(in crate::backend::cpu::kernels) unsafe fn run_panel(
        &self,
        rows: RowRange,
        panel: usize,
        sources: [MatrixPanel<'_>; 2],
        scratch: &mut Bf16Scratch,
    ) {
        let RowRange { first, count } = rows;
        let cols = self.x.cols();
        assert!(first.is_multiple_of(TILE_ROWS) && first + count <= self.x.rows());
        assert!(sources.iter().all(|source| source.matrix.cols() == cols));
        let depth = depth(cols);
        let len = count.next_multiple_of(ROW_BLOCK);
        let (gate_sums, up_sums) = scratch_slice(&mut scratch.sums, 2 * len).split_at_mut(len);
        // SAFETY: `IsaKind::Amx` stands for AMX-BF16 and the system's grant of tile data.
        unsafe { const { shapes(ROW_BLOCK) }.load() };
        for k in (0..cols).step_by(depth) {
            let inputs = InputRange {
                first: k,
                count: depth.min(cols - k),
            };
            let strip_len = inputs.count.div_ceil(RUN) * STRIP_RUN;
            let pairs = scratch_slice(&mut scratch.pairs, 4 * strip_len);
            for (pairs, source) in pairs.chunks_exact_mut(2 * strip_len).zip(sources) {
                let (first, second) = pairs.split_at_mut(strip_len);
                let mut pairs = PanelPairs {
                    strips: [first, second],
                };
                // SAFETY: `new` has checked that `self.isa` is `IsaKind::Amx`, which `Isa::available` makes only
                // where it has found AVX-512 F, BW, VBMI and BF16.
                unsafe { expand_panel(self.isa, source, inputs, &mut scratch.expanded, &mut pairs) };
            }
            let weights_at = |at: usize| RunWeights {
                first_run: k / RUN,
                strips: [&pairs[at..][..strip_len], &pairs[at + strip_len..][..strip_len]],
            };
            let (gate, up) = (weights_at(0), weights_at(2 * strip_len));
            let output = if k == 0 { Output::Replace } else { Output::Add };
            // SAFETY: `IsaKind::Amx` stands for AMX-BF16 and the system's grant of tile data. The registers are shaped for
            // whole tiles.
            unsafe {
                multiply(self.x, rows, gate, gate_sums, output);
                multiply(self.x, rows, up, up_sums, output);
            }
        }
        // SAFETY: `IsaKind::Amx` stands for AVX-512 F and BF16. The caller keeps these outputs to this call, for all rows of
        // their tiles.
        unsafe { self.join(first, panel, &gate_sums[..count], &up_sums[..count]) };
        // SAFETY: `IsaKind::Amx` stands for AMX and the system's grant of tile data.
        unsafe { tile_config::release() };
    }

    /// Joins the complete sums of a panel and of some rows, the first of which is `row` and begins a tile. Doing so after each
    /// block of rows, while its sums are in the first-level cache, would take weights from there: 8 % slower with 256 rows.
    ///
    /// # Safety
    /// While this runs nobody else accesses these outputs of these rows' tiles. The processor has AVX-512 F and BF16.
    unsafe fn join(&self, row: usize, panel: usize, gate: &[RowSums], up: &[RowSums]) {
        let width = PANEL.min(self.outputs - panel * PANEL);
        let mut values = [0.0; PANEL];
        for (tile, (gate, up)) in gate.chunks(TILE_ROWS).zip(up.chunks(TILE_ROWS)).enumerate() {
            let (row, run) = (row + tile * TILE_ROWS, panel * PANEL / RUN);
            // SAFETY: the caller keeps the panel's runs of this tile of rows to this call, and vouches for the
            // processor. The slice ends with the block.
            unsafe {
                let out = self.out.tile(row, run, width.div_ceil(RUN));
                for (index, (RowSums(gate), RowSums(up))) in gate.iter().zip(up).enumerate() {
                    self.activation.gate(self.isa, gate, up, &mut values);
                    round_row(&values[..width], out[index..].iter_mut().step_by(TILE_ROWS));
                }
            }
        }
    }
}
