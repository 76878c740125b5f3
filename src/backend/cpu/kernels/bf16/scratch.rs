//! A worker's buffers for products in bf16.

#[cfg(target_arch = "x86_64")]
use super::layout::{PairBits, RowSums};

/// A worker's copy of some of a panel's weights, and sums. The buffers grow to the largest product and stay.
#[derive(Default)]
pub(in crate::backend::cpu::kernels) struct Bf16Scratch {
    /// Weights in f32, `[inputs][PANEL]`.
    pub(super) expanded: Vec<f32>,
    /// Weights as vectors read them, `[run][even, odd][RUN / 2][PANEL]`.
    pub(super) deinterleaved: Vec<f32>,
    /// Weights as tiles load them.
    #[cfg(target_arch = "x86_64")]
    pub(super) pairs: Vec<PairBits>,
    /// Sums of some rows for a panel's outputs.
    #[cfg(target_arch = "x86_64")]
    pub(super) sums: Vec<RowSums>,
}
