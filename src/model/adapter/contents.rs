//! What the files of an adapter have, before it is checked against its base.

use super::{base::HeadOrder, error::AdapterError, module::Module};
use crate::model::{error::TensorProblem, weights::TensorData};

/// All matrices of an adapter, in the order of its files.
pub(super) struct Contents {
    pub heads: HeadOrder,
    pub factors: Vec<LoraFactor>,
}

/// One of the two matrices whose product is an update.
pub(super) struct LoraFactor {
    /// The tensor's name.
    pub name: String,
    /// Index of the layer that it changes.
    pub layer: usize,
    /// The matrix of the layer that it changes.
    pub module: Module,
    pub side: Side,
    /// Dimensions in the file, outputs first.
    pub shape: Vec<usize>,
    /// Empty when only headers are read.
    pub values: Vec<f32>,
    /// The rank that the adapter's configuration says, where it does.
    pub rank: Option<usize>,
    pub scaling: Scaling,
}

/// Which of the two matrices of an update `B · A` a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// `A`, `[rank, inputs]`.
    A,
    /// `B`, `[outputs, rank]`.
    B,
}

/// The factor that an update is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scaling {
    /// This number over the rank.
    Rank(f64),
    /// This number over the rank's square root (arXiv 2312.03732).
    RankRoot(f64),
    /// 1, whatever the rank is.
    One,
}

impl Scaling {
    fn factor(self, rank: usize) -> f64 {
        match self {
            Self::Rank(alpha) => alpha / rank as f64,
            Self::RankRoot(alpha) => alpha / (rank as f64).sqrt(),
            Self::One => 1.0,
        }
    }
}

/// How much of an adapter's files is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Names and shapes: enough to know how much memory the adapter will take.
    Headers,
    /// Names, shapes and values.
    Whole,
}

impl Extent {
    /// A tensor's values, or none when only headers are read.
    pub(super) fn values(self, data: &TensorData<'_>) -> Result<Vec<f32>, TensorProblem> {
        match self {
            Self::Headers => Ok(Vec::new()),
            Self::Whole => data.values(&data.shape),
        }
    }
}

impl LoraFactor {
    /// # Errors
    /// When the shape is another one; names both.
    pub(super) fn expect_shape(&self, expected: [usize; 2]) -> Result<(), AdapterError> {
        if self.shape == expected {
            return Ok(());
        }
        let shape = TensorProblem::Shape {
            found: self.shape.clone(),
            expected: expected.to_vec(),
        };
        Err(shape.of(&self.name).into())
    }

    /// # Errors
    /// When a value is infinite or not a number.
    pub(super) fn expect_finite(&self) -> Result<(), AdapterError> {
        match self.values.iter().all(|value| value.is_finite()) {
            true => Ok(()),
            false => Err(AdapterError::NotFinite(self.name.clone())),
        }
    }

    /// Multiplies the values with the update's scaling factor for this rank.
    pub(super) fn scale(&mut self, rank: usize) {
        let factor = self.scaling.factor(rank) as f32;
        if factor != 1.0 {
            self.values.iter_mut().for_each(|value| *value *= factor);
        }
    }
}
