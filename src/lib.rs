//! Babelward: a gRPC service that keeps guard models and target models resident, batches everything that
//! arrives into shared forward passes, and answers Generate, Classify and Score; and a client that runs the
//! M-ALERT benchmark (arXiv 2412.15035) against it.
//!
//! Layers call downwards only: `cli` → `http` → `rpc` → `registry` → `guard` → `engine` → `backend` → `model`, with
//! `text` and `gguf` beside them. `client` and `bench` see only the generated types in [`proto`].

// `pub` means that tests and benchmarks use it; everything else says how far it is seen.
#![warn(unreachable_pub)]

pub mod auth;
pub mod backend;
pub mod bench;
pub mod calibrator;
pub mod classifier;
pub mod cli;
pub mod client;
pub mod config;
pub mod digest;
pub mod engine;
pub mod errors;
pub mod fetch;
pub mod files;
pub mod gguf;
pub mod guard;
pub mod http;
pub mod memory;
pub mod model;
pub mod panics;
pub mod proto;
pub mod quality;
pub mod random;
pub mod receipt;
pub mod registry;
pub mod reload;
pub mod remote;
pub mod rpc;
pub mod secret;
pub mod status_code;
pub mod telemetry;
pub mod text;
pub mod tls;
pub mod trace_context;
pub mod translation_prompt;
