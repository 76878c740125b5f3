//! Norms of rows and of heads.

use super::{
    Isa, NormKind, Output, ThreadPool,
    elementwise::{ROWS_PER_TASK, add_lanes, sum, sum_of_squares},
    isa::per_isa,
    pool::DisjointSlices,
};

/// A norm with its weights: `(x - mean) / sqrt(mean((x - mean)²) + eps) * weight + bias`, the mean being 0 for
/// [`NormKind::Rms`].
#[derive(Debug, Clone)]
pub struct Norm {
    /// What it divides by.
    pub kind: NormKind,
    /// What keeps the divisor away from 0.
    pub eps: f32,
    /// One weight for each element.
    pub weight: Vec<f32>,
    /// One for each element, where the model has them; norms of heads have none.
    pub bias: Option<Vec<f32>>,
}

impl Norm {
    /// Norms each row of `x` into `out`; both are `[m, weight.len()]`.
    pub fn apply(&self, pool: &mut ThreadPool, isa: Isa, x: &[f32], out: &mut [f32], output: Output) {
        let width = self.weight.len();
        let m = x.len() / width;
        let slices = DisjointSlices::new(out);
        pool.run_parts(m, ROWS_PER_TASK, &|rows| {
            // SAFETY: tasks take disjoint rows.
            let out = unsafe { slices.part(rows.start * width, rows.len() * width) };
            norm_rows(isa, self, &x[rows.start * width..rows.end * width], out, output);
        });
    }

    /// Weights and biases.
    pub fn values(&self) -> usize {
        self.weight.len() + self.bias.as_ref().map_or(0, Vec::len)
    }

    /// Norms the first heads of each row of `x` (`[m, stride]`) in place, each by itself: as many heads of
    /// `head_dim` as there are weights for.
    pub fn apply_to_heads(
        &self,
        pool: &mut ThreadPool,
        isa: Isa,
        x: &mut [f32],
        stride: usize,
        head_dim: usize,
    ) {
        let m = x.len() / stride;
        let slices = DisjointSlices::new(x);
        pool.run_parts(m, ROWS_PER_TASK, &|rows| {
            for row in rows {
                // SAFETY: tasks take disjoint rows.
                let heads = unsafe { slices.part(row * stride, self.weight.len()) };
                norm_heads(isa, self, heads, head_dim);
            }
        });
    }

    /// What is taken away from each element of `x`, and what the rest is multiplied with.
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

    fn noise(len: usize) -> Vec<f32> {
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
        let mut pool = ThreadPool::new(2).unwrap();
        let (rows, width, head_dim, stride) = (19, 75, 32, 110);
        for (kind, biased) in [
            (NormKind::Rms, false),
            (NormKind::Layer, false),
            (NormKind::Layer, true),
        ] {
            let (whole, heads) = (norm(kind, width, biased), norm(kind, 3 * head_dim, false));
            let (x, qkv) = (noise(rows * width), noise(rows * stride));
            let mut bits = Vec::new();
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; x.len()];
                whole.apply(&mut pool, isa, &x, &mut out, Output::Replace);
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
                whole.apply(&mut pool, isa, &x, &mut added, Output::Add);
                for ((added, out), x) in added.iter().zip(&out).zip(&x) {
                    assert_eq!(added.to_bits(), (x + out).to_bits());
                }
                let mut in_place = qkv.clone();
                heads.apply_to_heads(&mut pool, isa, &mut in_place, stride, head_dim);
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
