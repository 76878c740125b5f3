//! The benchmark from end to end: runs that are stopped, split, judged again and translated against servers whose model is
//! scripted, and the figures of its reports for planted verdicts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails, fails its test"
)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/endpoint.rs"]
mod endpoint;
#[path = "../common/estimators.rs"]
mod estimators;
#[path = "../common/planted.rs"]
mod planted;
#[path = "../common/rig.rs"]
mod rig;
#[path = "../common/runs.rs"]
mod runs;
#[path = "../common/scripted.rs"]
mod scripted;
#[path = "../common/support.rs"]
mod support;

mod by_policy;
mod cli;
mod commands;
mod controversial;
mod disk_full;
mod figures;
mod job;
mod kill;
mod paper;
mod policy;
mod remote;
mod rescore;
mod resume;
mod shards;
mod size;
mod translate;
mod translation_effects;
mod translators;
mod truth;
