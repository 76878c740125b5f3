//! What a source of weights is: tensors by the part that they have in a decoder, or by their names.

use std::io;

use crate::{
    files::Pieces,
    model::{
        error::TensorProblem,
        spec::{HeadSide, MatrixSource, Noise, RawElements, StoredBytes, TensorFormat},
    },
};

/// A tensor of a decoder, by its part in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tensor {
    Embedding,
    /// Embeddings of positions, `[context length, hidden]`.
    Positions,
    OutputNorm,
    OutputNormBias,
    Output,
    /// A tensor of the heads that judge one side of a conversation.
    Verdict(HeadSide, HeadTensor),
    Layer(usize, LayerTensor),
}

/// A tensor of the heads that judge one side of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadTensor {
    /// What makes the rows that the heads read: `[inner, hidden]`.
    Inner,
    /// The norm of those rows.
    InnerNorm,
    /// `[risk levels, inner]`.
    Risk,
    /// `[categories, inner]`.
    Category,
}

impl HeadTensor {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Inner, Self::InnerNorm, Self::Risk, Self::Category];
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
    /// Norm of the output of attention, before it is added to the residual stream.
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
    /// Norm of the output of the feed-forward part, before it is added to the residual stream.
    FfnPostNorm,
}

/// A tensor's elements, in a file or made up.
pub(crate) struct TensorData<'a> {
    /// Dimensions, outputs first as Hugging Face counts: `[rows, cols]`; one entry for a vector.
    pub shape: Vec<usize>,
    pub format: TensorFormat,
    pub bytes: TensorBytes<'a>,
}

/// Where a tensor's elements are.
pub(crate) enum TensorBytes<'a> {
    /// In memory: the tensor was made up.
    Made(Vec<u8>),
    /// In a file, from which they are read when they are needed.
    Stored(FileRange<'a>),
    /// Nowhere: they are made up where and when they are read.
    Noise(Noise),
}

/// Neighbouring bytes of a file.
pub(crate) struct FileRange<'a> {
    pub file: &'a Pieces,
    pub offset: u64,
    pub len: usize,
}

impl StoredBytes for FileRange<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn read_at(&self, offset: usize, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(self.offset.saturating_add(offset as u64), out)
    }
}

/// A model's tensors, wherever they are.
pub(crate) trait WeightSource {
    /// `None` when the source has no such tensor.
    fn tensor(&self, tensor: Tensor) -> Result<Option<TensorData<'_>>, TensorProblem>;

    /// The shape and storage format of a tensor, without a look at its elements.
    fn info(&self, tensor: Tensor) -> Result<Option<(Vec<usize>, TensorFormat)>, TensorProblem> {
        Ok(self.tensor(tensor)?.map(|data| (data.shape, data.format)))
    }

    /// The source's own name for a tensor.
    fn name(&self, tensor: Tensor) -> String;

    /// Names of all tensors that belong to layers.
    fn layer_tensors(&self) -> Vec<String>;

    /// `general.architecture`, where the source is a GGUF file.
    fn gguf_architecture(&self) -> Option<&str> {
        None
    }

    /// The tensor that has this name in the source; `None` when there is none.
    fn named(&self, name: &str) -> Result<Option<TensorData<'_>>, TensorProblem>;
}

impl TensorData<'_> {
    /// The tensor as a matrix of this shape, whose elements stay where they are.
    pub(crate) fn matrix(&self, rows: usize, cols: usize) -> Result<MatrixSource<'_>, TensorProblem> {
        self.expect_shape(&[rows, cols])?;
        self.elements(rows, cols)
    }

    /// The values of a tensor of this shape, in f32.
    pub(crate) fn values(&self, shape: &[usize]) -> Result<Vec<f32>, TensorProblem> {
        self.expect_shape(shape)?;
        let len = shape.iter().product();
        // This checks the length, before memory is allocated for it.
        let source = self.elements(1, len)?;
        let mut values = vec![0.0; len];
        source.read_row(0, &mut values).map_err(TensorProblem::Read)?;
        Ok(values)
    }

    fn expect_shape(&self, expected: &[usize]) -> Result<(), TensorProblem> {
        if self.shape == expected {
            return Ok(());
        }
        Err(TensorProblem::Shape {
            found: self.shape.clone(),
            expected: expected.to_vec(),
        })
    }

    fn elements(&self, rows: usize, cols: usize) -> Result<MatrixSource<'_>, TensorProblem> {
        let format = self.format;
        let (elements, bytes) = match &self.bytes {
            TensorBytes::Made(bytes) => (RawElements::Bytes(format, bytes), bytes.len()),
            TensorBytes::Stored(range) => (RawElements::Stored(format, range), range.len),
            TensorBytes::Noise(noise) => (RawElements::Noise(noise), noise.len()),
        };
        let source = MatrixSource { rows, cols, elements };
        if !source.is_consistent() {
            return Err(TensorProblem::Length {
                bytes,
                rows,
                cols,
                format,
            });
        }
        Ok(source)
    }
}
