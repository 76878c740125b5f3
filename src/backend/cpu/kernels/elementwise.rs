//! Rotary embedding, gating, soft caps and the exponential they share.

use super::{Activation, Isa, RopeStyle, ThreadPool, isa::per_isa, pool::DisjointSlices};

/// Rows of activations that one task takes.
pub(super) const ROWS_PER_TASK: usize = 16;

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

/// tanh in f32, absolute error below 2e-7, in plain operations as [`exp`]. A polynomial near 0 (Cephes), where
/// the quotient of exponentials would lose digits.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let magnitude = x.abs();
    let square = x * x;
    let p = -5.704_988e-3f32;
    let p = p.mul_add(square, 2.063_908_8e-2);
    let p = p.mul_add(square, -5.373_971_5e-2);
    let p = p.mul_add(square, 0.133_314_44);
    let p = p.mul_add(square, -0.333_332_8);
    let small = x * p.mul_add(square, 1.0);
    let large = 1.0 - 2.0 / (exp(2.0 * magnitude) + 1.0);
    if magnitude < 0.625 {
        small
    } else {
        large.copysign(x)
    }
}

#[inline(always)]
pub(super) fn add_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for j in 0..width {
            lanes[j] += lanes[j + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Lanes of the sum of `x`.
#[inline(always)]
pub(super) fn sum(x: &[f32]) -> [f32; LANES] {
    let mut lanes = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += v;
        }
    }
    for (lane, v) in lanes.iter_mut().zip(rest) {
        *lane += v;
    }
    lanes
}

/// Lanes of the sum of the squares of `x - mean`.
#[inline(always)]
pub(super) fn sum_of_squares(x: &[f32], mean: f32) -> [f32; LANES] {
    let mut lanes = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            let v = v - mean;
            *lane = v.mul_add(v, *lane);
        }
    }
    for (lane, v) in lanes.iter_mut().zip(rest) {
        let v = v - mean;
        *lane = v.mul_add(v, *lane);
    }
    lanes
}

impl Activation {
    /// Applies it to each row of `x` (`[m, width]`) in place: a feed-forward part without a gate.
    pub fn apply(self, pool: &mut ThreadPool, isa: Isa, x: &mut [f32], width: usize) {
        let m = x.len() / width;
        let slices = DisjointSlices::new(x);
        pool.run_parts(m, ROWS_PER_TASK, &|rows| {
            // SAFETY: tasks take disjoint rows.
            let x = unsafe { slices.part(rows.start * width, rows.len() * width) };
            match self {
                Self::Silu => silu_all(isa, x),
                Self::Gelu => gelu_all(isa, x),
                Self::GeluTanh => gelu_tanh_all(isa, x),
            }
        });
    }

    /// `out = activation(gate) * up`.
    pub(super) fn gate(self, isa: Isa, gate: &[f32], up: &[f32], out: &mut [f32]) {
        match self {
            Self::Silu => silu_gate(isa, gate, up, out),
            Self::Gelu => gelu_gate(isa, gate, up, out),
            Self::GeluTanh => gelu_tanh_gate(isa, gate, up, out),
        }
    }
}

/// `out = activation(gate) * up` with `gate_up` as `[m, gate | up]` and `out` as `[m, width]`.
pub fn gate(
    pool: &mut ThreadPool,
    isa: Isa,
    activation: Activation,
    gate_up: &[f32],
    width: usize,
    out: &mut [f32],
) {
    let m = out.len() / width;
    let slices = DisjointSlices::new(out);
    pool.run_parts(m, ROWS_PER_TASK, &|rows| {
        // SAFETY: tasks take disjoint rows.
        let out = unsafe { slices.part(rows.start * width, rows.len() * width) };
        let gate_up = &gate_up[rows.start * 2 * width..rows.end * 2 * width];
        for (row, out) in gate_up.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
            let (gate, up) = row.split_at(width);
            activation.gate(isa, gate, up, out);
        }
    });
}

per_isa! {
    fn silu_gate(isa; gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = silu(*gate) * up;
        }
    }
}

per_isa! {
    fn silu_all(isa; x: &mut [f32]) {
        for x in x {
            *x = silu(*x);
        }
    }
}

per_isa! {
    pub(super) fn gelu_all(isa; x: &mut [f32]) {
        for x in x {
            *x = gelu(*x);
        }
    }
}

per_isa! {
    fn gelu_tanh_all(isa; x: &mut [f32]) {
        for x in x {
            *x = gelu_tanh(*x);
        }
    }
}

/// See [`Activation::Silu`].
#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// See [`Activation::Gelu`].
#[inline(always)]
fn gelu(x: f32) -> f32 {
    // Half the complementary error function of |x| / √2, by Abramowitz and Stegun's 7.1.26 (error below 1e-7):
    // the tail of the normal distribution, with all its digits.
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / 0.327_591_1f32.mul_add(z, 1.0);
    let p = 0.530_702_7f32;
    let p = p.mul_add(t, -0.726_576);
    let p = p.mul_add(t, 0.710_706_9);
    let p = p.mul_add(t, -0.142_248_37);
    let p = p.mul_add(t, 0.127_414_8);
    let tail = p * t * exp(-z * z);
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

/// See [`Activation::GeluTanh`].
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    // 2 * sqrt(2 / pi): with it, x/2 * (1 + tanh(y)) is x / (1 + e^(-2y)).
    const FACTOR: f32 = 1.595_769;
    let inner = (x * x * 0.044_715).mul_add(x, x);
    x / (1.0 + exp(-FACTOR * inner))
}

per_isa! {
    fn gelu_gate(isa; gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gelu(*gate) * up;
        }
    }
}

per_isa! {
    fn gelu_tanh_gate(isa; gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gelu_tanh(*gate) * up;
        }
    }
}

per_isa! {
    /// `cap * tanh(x / cap)` in place (arXiv 2408.00118).
    pub fn soft_cap(isa; x: &mut [f32], cap: f32) {
        for x in x {
            *x = cap * tanh(*x / cap);
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

per_isa! {
    /// Rotates heads of one row in place: of each its first `2 * cos.len()` dimensions; those after them stay
    /// as they are.
    pub(super) fn rope_heads(
        isa; heads: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32], style: RopeStyle,
    ) {
        for head in heads.chunks_exact_mut(head_dim) {
            rope(head, cos, sin, style);
        }
    }
}

#[inline(always)]
fn rope(head: &mut [f32], cos: &[f32], sin: &[f32], style: RopeStyle) {
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
    /// Softmax numerators in place over `scores`; their sum, and the score that each was taken from.
    pub(super) fn softmax_numerators(isa; scores: &mut [f32], total_and_top: &mut [f32; 2]) {
        let mut tops = [f32::NEG_INFINITY; LANES];
        let larger = |top: &mut f32, score: f32| *top = if score > *top { score } else { *top };
        // Whole vectors and the rest apart: loops of unknown length would not become vector instructions.
        let (chunks, rest) = scores.as_chunks::<LANES>();
        for chunk in chunks {
            for lane in 0..LANES {
                larger(&mut tops[lane], chunk[lane]);
            }
        }
        for (top, &score) in tops.iter_mut().zip(rest) {
            larger(top, score);
        }
        let mut top = tops[0];
        for &lane in &tops[1..] {
            larger(&mut top, lane);
        }
        let mut lanes = [0f32; LANES];
        let (chunks, rest) = scores.as_chunks_mut::<LANES>();
        for chunk in chunks {
            for lane in 0..LANES {
                chunk[lane] = exp(chunk[lane] - top);
                lanes[lane] += chunk[lane];
            }
        }
        for (lane, score) in lanes.iter_mut().zip(rest) {
            *score = exp(*score - top);
            *lane += *score;
        }
        *total_and_top = [add_lanes(lanes), top];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::kernels::COARSER;

    #[test]
    fn exp_is_close_to_f64() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < 3e-7, "exp({x}): relative error {error}");
            x += 0.0137 * COARSER as f32;
        }
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_close_to_f64() {
        let mut x = -12.0f32;
        while x < 12.0 {
            let error = (f64::from(tanh(x)) - f64::from(x).tanh()).abs();
            assert!(error < 2e-7, "tanh({x}): off by {error}");
            x += 0.0037 * COARSER as f32;
        }
        for small in [0.0, -0.0, 1e-30] {
            assert_eq!(tanh(small).to_bits(), f32::to_bits(small));
        }
        for (large, limit) in [(1e30, 1.0), (-1e30, -1.0), (f32::INFINITY, 1.0)] {
            assert_eq!(tanh(large), limit);
        }
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn gates_equal_their_definitions() {
        let x: Vec<f32> = (-60..60).map(|i| i as f32 / 5.0).collect();
        let both: Vec<f32> = x.iter().copied().chain(x.iter().map(|_| 1.5)).collect();
        let mut pool = ThreadPool::new(1).unwrap();
        let mut check = |activation, definition: &dyn Fn(f64) -> f64| {
            let mut out = vec![0.0; x.len()];
            gate(&mut pool, Isa::detect(), activation, &both, x.len(), &mut out);
            for (x, out) in x.iter().zip(out) {
                let expected = definition((*x).into()) * 1.5;
                assert!((f64::from(out) - expected).abs() < 2e-6, "{x}: {out} {expected}");
            }
            let mut alone = x.clone();
            activation.apply(&mut pool, Isa::detect(), &mut alone, 10);
            for (x, out) in x.iter().zip(alone) {
                assert!(
                    (f64::from(out) - definition((*x).into())).abs() < 2e-6,
                    "{x}: {out}"
                );
            }
        };
        check(Activation::Silu, &|x| x / (1.0 + (-x).exp()));
        let inner = |x: f64| (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        check(Activation::GeluTanh, &|x| x / 2.0 * (1.0 + inner(x).tanh()));
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let x: Vec<f32> = (0..3 * 75)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) / 9.0)
            .collect();
        let mut pool = ThreadPool::new(1).unwrap();
        let mut results = Vec::new();
        for isa in Isa::available() {
            let (mut silu, mut gelu) = (vec![0.0; 2 * 53], vec![0.0; 2 * 53]);
            gate(&mut pool, isa, Activation::Silu, &x[..4 * 53], 53, &mut silu);
            gate(&mut pool, isa, Activation::GeluTanh, &x[..4 * 53], 53, &mut gelu);
            let mut alone = [x.clone(), x.clone()];
            Activation::Silu.apply(&mut pool, isa, &mut alone[0], 75);
            Activation::GeluTanh.apply(&mut pool, isa, &mut alone[1], 75);
            let (mut scores, mut sum) = (x[..133].to_vec(), [0.0; 2]);
            softmax_numerators(isa, &mut scores, &mut sum);
            let mut capped = x.clone();
            soft_cap(isa, &mut capped, 2.5);
            let all = silu.iter().chain(&gelu).chain(&scores).chain(&sum).chain(&capped);
            let all = all.chain(alone.iter().flatten());
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
        // Fewer angles than pairs: the dimensions after the rotated ones stay.
        let (mut partly, mut whole) = ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0]);
        rope(&mut partly, &cos[..1], &sin[..1], RopeStyle::Halves);
        rope(&mut whole, &cos[..1], &sin[..1], RopeStyle::Halves);
        assert_eq!(partly, [whole[0], whole[1], 3.0, 4.0]);
    }
}
