//! Models from files: their numbers against those of reference implementations, damaged files, memory, and that results do
//! not depend on company.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails, fails its test"
)]

#[path = "../common/adapter_files.rs"]
mod adapter_files;
#[path = "../common/alone.rs"]
mod alone;
#[path = "../common/classifiers.rs"]
mod classifiers_golden;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/estimators.rs"]
mod estimators;
#[path = "../common/verdict_heads.rs"]
mod verdict_heads_golden;

mod adapters;
mod classifier_parity;
mod company;
mod errors;
mod freed_memory;
mod lora;
mod lora_errors;
mod memory_estimate;
mod mixed;
mod parity;
mod precision;
mod quality_parity;
mod text_memory;
mod verdict_head_parity;
