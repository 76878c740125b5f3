//! Weights of a linear layer.

use super::packed::PackedMatrix;
use crate::model::spec::Products;

/// Several matrices over the same input, their outputs side by side, and the precision of their products.
pub struct Linear {
    parts: Vec<PackedMatrix>,
    precision: Products,
}

impl Linear {
    /// Puts matrices with equal `cols` side by side.
    ///
    /// # Panics
    /// When they differ in `cols`; loaders check shapes first.
    pub fn new(parts: Vec<PackedMatrix>, precision: Products) -> Self {
        assert!(parts.windows(2).all(|pair| pair[0].cols() == pair[1].cols()));
        Self { parts, precision }
    }

    /// Number of outputs of all matrices.
    pub fn rows(&self) -> usize {
        self.parts.iter().map(PackedMatrix::rows).sum()
    }

    /// Number of inputs.
    pub fn cols(&self) -> usize {
        self.parts.first().map_or(0, PackedMatrix::cols)
    }

    /// Bytes that the weights take in memory.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(PackedMatrix::bytes).sum()
    }

    /// How products are computed.
    pub(super) fn precision(&self) -> Products {
        self.precision
    }

    /// The matrices, in the order of their outputs.
    pub(super) fn parts(&self) -> &[PackedMatrix] {
        &self.parts
    }

    /// Writes the weights of output `row` of the first matrix as f32 to `out`: an embedding look-up.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        if let Some(matrix) = self.parts.first() {
            matrix.read_row(row, out);
        }
    }
}
