//! Indices of rows, positions and slots on the device.

use candle_core::{Device, Tensor};

/// Indices as a tensor.
pub(super) fn indices(values: &[usize], device: &Device) -> candle_core::Result<Tensor> {
    let values: Vec<u32> = values.iter().map(|&value| value as u32).collect();
    let len = values.len();
    Tensor::from_vec(values, len, device)
}
