//! Low-rank updates of matrices, which LoRA adapters are made of.

/// A low-rank update `B · A` (arXiv 2106.09685) of neighbouring outputs of a matrix product.
pub struct LowRankPart {
    /// Index of the first output that it changes.
    pub first_output: usize,
    /// Number of outputs that it changes.
    pub outputs: usize,
    /// Number of inputs of the product.
    pub inputs: usize,
    /// Rank of the update: rows of A, columns of B.
    pub rank: usize,
    /// `A`, `[rank, inputs]` row-major.
    pub a: Vec<f32>,
    /// `B`, `[outputs, rank]` row-major, the adapter's scaling factor multiplied in.
    pub b: Vec<f32>,
}
