//! Products of a gate and of what it lets through, joined where their sums are.

use super::{
    Bf16Rows, Bf16Scratch, RUN, TILE_ROWS,
    amx::{ROWS, shapes},
    expand,
    rows::RunSlices,
    tiles::{HALF, Halves, RowSums, depth, expand_to, multiply},
};
use crate::backend::cpu::kernels::{
    Activation, Isa, Output, PackedMatrix, buffers::sized, isa::IsaKind, packed::PANEL, tile_config,
};

/// A matrix and one of its panels.
pub(in crate::backend::cpu::kernels) type Panel<'a> = (&'a PackedMatrix, usize);

/// `activation(gate · x) * (up · x)`, rounded to bf16 rows.
pub(in crate::backend::cpu::kernels) struct GatedProduct<'a> {
    isa: Isa,
    x: &'a Bf16Rows,
    activation: Activation,
    out: RunSlices<'a>,
    outputs: usize,
}

impl<'a> GatedProduct<'a> {
    /// A product with so many outputs for each row of `x`, which [`Self::panels`] writes to `out`.
    ///
    /// # Panics
    /// Where the processor has no tiles.
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
            out: out.tiles(x.rows(), outputs),
            outputs,
        }
    }

    /// Computes the outputs `PANEL * panel..` of `count` rows from `first` on: the gate's are a panel, and so are the
    /// others.
    ///
    /// # Safety
    /// Nobody else has these outputs of these rows.
    ///
    /// # Panics
    /// When the first row does not begin a tile, or sizes differ.
    pub(in crate::backend::cpu::kernels) unsafe fn panels(
        &self,
        (first, count): (usize, usize),
        panel: usize,
        sources: [Panel<'_>; 2],
        scratch: &mut Bf16Scratch,
    ) {
        let cols = self.x.cols();
        assert!(first.is_multiple_of(ROWS) && first + count <= self.x.rows());
        assert!(sources.iter().all(|(matrix, _)| matrix.cols() == cols));
        let whole = count / TILE_ROWS * TILE_ROWS;
        let depth = depth(cols);
        let (gate_sums, up_sums) = sized(&mut scratch.sums, 2 * count).split_at_mut(count);
        for k in (0..cols).step_by(depth) {
            let inputs = depth.min(cols - k);
            let half = inputs.div_ceil(RUN) * HALF;
            let pairs = sized(&mut scratch.pairs, 4 * half);
            for (pairs, source) in pairs.chunks_exact_mut(2 * half).zip(sources) {
                let (first, second) = pairs.split_at_mut(half);
                let mut halves = Halves { first, second };
                let expanded = &mut scratch.expanded;
                // SAFETY: an `Isa` is only made for a processor that has its features.
                unsafe { expand_to(self.isa, source, (k, inputs), expanded, &mut halves) };
            }
            let (gate, up) = pairs.split_at(2 * half);
            let (gate, up) = (gate.split_at(half), up.split_at(half));
            let output = if k == 0 { Output::Replace } else { Output::Add };
            for row in (0..count).step_by(TILE_ROWS) {
                let rows = row..count.min(row + TILE_ROWS);
                let at = (first + row, k / RUN);
                // SAFETY: as above; the tiles are shaped for these rows; by the caller's promise.
                unsafe {
                    if row == whole {
                        shapes(count - whole).load();
                    } else if row == 0 {
                        const { shapes(TILE_ROWS) }.load();
                    }
                    multiply(self.x, at, [gate.0, gate.1], &mut gate_sums[rows.clone()], output);
                    multiply(self.x, at, [up.0, up.1], &mut up_sums[rows.clone()], output);
                    if k + inputs == cols {
                        self.join(first + row, panel, &gate_sums[rows.clone()], &up_sums[rows]);
                    }
                }
            }
        }
        // SAFETY: as above.
        unsafe { tile_config::release() };
    }

    /// Rounds what becomes of the sums of some rows, which begin a tile, and a panel.
    ///
    /// # Safety
    /// Nobody else has these outputs of these rows, and the processor has AVX-512 F and BF16.
    unsafe fn join(&self, row: usize, panel: usize, gate: &[RowSums], up: &[RowSums]) {
        let width = PANEL.min(self.outputs - panel * PANEL);
        let mut values = [0.0; PANEL];
        for (tile, (gate, up)) in gate.chunks(ROWS).zip(up.chunks(ROWS)).enumerate() {
            let (row, run) = (row + tile * ROWS, panel * PANEL / RUN);
            // SAFETY: by the caller's promise.
            unsafe {
                let out = self.out.tile(row, run, width.div_ceil(RUN));
                for (index, (RowSums(gate), RowSums(up))) in gate.iter().zip(up).enumerate() {
                    self.activation.gate(self.isa, gate, up, &mut values);
                    expand::row(&values[..width], out[index..].iter_mut().step_by(ROWS));
                }
            }
        }
    }
}
