//! Where weights come from: GGUF, safetensors (single or sharded), or made up for a shape.

mod dummy;
mod gguf;
mod safetensors;

pub(super) use self::{
    dummy::DummyWeights,
    gguf::GgufWeights,
    safetensors::{Entry, SafetensorsWeights, read_folder, read_safetensors},
};

use crate::kernels::{BlockFormat, MatrixSource, RawElements};

/// A tensor of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tensor {
    Embedding,
    /// Of positions, `[context length, hidden]`.
    Positions,
    OutputNorm,
    OutputNormBias,
    Output,
    Layer(usize, LayerTensor),
}

/// A tensor of one layer. No model has all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LayerTensor {
    AttentionNorm,
    AttentionNormBias,
    /// Queries, keys and values in one matrix.
    Qkv,
    Query,
    Key,
    Value,
    QkvBias,
    QueryBias,
    KeyBias,
    ValueBias,
    QueryNorm,
    KeyNorm,
    AttentionOutput,
    AttentionOutputBias,
    /// After attention, before it joins the stream.
    AttentionPostNorm,
    FfnNorm,
    FfnNormBias,
    /// Gate and up in one matrix.
    GateUp,
    Gate,
    Up,
    UpBias,
    Down,
    DownBias,
    /// After the feed-forward part, before it joins the stream.
    FfnPostNorm,
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

    /// Its shape and format; does not look at its elements.
    fn info(&self, tensor: Tensor) -> Result<Option<(Vec<usize>, BlockFormat)>, String> {
        Ok(self.tensor(tensor)?.map(|data| (data.shape, data.format)))
    }

    /// The source's own name for a tensor.
    fn name(&self, tensor: Tensor) -> String;

    /// Names of all tensors that belong to layers.
    fn layer_tensors(&self) -> Vec<String>;

    /// `general.architecture`, where it is a GGUF file.
    fn gguf_architecture(&self) -> Option<&str> {
        None
    }

    /// The tensor of that name.
    fn named(&self, name: &str) -> Result<Option<TensorData<'_>>, String>;
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

    /// As values of this shape, in f32.
    pub(super) fn values(&self, shape: &[usize]) -> Result<Vec<f32>, String> {
        if self.shape != shape {
            return Err(format!("the shape is {:?}, expected {shape:?}", self.shape));
        }
        let len = shape.iter().product();
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
