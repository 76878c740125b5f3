//! What the layers and heads of encoders are made of: matrices with a bias, and norms.

use crate::{
    backend::cpu::{
        compute::Compute,
        encoders::tensor_reader::TensorReader,
        kernels::{Linear, Norm, Output, add_bias, matmul},
    },
    model::{EncoderConfig, TensorError, spec::NormKind},
};

/// A matrix and a bias.
pub(super) struct Dense {
    weights: Linear,
    bias: Vec<f32>,
}

impl Dense {
    /// Reads `NAME.weight`, `[outputs, inputs]`, and `NAME.bias`.
    pub(super) fn read(
        reader: &mut TensorReader<'_>,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<Self, TensorError> {
        Ok(Self {
            weights: reader.matrix(&format!("{name}.weight"), outputs, inputs)?,
            bias: reader.values(&format!("{name}.bias"), &[outputs])?,
        })
    }

    /// Bytes that it takes in memory.
    pub(super) fn bytes(&self) -> u64 {
        (self.weights.bytes() + size_of_val(&self.bias[..])) as u64
    }

    /// Computes `x · Wᵀ + b`, `[rows, outputs]`, which replaces `out` or is added to it.
    pub(super) fn apply(&self, compute: &mut Compute, x: &[f32], out: &mut Vec<f32>, output: Output) {
        if output == Output::Replace {
            out.resize(x.len() / self.weights.cols() * self.weights.rows(), 0.0);
        }
        matmul(compute, x, &self.weights, out, output);
        add_bias(out, &self.bias);
    }
}

/// A norm that subtracts the mean, divides by the standard deviation and adds a bias.
pub(super) struct LayerNorm(Norm);

impl LayerNorm {
    /// Reads `NAME.weight` and `NAME.bias`, `[hidden]`.
    pub(super) fn read(
        reader: &mut TensorReader<'_>,
        name: &str,
        config: &EncoderConfig,
    ) -> Result<Self, TensorError> {
        let shape = [config.hidden];
        Ok(Self(Norm {
            kind: NormKind::Layer,
            eps: config.eps,
            weight: reader.values(&format!("{name}.weight"), &shape)?,
            bias: Some(reader.values(&format!("{name}.bias"), &shape)?),
        }))
    }

    /// Norms the rows of `x` into `out`.
    pub(super) fn apply(&self, compute: &mut Compute, x: &[f32], out: &mut Vec<f32>) {
        out.resize(x.len(), 0.0);
        self.0.apply(compute, x, out, Output::Replace);
    }
}
