//! Models on candle's CPU device: every golden checkpoint, beside the CPU's own backend, and behind a real server. The same
//! code computes on GPUs, where candle runs other kernels.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails, fails its test"
)]

mod batches;
mod common;
mod errors;
mod footprints;
mod goldens;
#[path = "../common/rig.rs"]
mod rig;
#[path = "../common/scripted.rs"]
mod scripted;
mod server;
