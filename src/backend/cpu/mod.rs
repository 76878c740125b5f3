//! The host processor.

pub mod kernels;
