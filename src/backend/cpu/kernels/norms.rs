//! Norms of rows and of heads.

use super::{
    compute::Compute,
    disjoint::DisjointSlices,
    elementwise::{ROWS_PER_TASK, add_lanes, sum, sum_of_squares},
    isa::per_isa,
    output::Output,
};
use crate::model::spec::NormKind;

/// A norm with its weights: `(x - mean) / sqrt(mean((x - mean)²) + eps) * weight + bias`, the mean being 0 for
/// [`NormKind::Rms`].
#[derive(Debug, Clone)]
pub struct Norm {
    /// Whether the mean is subtracted.
    pub kind: NormKind,
    /// Added to the variance, so that rows of zeros are not divided by 0.
    pub eps: f32,
    /// A weight for each element of a row.
    pub weight: Vec<f32>,
    /// A bias for each element of a row, where the model has them. Norms of heads have none.
    pub bias: Option<Vec<f32>>,
}

impl Norm {
    /// Writes the norm of each row of `x` to `out`, or adds it; both are `[m, weight.len()]`.
    pub fn apply(&self, compute: &mut Compute, x: &[f32], out: &mut [f32], output: Output) {
        let width = self.weight.len();
        let m = x.len() / width;
        let isa = compute.isa;
        let slices = DisjointSlices::new(out);
        compute.pool.run_parts(m, ROWS_PER_TASK, &|rows| {
            // SAFETY: `run_parts` gives each task other rows, and these elements are the rows' only.
            let out = unsafe { slices.part(rows.start * width, rows.len() * width) };
            norm_rows(isa, self, &x[rows.start * width..rows.end * width], out, output);
        });
    }

    /// Number of weights and biases, for estimates of memory.
    pub fn values(&self) -> usize {
        self.weight.len() + self.bias.as_ref().map_or(0, Vec::len)
    }

    /// Norms heads of `head_dim` elements in place, each by itself: in each row of `x` (`[m, stride]`) the first
    /// `weight.len() / head_dim` heads.
    pub fn apply_to_heads(&self, compute: &mut Compute, x: &mut [f32], stride: usize, head_dim: usize) {
        let m = x.len() / stride;
        let isa = compute.isa;
        let slices = DisjointSlices::new(x);
        compute.pool.run_parts(m, ROWS_PER_TASK, &|rows| {
            for row in rows {
                // SAFETY: `run_parts` gives each task other rows, and these elements are the row's only.
                let heads = unsafe { slices.part(row * stride, self.weight.len()) };
                norm_heads(isa, self, heads, head_dim);
            }
        });
    }

    /// The mean, which is subtracted from each element of `x`, and the factor that scales the difference.
    #[inline(always)]
    fn shift_and_scale(&self, x: &[f32]) -> (f32, f32) {
        let count = x.len() as f32;
        let mean = match self.kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => add_lanes(sum(x)) / count,
        };
        let variance = add_lanes(sum_of_squares(x, mean)) / count;
        (mean, 1.0 / (variance + self.eps).sqrt())
    }
}

per_isa! {
    fn norm_rows(isa; norm: &Norm, x: &[f32], out: &mut [f32], output: Output) {
        let width = norm.weight.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let (mean, scale) = norm.shift_and_scale(x);
            let values = x.iter().zip(&norm.weight).map(|(x, w)| (x - mean) * scale * w);
            match (output, &norm.bias) {
                (Output::Replace, None) => out.iter_mut().zip(values).for_each(|(out, v)| *out = v),
                (Output::Add, None) => out.iter_mut().zip(values).for_each(|(out, v)| *out += v),
                (Output::Replace, Some(bias)) => {
                    let values = values.zip(bias).map(|(v, b)| v + b);
                    out.iter_mut().zip(values).for_each(|(out, v)| *out = v);
                }
                (Output::Add, Some(bias)) => {
                    let values = values.zip(bias).map(|(v, b)| v + b);
                    out.iter_mut().zip(values).for_each(|(out, v)| *out += v);
                }
            }
        }
    }
}

per_isa! {
    fn norm_heads(isa; norm: &Norm, heads: &mut [f32], head_dim: usize) {
        for (x, weight) in heads.chunks_exact_mut(head_dim).zip(norm.weight.chunks_exact(head_dim)) {
            let (mean, scale) = norm.shift_and_scale(x);
            for (x, w) in x.iter_mut().zip(weight) {
                *x = (*x - mean) * scale * w;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::kernels::{isa::Isa, test_support::compute};

    fn waves(len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 % 101) as f32 - 40.0) / 9.0).collect()
    }

    fn norm(kind: NormKind, len: usize, biased: bool) -> Norm {
        let weight = (0..len).map(|i| 1.0 + i as f32 / 100.0).collect();
        Norm {
            kind,
            eps: 1e-5,
            weight,
            bias: biased.then(|| (0..len).map(|i| i as f32 / 10.0 - 2.0).collect()),
        }
    }

    fn textbook(norm: &Norm, x: &[f32], weight: &[f32]) -> Vec<f64> {
        let x: Vec<f64> = x.iter().map(|&v| v.into()).collect();
        let count = x.len() as f64;
        let mean = match norm.kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => x.iter().sum::<f64>() / count,
        };
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
        let divisor = (variance + f64::from(norm.eps)).sqrt();
        let normed = x.iter().zip(weight);
        normed
            .map(|(v, &w)| (v - mean) / divisor * f64::from(w))
            .collect()
    }

    fn assert_close(found: &[f32], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
        }
    }

    #[test]
    fn equals_the_textbook_on_every_instruction_set_to_the_bit() {
        let mut compute = compute(2, Isa::detect());
        let (rows, width, head_dim, stride) = (19, 75, 32, 110);
        for (kind, biased) in [
            (NormKind::Rms, false),
            (NormKind::Layer, false),
            (NormKind::Layer, true),
        ] {
            let (whole, heads) = (norm(kind, width, biased), norm(kind, 3 * head_dim, false));
            let (x, qkv) = (waves(rows * width), waves(rows * stride));
            let mut bits = Vec::new();
            for isa in Isa::available() {
                compute.isa = isa;
                let mut out = vec![f32::NAN; x.len()];
                whole.apply(&mut compute, &x, &mut out, Output::Replace);
                for (out, x) in out.chunks_exact(width).zip(x.chunks_exact(width)) {
                    let mut expected = textbook(&whole, x, &whole.weight);
                    let bias = whole.bias.iter().flatten();
                    expected
                        .iter_mut()
                        .zip(bias)
                        .for_each(|(v, b)| *v += f64::from(*b));
                    assert_close(out, &expected);
                }
                let mut added = x.clone();
                whole.apply(&mut compute, &x, &mut added, Output::Add);
                for ((added, out), x) in added.iter().zip(&out).zip(&x) {
                    assert_eq!(added.to_bits(), (x + out).to_bits());
                }
                let mut in_place = qkv.clone();
                heads.apply_to_heads(&mut compute, &mut in_place, stride, head_dim);
                for (found, before) in in_place.chunks_exact(stride).zip(qkv.chunks_exact(stride)) {
                    for first in (0..3 * head_dim).step_by(head_dim) {
                        let part = first..first + head_dim;
                        let expected = textbook(&heads, &before[part.clone()], &heads.weight[part.clone()]);
                        assert_close(&found[part], &expected);
                    }
                    assert_eq!(found[3 * head_dim..], before[3 * head_dim..]);
                }
                let all = out.iter().chain(&in_place);
                bits.push(all.map(|v| v.to_bits()).collect::<Vec<_>>());
            }
            assert!(bits.windows(2).all(|pair| pair[0] == pair[1]));
        }
    }
}
