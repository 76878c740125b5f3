//! Benchmarks with planted truths, through the program: how often intervals hold the truth, and tests find what is not there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a helper that fails, fails its test"
)]

#[path = "../common/planted.rs"]
mod planted;

mod conformal;
mod coverage;
mod guard_error;
