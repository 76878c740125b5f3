//! Norms, rotary embedding, gating and the exponential they share.

use super::{Isa, ThreadPool, isa::per_isa, pool::Shards};

/// Rows of activations that one task takes.
const ROWS_PER_TASK: usize = 16;

/// Partial sums of a reduction: lane `j` takes elements `j`, `j + 16`, … in order, then lanes are added in
/// pairs. The order depends on the length only.
const LANES: usize = 16;

/// e^x for x <= 88 in f32, relative error below 2e-7; 0 below -87.3. A degree-6 polynomial after reduction
/// by ln 2 (Cody and Waite), in plain operations so that every instruction set gives the same bits.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    let clamped = x.clamp(-87.3, 88.3);
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = n.mul_add(-0.693_145_75, clamped);
    let r = n.mul_add(-1.428_606_8e-6, r);
    let p = 1.388_888_9e-3f32;
    let p = p.mul_add(r, 8.333_334e-3);
    let p = p.mul_add(r, 4.166_666_7e-2);
    let p = p.mul_add(r, 0.166_666_67);
    let p = p.mul_add(r, 0.5);
    let p = p.mul_add(r, 1.0);
    let p = p.mul_add(r, 1.0);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    let result = p * power;
    if x < -87.3 { 0.0 } else { result }
}

#[inline(always)]
fn add_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for j in 0..width {
            lanes[j] += lanes[j + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = v.mul_add(*v, *lane);
        }
    }
    for (lane, v) in lanes.iter_mut().zip(rest) {
        *lane = v.mul_add(*v, *lane);
    }
    add_lanes(lanes)
}

/// Root-mean-square norm (arXiv 1910.07467) of each row: `x / sqrt(mean(x²) + eps) * weight`.
///
/// `x` and `out` are `[m, weight.len()]`.
pub fn rms_norm(pool: &mut ThreadPool, isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    let m = x.len() / width;
    let shards = Shards::new(out);
    pool.run(m.div_ceil(ROWS_PER_TASK), &|task| {
        let first = task * ROWS_PER_TASK;
        let rows = ROWS_PER_TASK.min(m - first);
        // SAFETY: tasks take disjoint rows.
        let out = unsafe { shards.part(first * width, rows * width) };
        norm_rows(isa, &x[first * width..][..rows * width], weight, eps, out);
    });
}

per_isa! {
    fn norm_rows(isa; x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let width = weight.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let scale = 1.0 / (sum_of_squares(x) / width as f32 + eps).sqrt();
            for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                *out = x * scale * w;
            }
        }
    }
}

/// `out = silu(gate) * up` with `gate_up` as `[m, gate | up]` and `out` as `[m, width]`.
pub fn silu_mul(pool: &mut ThreadPool, isa: Isa, gate_up: &[f32], width: usize, out: &mut [f32]) {
    let m = out.len() / width;
    let shards = Shards::new(out);
    pool.run(m.div_ceil(ROWS_PER_TASK), &|task| {
        let first = task * ROWS_PER_TASK;
        let rows = ROWS_PER_TASK.min(m - first);
        // SAFETY: tasks take disjoint rows.
        let out = unsafe { shards.part(first * width, rows * width) };
        silu_rows(isa, &gate_up[first * 2 * width..][..rows * 2 * width], width, out);
    });
}

per_isa! {
    fn silu_rows(isa; gate_up: &[f32], width: usize, out: &mut [f32]) {
        for (row, out) in gate_up.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
            let (gate, up) = row.split_at(width);
            for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                *out = gate / (1.0 + exp(-gate)) * up;
            }
        }
    }
}

/// Adds `bias` to each row of `x`.
pub fn add_bias(x: &mut [f32], bias: &[f32]) {
    for row in x.chunks_exact_mut(bias.len()) {
        for (x, b) in row.iter_mut().zip(bias) {
            *x += b;
        }
    }
}

/// How a model pairs the dimensions of a head for rotary embedding (arXiv 2104.09864).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeStyle {
    /// Neighbours `(0, 1), (2, 3), …`: the paper's, and GGUF's for the llama architecture.
    Interleaved,
    /// Halves `(0, d/2), (1, d/2 + 1), …`: Hugging Face checkpoints.
    Halves,
}

/// Rotates one head in place; `cos` and `sin` are `head.len() / 2` long.
pub fn rope(head: &mut [f32], cos: &[f32], sin: &[f32], style: RopeStyle) {
    let half = cos.len();
    match style {
        RopeStyle::Interleaved => {
            for ((pair, c), s) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                let (a, b) = (pair[0], pair[1]);
                pair[0] = a.mul_add(*c, -(b * s));
                pair[1] = b.mul_add(*c, a * s);
            }
        }
        RopeStyle::Halves => {
            let (first, second) = head.split_at_mut(half);
            for (((a, b), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                let (x, y) = (*a, *b);
                *a = x.mul_add(*c, -(y * s));
                *b = y.mul_add(*c, x * s);
            }
        }
    }
}

per_isa! {
    /// Softmax numerators in place over `scores`, and their sum in `sum[0]`.
    pub(super) fn softmax_numerators(isa; scores: &mut [f32], sum: &mut [f32; 1]) {
        let mut tops = [f32::NEG_INFINITY; LANES];
        for chunk in scores.chunks(LANES) {
            for (top, score) in tops.iter_mut().zip(chunk) {
                *top = if *score > *top { *score } else { *top };
            }
        }
        let mut top = tops[0];
        for lane in &tops[1..] {
            top = if *lane > top { *lane } else { top };
        }
        let mut lanes = [0f32; LANES];
        for chunk in scores.chunks_mut(LANES) {
            for (lane, score) in lanes.iter_mut().zip(chunk) {
                *score = exp(*score - top);
                *lane += *score;
            }
        }
        sum[0] = add_lanes(lanes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_f64() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < 3e-7, "exp({x}): relative error {error}");
            x += 0.0137;
        }
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let x: Vec<f32> = (0..3 * 75)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) / 9.0)
            .collect();
        let weight: Vec<f32> = (0..75).map(|i| 1.0 + i as f32 / 100.0).collect();
        let mut pool = ThreadPool::new(1).unwrap();
        let mut results = Vec::new();
        for isa in Isa::available() {
            let mut normed = vec![0.0; x.len()];
            rms_norm(&mut pool, isa, &x, &weight, 1e-5, &mut normed);
            let mut gated = vec![0.0; 2 * 53];
            silu_mul(&mut pool, isa, &x[..4 * 53], 53, &mut gated);
            let (mut scores, mut sum) = (x[..133].to_vec(), [0.0]);
            softmax_numerators(isa, &mut scores, &mut sum);
            let all = normed.iter().chain(&gated).chain(&scores).chain(&sum);
            results.push(all.map(|v| v.to_bits()).collect::<Vec<_>>());
        }
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn both_rope_styles_rotate_the_same_pairs() {
        let (cos, sin) = ([0.6, 0.8], [0.8, 0.6]);
        let (mut interleaved, mut halves) = ([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0]);
        rope(&mut interleaved, &cos, &sin, RopeStyle::Interleaved);
        rope(&mut halves, &cos, &sin, RopeStyle::Halves);
        assert_eq!(interleaved, [halves[0], halves[2], halves[1], halves[3]]);
        assert_eq!(interleaved[0], 1.0f32.mul_add(0.6, -(2.0 * 0.8)));
    }
}
