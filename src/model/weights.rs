//! Where weights come from: GGUF, safetensors (single or sharded), or made up for a shape.

mod dummy;
mod gguf;
mod safetensors;

pub(crate) use self::{
    dummy::DummyWeights,
    gguf::GgufWeights,
    safetensors::{Entry, SafetensorsWeights, read_folder, read_safetensors},
};

use std::io;

use crate::{
    files::Pieces,
    model::spec::{MatrixSource, RawElements, StoredBytes, TensorFormat},
};

/// A tensor of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tensor {
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
pub(crate) enum LayerTensor {
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

/// A tensor's elements, in a file or made up.
pub(crate) struct TensorData<'a> {
    /// Outputs first, as Hugging Face counts: `[rows, cols]`; one entry for a vector.
    pub shape: Vec<usize>,
    pub format: TensorFormat,
    pub bytes: TensorBytes<'a>,
}

/// Where a tensor's elements are.
pub(crate) enum TensorBytes<'a> {
    Made(Vec<u8>),
    Stored(Part<'a>),
}

/// Neighbouring bytes of a file.
pub(crate) struct Part<'a> {
    pub file: &'a Pieces,
    pub offset: u64,
    pub len: usize,
}

impl StoredBytes for Part<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn read_at(&self, offset: usize, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(self.offset.saturating_add(offset as u64), out)
    }
}

/// A place to read tensors from. Errors name the tensor.
pub(crate) trait WeightSource {
    /// `None` when there is no such tensor.
    fn tensor(&self, tensor: Tensor) -> Result<Option<TensorData<'_>>, String>;

    /// Its shape and format; does not look at its elements.
    fn info(&self, tensor: Tensor) -> Result<Option<(Vec<usize>, TensorFormat)>, String> {
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
    pub(crate) fn matrix(&self, rows: usize, cols: usize) -> Result<MatrixSource<'_>, String> {
        if self.shape != [rows, cols] {
            return Err(format!(
                "the shape is {:?}, expected [{rows}, {cols}]",
                self.shape
            ));
        }
        self.elements(rows, cols)
    }

    /// As values of this shape, in f32.
    pub(crate) fn values(&self, shape: &[usize]) -> Result<Vec<f32>, String> {
        if self.shape != shape {
            return Err(format!("the shape is {:?}, expected {shape:?}", self.shape));
        }
        let len = shape.iter().product();
        // Before there is memory for them.
        let source = self.elements(1, len)?;
        let mut values = vec![0.0; len];
        let read = source.read_row(0, &mut values);
        read.map_err(|error| format!("it could not be read: {error}"))?;
        Ok(values)
    }

    fn elements(&self, rows: usize, cols: usize) -> Result<MatrixSource<'_>, String> {
        let (elements, len) = match &self.bytes {
            TensorBytes::Made(bytes) => (RawElements::Bytes(self.format, bytes), bytes.len()),
            TensorBytes::Stored(part) => (RawElements::Stored(self.format, part), part.len),
        };
        let source = MatrixSource { rows, cols, elements };
        if !source.is_consistent() {
            let format = self.format.name();
            return Err(format!("{len} bytes do not hold {rows} x {cols} of {format}"));
        }
        Ok(source)
    }
}
