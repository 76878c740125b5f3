//! Weights of a linear layer.

use super::{compute::Compute, disjoint::DisjointSlices, packed::PackedMatrix};
use crate::model::spec::{Products, TokenKind};

/// Rows in one task of [`Linear::read_rows`]: reading a row takes some microseconds, because its weights are far apart.
const ROWS_PER_TASK: usize = 4;

/// Several matrices over the same input, their outputs side by side, and the precision of their products.
///
/// What is packed does not depend on the precision. So rows of prompts and rows of generated tokens can be computed in
/// two precisions with the same weights.
pub struct Linear {
    parts: Vec<PackedMatrix>,
    /// The precision of rows of prompts.
    prompt: Products,
    /// The precision of rows of generated tokens.
    generated: Products,
}

impl Linear {
    /// Puts matrices with equal `cols` side by side, whose products are computed in one precision.
    ///
    /// # Panics
    /// When they differ in `cols`; loaders check shapes first.
    pub fn new(parts: Vec<PackedMatrix>, precision: Products) -> Self {
        Self::by_kind(parts, |_| precision)
    }

    /// The same with a precision for each kind of token. Where a matrix is not quantised, there is nothing to compute in
    /// integers, and all rows are computed as those of prompts: to expand weights that are bf16 in the file to f32 would
    /// take longer.
    ///
    /// # Panics
    /// As [`Linear::new`].
    pub fn by_kind(parts: Vec<PackedMatrix>, precision: impl Fn(TokenKind) -> Products) -> Self {
        assert!(parts.windows(2).all(|pair| pair[0].cols() == pair[1].cols()));
        let generated = match parts.iter().all(PackedMatrix::is_quantised) {
            true => TokenKind::Generated,
            false => TokenKind::Prompt,
        };
        Self {
            parts,
            prompt: precision(TokenKind::Prompt),
            generated: precision(generated),
        }
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

    /// Whether rows of both kinds are computed in the same precision.
    pub fn is_uniform(&self) -> bool {
        self.prompt == self.generated
    }

    /// How products are computed for rows of this kind.
    pub(super) fn precision(&self, kind: TokenKind) -> Products {
        match kind {
            TokenKind::Prompt => self.prompt,
            TokenKind::Generated => self.generated,
        }
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

    /// An embedding look-up for each of `rows`: writes the weights of these outputs of the first matrix, times `scale`, to `out`,
    /// `[rows, cols]`.
    ///
    /// # Panics
    /// When `out` has another size.
    pub fn read_rows(&self, compute: &mut Compute, rows: &[u32], scale: f32, out: &mut [f32]) {
        let cols = self.cols();
        assert!(out.len() == rows.len() * cols);
        let out = DisjointSlices::new(out);
        compute.pool.run_parts(rows.len(), ROWS_PER_TASK, &|part| {
            for index in part {
                // SAFETY: `run_parts` gives each task other rows, and these elements are the row's only.
                let out = unsafe { out.part(index * cols, cols) };
                self.read_row(rows[index] as usize, out);
                out.iter_mut().for_each(|value| *value *= scale);
            }
        });
    }
}
