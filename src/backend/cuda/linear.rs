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
    pub weights: Weights,
}

/// How weights are stored.
#[derive(Debug)]
pub(super) enum Weights {
    /// In bf16, all parts as one matrix.
    Rounded { buffer: Buffer, plan: ProductPlan },
    /// As their file has them, each part by itself.
    Packed(Vec<PackedPart>),
}

/// A packed matrix, and the plan of its product once it is expanded.
#[derive(Debug)]
pub(super) struct PackedPart {
    pub weights: PackedWeights,
    pub plan: ProductPlan,
}

impl CudaLinear {
    /// Bytes of a matrix in bf16, whatever format its file has.
    pub(super) fn rounded_bytes(rows: usize, cols: usize) -> usize {
        rows * cols * size_of::<bf16>()
    }

    /// The rows, where they can be read one by one.
    pub(super) fn table(&self) -> DeviceAddress {
        match &self.weights {
            Weights::Rounded { buffer, .. } => buffer.address(),
            Weights::Packed(_) => DeviceAddress::NULL,
        }
    }
}
