//! The built binary: exit codes, what goes to stdout and what to stderr, and a server from start to drain.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

#[path = "../common/authority.rs"]
mod authority;
mod calibrate;
mod classifiers;
#[path = "../common/classifiers.rs"]
mod classifiers_golden;
mod client;
#[path = "../common/collector.rs"]
mod collector;
#[path = "../common/mod.rs"]
mod common;
mod compare;
mod completions;
mod config;
mod conversations;
mod data;
mod decisions;
mod demo;
mod disk_full;
mod evidence;
mod gate;
mod generate_guard;
mod guard;
mod import;
mod keys;
mod labels;
mod logs;
mod manifest;
mod manual;
mod model_files;
mod models_fetch;
mod pages;
#[path = "../common/planted.rs"]
mod planted;
mod proof;
mod protected;
mod quoted;
mod release;
mod report;
mod serve;
mod study;
#[path = "../common/support.rs"]
mod support;
mod tls;
mod top;
mod traces;
mod translate;
#[path = "../common/verdict_heads.rs"]
mod verdict_heads_golden;
