//! The repository's own rules: what sources may use, what documents say and which tests they name, what the demo's data are, and what `.ci/run`
//! tells of a run that fails.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails, fails its test"
)]

mod ci_run;
mod demo_data;
mod errors_doc;
mod fuzz_corpus;
#[path = "../../fuzz/src/lib.rs"]
mod fuzz_targets;
mod locked;
mod security_doc;
mod tidy;
mod tidy_support;
