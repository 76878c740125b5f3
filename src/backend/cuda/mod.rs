//! NVIDIA cards: our own kernels and cuBLASLt's products, on a driver that is found at run time.
//!
//! Nothing of CUDA is needed to build this program or to start it. [`CudaBackend::open`] looks for the driver and its
//! libraries, and says what is missing. All calls to a card go through [`driver::Queue`], so that tests can put an
//! emulated card, or one that fails, in its place.
//!
//! Weights and keys and values are bf16. Products have bf16 operands and f32 sums; everything else is computed in f32.

mod adapter;
pub mod arguments;
mod attention;
mod buffer;
mod ceilings;
mod device;
pub mod driver;
mod footprint;
mod graphs;
mod inputs;
mod invariance;
pub mod kernels;
mod kv_cache;
mod launch_sizes;
mod launcher;
mod linear;
mod ops;
mod packed;
mod parallel;
mod products;
mod readout;
mod rope;
mod rows;
mod scratch_sizes;
pub mod self_test;
mod tiles;
mod weights;

pub use self::device::{CudaBackend, OpenError};
