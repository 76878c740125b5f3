//! Rows of activations, in the types in which products read them.

use super::{bf16::Bf16Rows, compute::Compute, int8::Int8Rows, linear::Linear, packed::PackedMatrix};
use crate::model::spec::{Products, TokenKind};

/// Rows of activations, those of prompts first.
#[derive(Clone, Copy)]
pub struct TokenRows<'a> {
    /// `[m, width]`, row-major.
    pub values: &'a [f32],
    /// How many of the rows are of prompts, or more than there are rows. The others are of generated tokens.
    pub prompt: usize,
}

impl<'a> TokenRows<'a> {
    /// Rows of which all are of prompts, or that belong to no sequence.
    pub fn of_prompts(values: &'a [f32]) -> Self {
        Self {
            values,
            prompt: usize::MAX,
        }
    }
}

/// Activations as products read them.
#[derive(Default)]
pub(super) struct RoundedRows {
    int8: Int8Rows,
    pub bf16: Bf16Rows,
    /// Between the two products of a gated feed-forward part: the gated activations, which the second product reads.
    #[cfg(target_arch = "x86_64")]
    pub gated: Bf16Rows,
}

impl RoundedRows {
    /// Rounds rows of this kind, `[m, cols]`, to what their product with `weights` reads.
    pub(super) fn set(&mut self, compute: &mut Compute, x: &[f32], weights: &Linear, kind: TokenKind) {
        if x.is_empty() {
            return;
        }
        match weights.precision(kind) {
            Products::Bf16 => self.bf16.set(compute, x, weights.cols()),
            Products::Int8 if weights.parts().iter().any(PackedMatrix::is_quantised) => {
                let groups = weights.parts().iter().map(PackedMatrix::group_size);
                self.int8.set(compute, x, weights.cols(), groups);
            }
            Products::Int8 | Products::F32 => {}
        }
    }

    /// The rows that [`Self::set`] has rounded.
    pub(super) fn view<'a>(&'a self, x: &'a [f32], weights: &Linear, kind: TokenKind) -> Activations<'a> {
        match weights.precision(kind) {
            Products::F32 => Activations::F32(x),
            Products::Bf16 => Activations::Bf16(&self.bf16),
            Products::Int8 => Activations::Int8 {
                rounded: &self.int8,
                exact: x,
            },
        }
    }
}

/// Rows of activations in the types in which a product of their precision needs them.
#[derive(Clone, Copy)]
pub(super) enum Activations<'a> {
    F32(&'a [f32]),
    Bf16(&'a Bf16Rows),
    Int8 {
        /// For quantised matrices.
        rounded: &'a Int8Rows,
        /// For all others.
        exact: &'a [f32],
    },
}

impl<'a> Activations<'a> {
    /// How the product is computed.
    pub(super) fn precision(self) -> Products {
        match self {
            Self::F32(_) => Products::F32,
            Self::Bf16(_) => Products::Bf16,
            Self::Int8 { .. } => Products::Int8,
        }
    }

    /// The rows in the type in which this matrix is multiplied.
    pub(super) fn for_matrix(self, matrix: &PackedMatrix) -> Inputs<'a> {
        match self {
            Self::F32(x) => Inputs::F32(x),
            Self::Bf16(x) => Inputs::Bf16(x),
            Self::Int8 { rounded, .. } if matrix.is_quantised() => Inputs::Int8(rounded),
            Self::Int8 { exact, .. } => Inputs::F32(exact),
        }
    }
}

/// Rows of activations in the type in which they are multiplied.
#[derive(Clone, Copy)]
pub(super) enum Inputs<'a> {
    F32(&'a [f32]),
    Bf16(&'a Bf16Rows),
    Int8(&'a Int8Rows),
}
