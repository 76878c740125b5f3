//! Weight matrices in a card's memory.

use half::bf16;

use super::{
    buffer::Buffer,
    driver::{DeviceAddress, ProductPlan, ProductShape},
    packed::PackedWeights,
};

/// A weight matrix `[outputs, inputs]`, or several with the same inputs below each other.
#[derive(Debug)]
pub(super) struct CudaLinear {
    pub shape: ProductShape,
    /// Its parts, from the first output to the last. Each is a product of its own.
    pub parts: Vec<LinearPart>,
}

/// Neighbouring outputs of a [`CudaLinear`], stored in one way.
#[derive(Debug)]
pub(super) enum LinearPart {
    /// Weights in bf16: one matrix, or several below each other.
    Rounded(RoundedPart),
    /// One matrix, packed as its file has it.
    Packed(PackedPart),
}

/// Weights in bf16.
#[derive(Debug)]
pub(super) struct RoundedPart {
    pub buffer: Buffer,
    pub outputs: usize,
    pub plan: ProductPlan,
}

/// A packed matrix, and the plan of its product once it is expanded.
#[derive(Debug)]
pub(super) struct PackedPart {
    pub weights: PackedWeights,
    pub plan: ProductPlan,
}

impl LinearPart {
    pub(super) fn outputs(&self) -> usize {
        match self {
            Self::Rounded(part) => part.outputs,
            Self::Packed(part) => part.weights.outputs(),
        }
    }
}

impl CudaLinear {
    /// Bytes of a matrix in bf16, whatever format its file has.
    pub(super) fn rounded_bytes(rows: usize, cols: usize) -> usize {
        rows * cols * size_of::<bf16>()
    }

    /// The rows, where they can be read one by one.
    pub(super) fn table(&self) -> DeviceAddress {
        match self.parts.as_slice() {
            [LinearPart::Rounded(part)] => part.buffer.address(),
            _ => DeviceAddress::NULL,
        }
    }
}
