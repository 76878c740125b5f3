//! The vector of a sentence: the row of its first token, of one layer or mixed over all layers (`LayerwiseAttention` of
//! COMET).

use std::ops::Range;

use crate::{
    backend::cpu::encoders::tensor_reader::TensorReader,
    model::{
        EncoderConfig, TensorError,
        estimator::{MixTransform, SentenceLayer},
    },
};

/// What the names of the mix's tensors begin with.
const PREFIX: &str = "layerwise_attention";
/// Added to the variance of a layer's values, so that the divisor of its norm is never 0.
const NORM_EPS: f64 = 1e-12;

/// How the vector of a sentence is mixed from the outputs of the layers.
pub(super) struct Mix {
    /// The weight of each layer; the embeddings are layer 0.
    weights: Vec<f32>,
    /// Whether each layer is normed over all values of the sequence before it is weighted.
    norm: bool,
}

impl Mix {
    pub(super) fn read(
        reader: &mut TensorReader<'_>,
        layer: SentenceLayer,
        config: &EncoderConfig,
    ) -> Result<Self, TensorError> {
        let (transform, norm) = match layer {
            SentenceLayer::One(layer) => {
                let weights = (0..=config.layers).map(|index| f32::from(u8::from(index == layer)));
                return Ok(Self {
                    weights: weights.collect(),
                    norm: false,
                });
            }
            SentenceLayer::Mix { transform, norm } => (transform, norm),
        };
        let mut parameters = Vec::new();
        for index in 0..=config.layers {
            parameters.extend(reader.values(&format!("{PREFIX}.scalar_parameters.{index}"), &[1])?);
        }
        let gamma = reader.values(&format!("{PREFIX}.gamma"), &[1])?;
        let weights = match transform {
            MixTransform::Softmax => softmax(&parameters),
            MixTransform::Sparsemax => sparsemax(&parameters),
        };
        let scale = f64::from(gamma[0]);
        Ok(Self {
            weights: weights
                .into_iter()
                .map(|weight| (weight * scale) as f32)
                .collect(),
            norm,
        })
    }

    /// Adds the weighted rows of one layer to the vectors of the sentences, `[sequences, hidden]`. `rows` are those of all
    /// sequences, `[rows, hidden]`.
    pub(super) fn add(&self, layer: usize, rows: &[f32], spans: &[Range<usize>], vectors: &mut [f32]) {
        let weight = self.weights.get(layer).copied().unwrap_or(0.0);
        if weight == 0.0 || spans.is_empty() {
            return;
        }
        let hidden = vectors.len() / spans.len();
        for (span, vector) in spans.iter().zip(vectors.chunks_exact_mut(hidden)) {
            let rows = &rows[span.start * hidden..span.end * hidden];
            let (mean, scale) = if self.norm { moments(rows) } else { (0.0, 1.0) };
            for (sum, value) in vector.iter_mut().zip(&rows[..hidden]) {
                *sum += weight * ((value - mean) * scale);
            }
        }
    }
}

/// The mean of all values, and one over their standard deviation.
fn moments(values: &[f32]) -> (f32, f32) {
    let count = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
    let squares = values.iter().map(|v| (f64::from(*v) - mean).powi(2));
    let variance = squares.sum::<f64>() / count;
    (mean as f32, (1.0 / (variance + NORM_EPS).sqrt()) as f32)
}

fn softmax(parameters: &[f32]) -> Vec<f64> {
    let top = parameters.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = parameters.iter().map(|z| f64::from(z - top).exp()).collect();
    let total: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / total).collect()
}

/// The nearest point of the simplex (arXiv 1602.02068, algorithm 1).
fn sparsemax(parameters: &[f32]) -> Vec<f64> {
    let mut sorted: Vec<f64> = parameters.iter().map(|z| f64::from(*z)).collect();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    let (mut sum, mut threshold) = (0.0, 0.0);
    for (index, value) in sorted.iter().enumerate() {
        let count = (index + 1) as f64;
        sum += value;
        if 1.0 + count * value > sum {
            threshold = (sum - 1.0) / count;
        }
    }
    let weights = parameters.iter().map(|z| (f64::from(*z) - threshold).max(0.0));
    weights.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn weights_are_shares_in_the_order_of_their_parameters(
            parameters in prop::collection::vec(-4f32..4.0, 1..50),
        ) {
            for weights in [softmax(&parameters), sparsemax(&parameters)] {
                prop_assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-9);
                for (z, w) in parameters.iter().zip(&weights) {
                    prop_assert!(*w >= 0.0);
                    for (other, less) in parameters.iter().zip(&weights) {
                        prop_assert!(z <= other || w >= less);
                    }
                }
            }
        }

        #[test]
        fn sparsemax_is_the_nearest_point(
            parameters in prop::collection::vec(-2f32..2.0, 2..8), step in 0.001f64..0.2, from in 0usize..8, to in 0usize..8,
        ) {
            let weights = sparsemax(&parameters);
            let (from, to) = (from % weights.len(), to % weights.len());
            let mut other = weights.clone();
            let step = step.min(other[from]);
            other[from] -= step;
            other[to] += step;
            let distance = |weights: &[f64]| -> f64 {
                weights.iter().zip(&parameters).map(|(w, z)| (w - f64::from(*z)).powi(2)).sum()
            };
            prop_assert!(distance(&weights) <= distance(&other) + 1e-12);
        }
    }

    #[test]
    fn a_normed_layer_has_mean_0_and_deviation_1_over_the_sequence() {
        let values: Vec<f32> = (0..640).map(|i| (i * 37 % 101) as f32 / 7.0).collect();
        let (mean, scale) = moments(&values);
        let normed: Vec<f32> = values.iter().map(|v| (v - mean) * scale).collect();
        let (mean, scale) = moments(&normed);
        assert!(mean.abs() < 1e-5 && (scale - 1.0).abs() < 1e-5);
    }
}
