//! The same operations in vectors.

use super::{
    Bf16Rows, Bf16Scratch, RUN,
    round::{round, widen},
};
use crate::kernels::{
    Isa, Output, PackedMatrix,
    buffers::sized,
    int8::Target,
    isa::per_isa,
    micro::{self, LANES, Tile, WIDE_ROWS},
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
    let mut sums = [[[0f32; PANEL]; WIDE_ROWS]; 2];
    for row in (0..count).step_by(WIDE_ROWS) {
        let rows = WIDE_ROWS.min(count - row);
        for ((odd, sums), w) in sums.iter_mut().enumerate().zip(w.chunks_exact(RUN / 2 * PANEL)) {
            let tile = Tile {
                a: x.values(first + row)[at + odd * RUN / 2..].as_ptr(),
                a_stride: x.stride(),
                w: w.as_ptr(),
                w_stride: PANEL,
                c: sums.as_mut_ptr().cast(),
                c_stride: PANEL,
                output: Output::Replace,
                k: RUN / 2,
            };
            // SAFETY: rows and weights hold whole runs, sums so many rows.
            unsafe { micro::run(isa, rows, PANEL / LANES, &tile) };
        }
        for (i, (even, odd)) in sums[0].iter().zip(&sums[1]).take(rows).enumerate() {
            // SAFETY: a row of the target.
            let c_row = unsafe { std::slice::from_raw_parts_mut(c.at.add((row + i) * c.stride), PANEL) };
            add(isa, even, odd, c.output, c_row);
        }
    }
}

per_isa! {
    fn add(isa; even: &[f32; PANEL], odd: &[f32; PANEL], output: Output, c: &mut [f32]) {
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
