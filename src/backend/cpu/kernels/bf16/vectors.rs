//! Products in vectors of f32, in the order of operations of the tiles: for processors without AMX.

use super::{
    layout::{RUN, RUN_PAIRS},
    round::{round, widen},
    rows::Bf16Rows,
    scratch::Bf16Scratch,
};
use crate::backend::cpu::kernels::{
    buffers::scratch_slice,
    isa::{Isa, per_isa},
    micro::{self, LANES, MOST_VECTORS, NARROW_ROWS, Tile, TileSize, WIDE_ROWS},
    output::{Output, OutputTile},
    packed::MatrixPanel,
    panel::PANEL,
    ranges::{InputRange, RowRange},
};

/// Inputs that are expanded at a time: their weights fit the first-level cache.
const DEPTH: usize = 128;

/// `c[i][j] = x[rows.first + i] · w[j]`, or added to it, for a panel's outputs.
///
/// # Safety
/// `c` is readable and writable for `rows.count` rows of a panel's outputs, and while this runs nobody else accesses
/// those.
///
/// # Panics
/// When the rows do not exist or have not as many inputs as the matrix.
pub(super) unsafe fn product(
    isa: Isa,
    x: &Bf16Rows,
    rows: RowRange,
    panel: MatrixPanel<'_>,
    scratch: &mut Bf16Scratch,
    c: OutputTile,
) {
    for k in (0..x.cols()).step_by(DEPTH) {
        let inputs = InputRange {
            first: k,
            count: DEPTH.min(x.cols() - k),
        };
        let weights = panel.expanded(isa, inputs, &mut scratch.expanded);
        let padded = inputs.count.next_multiple_of(RUN);
        let deinterleaved = scratch_slice(&mut scratch.deinterleaved, padded * PANEL);
        deinterleave_panel(isa, weights, deinterleaved);
        for (index, w) in deinterleaved.chunks_exact(RUN * PANEL).enumerate() {
            let run = k / RUN + index;
            let output = if run == 0 { c.output } else { Output::Add };
            // SAFETY: the caller vouches for `c`, which `add_run` asks for.
            unsafe { add_run(isa, x, rows, WeightRun { run, w }, OutputTile { output, ..c }) };
        }
    }
}

/// A run of a panel's weights.
#[derive(Clone, Copy)]
struct WeightRun<'a> {
    /// Index of the run.
    run: usize,
    /// `[even, odd][RUN_PAIRS][PANEL]`
    w: &'a [f32],
}

/// Adds the products of one run of inputs.
///
/// # Safety
/// What [`product`] asks for.
unsafe fn add_run(isa: Isa, x: &Bf16Rows, rows: RowRange, weights: WeightRun<'_>, c: OutputTile) {
    let RowRange { first, count } = rows;
    for row in (0..count).step_by(WIDE_ROWS) {
        let operands = RunTile {
            a: x.values(first + row)[weights.run * RUN..].as_ptr(),
            a_stride: x.stride(),
            w: weights.w.as_ptr(),
            w_stride: PANEL,
        };
        let size = TileSize {
            rows: WIDE_ROWS.min(count - row),
            vectors: PANEL / LANES,
        };
        // SAFETY: `x` holds rows `first + row..`, `size.rows` of which are below `rows.count` and have this run; `w`
        // is a whole run of a panel. Rows `row..row + size.rows` of `c` are the caller's.
        unsafe { multiply_run(isa, size, &operands, c.rows_from(row)) };
    }
}

/// Operands of one run, rounded to bf16 but as f32.
pub(in crate::backend::cpu::kernels) struct RunTile {
    /// `[rows][even, odd][RUN_PAIRS]`, rows `a_stride` apart.
    pub a: *const f32,
    /// Elements from one row of `a` to the next.
    pub a_stride: usize,
    /// `[even, odd][RUN_PAIRS][width]`, inputs `w_stride` apart.
    pub w: *const f32,
    /// Elements from one input of `w` to the next.
    pub w_stride: usize,
}

/// The products of one run, for `size.rows` rows of `size.vectors * LANES` outputs.
///
/// # Safety
/// With the width `size.vectors * LANES`: `a` is readable for `size.rows` rows of [`RUN`] elements, `w` for [`RUN`]
/// inputs of the width, and `c` readable and writable for `size.rows` rows of the width. While this runs nobody else
/// accesses that part of `c`, and it overlaps neither of the others.
///
/// # Panics
/// When there is no micro tile of this size.
pub(in crate::backend::cpu::kernels) unsafe fn multiply_run(
    isa: Isa,
    size: TileSize,
    operands: &RunTile,
    c: OutputTile,
) {
    /// Vectors of sums of the largest micro tile.
    const MOST: usize = if WIDE_ROWS * MOST_VECTORS > NARROW_ROWS {
        WIDE_ROWS * MOST_VECTORS
    } else {
        NARROW_ROWS
    };
    let width = size.vectors * LANES;
    let mut sums = [[0f32; MOST * LANES]; 2];
    for (odd, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the even or the odd half of the run's inputs, `RUN_PAIRS` of them, is inside of what the caller
        // vouches for. `sums` has `MOST` vectors, at least `size.rows * size.vectors` of any micro tile, and overlaps
        // no operand.
        unsafe {
            let tile = Tile {
                a: operands.a.add(odd * RUN_PAIRS),
                a_stride: operands.a_stride,
                w: operands.w.add(odd * RUN_PAIRS * operands.w_stride),
                w_stride: operands.w_stride,
                c: sums.as_mut_ptr(),
                c_stride: width,
                output: Output::Replace,
                k: RUN_PAIRS,
            };
            micro::run(isa, size, &tile);
        }
    }
    let [even, odd] = &sums;
    let sums = even.chunks_exact(width).zip(odd.chunks_exact(width));
    for (row, (even, odd)) in sums.take(size.rows).enumerate() {
        // SAFETY: `row < size.rows`, so the caller vouches for `width` outputs of this row of `c`, which nobody else
        // accesses.
        let c_row = unsafe { std::slice::from_raw_parts_mut(c.start.add(row * c.stride), width) };
        add_chains(isa, even, odd, c.output, c_row);
    }
}

per_isa! {
    /// Adds the sum of both chains to `c`, or replaces it.
    fn add_chains(isa; even: &[f32], odd: &[f32], output: Output, c: &mut [f32]) {
        for ((c, even), odd) in c.iter_mut().zip(even).zip(odd) {
            let before = if output == Output::Replace { 0.0 } else { *c };
            *c = before + (even + odd);
        }
    }
}

per_isa! {
    /// Rounds a panel's inputs, `[inputs][PANEL]`, into runs of `[even, odd][RUN_PAIRS][PANEL]`, the last filled up
    /// with zeros.
    fn deinterleave_panel(isa; weights: &[f32], out: &mut [f32]) {
        for (weights, out) in weights.chunks(RUN * PANEL).zip(out.chunks_exact_mut(RUN * PANEL)) {
            for (index, out) in out.chunks_exact_mut(PANEL).enumerate() {
                let input = 2 * index % RUN + 2 * index / RUN;
                match weights.get(input * PANEL..(input + 1) * PANEL) {
                    Some(weights) => {
                        for (out, weight) in out.iter_mut().zip(weights) {
                            *out = widen(round(*weight));
                        }
                    }
                    None => out.fill(0.0),
                }
            }
        }
    }
}
