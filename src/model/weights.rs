//! Where weights come from: GGUF, safetensors (single or sharded), or made up for a shape.

mod dummy;
mod gguf;
mod safetensors;

pub(super) use self::{dummy::DummyWeights, gguf::GgufWeights, safetensors::SafetensorsWeights};

use crate::kernels::{BlockFormat, MatrixSource, RawElements};

/// A tensor of the Llama family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tensor {
    Embedding,
    OutputNorm,
    Output,
    /// Optional: divisors of the rotary frequencies (GGUF only).
    RopeFactors,
    Layer(usize, LayerTensor),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LayerTensor {
    AttentionNorm,
    Query,
    Key,
    Value,
    AttentionOutput,
    FfnNorm,
    Gate,
    Up,
    Down,
}

/// A tensor's elements, borrowed from a mapped file or made up.
pub(super) struct TensorData<'a> {
    /// Outputs first, as Hugging Face counts: `[rows, cols]`; one entry for a vector.
    pub shape: Vec<usize>,
    pub format: BlockFormat,
    pub bytes: std::borrow::Cow<'a, [u8]>,
}

/// A place to read tensors from. Errors name the tensor.
pub(super) trait WeightSource {
    /// `None` when there is no such tensor.
    fn tensor(&self, tensor: Tensor) -> Result<Option<TensorData<'_>>, String>;

    /// The source's own name for a tensor.
    fn name(&self, tensor: Tensor) -> String;
}

impl TensorData<'_> {
    /// As a matrix of this shape.
    pub(super) fn matrix(&self, rows: usize, cols: usize) -> Result<MatrixSource<'_>, String> {
        let source = MatrixSource {
            rows,
            cols,
            elements: RawElements::Bytes(self.format, &self.bytes),
        };
        if self.shape != [rows, cols] {
            return Err(format!(
                "the shape is {:?}, expected [{rows}, {cols}]",
                self.shape
            ));
        }
        if !source.is_consistent() {
            return Err(format!(
                "{} bytes do not hold {rows} x {cols} of {}",
                self.bytes.len(),
                self.format.name()
            ));
        }
        Ok(source)
    }

    /// As a vector of this length, in f32.
    pub(super) fn vector(&self, len: usize) -> Result<Vec<f32>, String> {
        if self.shape != [len] {
            return Err(format!("the shape is {:?}, expected [{len}]", self.shape));
        }
        let source = MatrixSource {
            rows: 1,
            cols: len,
            elements: RawElements::Bytes(self.format, &self.bytes),
        };
        if !source.is_consistent() {
            return Err(format!(
                "{} bytes do not hold {len} of {}",
                self.bytes.len(),
                self.format.name()
            ));
        }
        let mut values = vec![0.0; len];
        source.read_row(0, &mut values);
        Ok(values)
    }
}

/// The tensor as a vector; an error when it is missing.
pub(super) fn vector(source: &dyn WeightSource, tensor: Tensor, len: usize) -> Result<Vec<f32>, String> {
    let named = |reason: String| format!("tensor `{}`: {reason}", source.name(tensor));
    let data = source
        .tensor(tensor)
        .map_err(named)?
        .ok_or_else(|| named("it is missing".into()))?;
    data.vector(len).map_err(named)
}
