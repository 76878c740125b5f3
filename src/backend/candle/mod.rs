//! Models on candle's tensors: on its CPU device, on Apple's GPUs (feature `metal`) and on NVIDIA's (feature `candle-cuda`).
//!
//! The portable device: correct before fast. Each operation of the decoder is a few of candle's, each sequence attends by
//! itself, and nothing is fused. The residual stream, norms and attention are in f32; what the precision says is how
//! weights, the inputs of products, and keys and values are kept.

mod adapter;
mod attention;
mod backend;
mod device;
mod faults;
mod footprint;
mod indices;
mod kv_cache;
mod ops;
mod rotation;
mod step;
mod weights;

pub use self::{backend::CandleBackend, device::OpenError};
