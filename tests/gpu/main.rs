//! The backend of NVIDIA cards without a card: its kernels, compiled for the host and run by the emulator in `emulator/`,
//! under the real backend. What this cannot show is told in docs/gpu.md.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails, fails its test"
)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/rig.rs"]
mod rig;
#[path = "../common/scripted.rs"]
mod scripted;

mod adapters;
mod bench;
mod candidates;
mod card;
mod checkpoints;
mod faults;
mod invariance;
mod layouts;
mod libraries;
mod library;
mod loading;
mod mixed_file;
mod models;
mod packed;
mod queue;
mod real_model;
mod self_test;
mod serving;
mod watched;
