//! The same operations in vectors.

use super::{
    Bf16Rows, Bf16Scratch, RUN,
    round::{round, widen},
};
use crate::backend::cpu::kernels::{
    Isa, Output, PackedMatrix,
    buffers::sized,
    int8::Target,
    isa::per_isa,
    micro::{self, LANES, NARROW_ROWS, Tile, WIDE_ROWS},
    packed::PANEL,
};

/// Inputs that are expanded at a time: their weights fit the first-level cache.
const DEPTH: usize = 128;

/// # Safety
/// As [`super::product`].
///
/// # Panics
/// As [`super::product`].
pub(super) unsafe fn product(
    isa: Isa,
    x: &Bf16Rows,
    (first, count): (usize, usize),
    (matrix, panel): (&PackedMatrix, usize),
    scratch: &mut Bf16Scratch,
    c: Target,
) {
    for k in (0..x.cols()).step_by(DEPTH) {
        let inputs = DEPTH.min(x.cols() - k);
        let weights = matrix.tile(isa, panel, k, inputs, &mut scratch.expanded);
        let parted = sized(&mut scratch.parted, inputs.next_multiple_of(RUN) * PANEL);
        part(isa, weights, parted);
        for (index, w) in parted.chunks_exact(RUN * PANEL).enumerate() {
            let at = k + index * RUN;
            let output = if at == 0 { c.output } else { Output::Add };
            // SAFETY: by the caller's promise.
            unsafe { run(isa, x, (first, count), (at, w), Target { output, ..c }) };
        }
    }
}

/// Adds the products of one run of inputs, which begins at `at`.
///
/// # Safety
/// As [`super::product`].
unsafe fn run(isa: Isa, x: &Bf16Rows, (first, count): (usize, usize), (at, w): (usize, &[f32]), c: Target) {
    for row in (0..count).step_by(WIDE_ROWS) {
        let operands = RunTile {
            a: x.values(first + row)[at..].as_ptr(),
            a_stride: x.stride(),
            w: w.as_ptr(),
            w_stride: PANEL,
        };
        // SAFETY: rows and weights hold whole runs, the target so many rows.
        unsafe {
            let c = Target {
                at: c.at.add(row * c.stride),
                ..c
            };
            run_product(isa, (WIDE_ROWS.min(count - row), PANEL / LANES), &operands, c);
        }
    }
}

/// Operands of one run, rounded.
pub(in crate::backend::cpu::kernels) struct RunTile {
    /// `[rows][even, odd][RUN / 2]`, rows `a_stride` apart.
    pub a: *const f32,
    pub a_stride: usize,
    /// `[even, odd][RUN / 2][width]`, inputs `w_stride` apart.
    pub w: *const f32,
    pub w_stride: usize,
}

/// The products of one run, for `rows` rows of `vectors * LANES` outputs.
///
/// # Safety
/// Operands and target hold so many rows and outputs, which the target does not share with the operands. There are as
/// many as [`micro::run`] takes.
pub(in crate::backend::cpu::kernels) unsafe fn run_product(
    isa: Isa,
    (rows, vectors): (usize, usize),
    operands: &RunTile,
    c: Target,
) {
    const MOST: usize = if WIDE_ROWS * 4 > NARROW_ROWS {
        WIDE_ROWS * 4
    } else {
        NARROW_ROWS
    };
    let width = vectors * LANES;
    let mut sums = [[0f32; MOST * LANES]; 2];
    for (odd, sums) in sums.iter_mut().enumerate() {
        // SAFETY: by the caller's promise; there is room for the sums of so many rows and vectors.
        unsafe {
            let tile = Tile {
                a: operands.a.add(odd * RUN / 2),
                a_stride: operands.a_stride,
                w: operands.w.add(odd * RUN / 2 * operands.w_stride),
                w_stride: operands.w_stride,
                c: sums.as_mut_ptr(),
                c_stride: width,
                output: Output::Replace,
                k: RUN / 2,
            };
            micro::run(isa, rows, vectors, &tile);
        }
    }
    let [even, odd] = &sums;
    let sums = even.chunks_exact(width).zip(odd.chunks_exact(width));
    for (row, (even, odd)) in sums.take(rows).enumerate() {
        // SAFETY: a row of the target.
        let c_row = unsafe { std::slice::from_raw_parts_mut(c.at.add(row * c.stride), width) };
        add(isa, even, odd, c.output, c_row);
    }
}

per_isa! {
    fn add(isa; even: &[f32], odd: &[f32], output: Output, c: &mut [f32]) {
        for ((c, even), odd) in c.iter_mut().zip(even).zip(odd) {
            let before = if output == Output::Replace { 0.0 } else { *c };
            *c = before + (even + odd);
        }
    }
}

per_isa! {
    /// Rounds a panel's inputs, `[inputs][PANEL]`, to `[run][even or odd][RUN / 2][PANEL]`, filled up with zeros.
    fn part(isa; weights: &[f32], out: &mut [f32]) {
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
