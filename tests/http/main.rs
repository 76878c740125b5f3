//! The HTTP port as clients see it: a real server on ports of its own, real HTTP/1.1, and a scripted model, so that every
//! answer is known beforehand. One file for each door, and for what all doors have in common.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails, fails its test"
)]

#[path = "../common/authority.rs"]
mod authority;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/credentials.rs"]
mod credentials;
#[path = "../common/python.rs"]
mod python;
#[path = "../common/rig.rs"]
mod rig;
#[path = "../common/scripted.rs"]
mod scripted;
mod support;

mod bodies;
mod connect;
mod connect_streams;
mod connections;
mod errors;
mod guardrails;
mod logs;
mod openai;
mod openai_client;
mod page;
mod protected;
mod remote;
mod remote_guards;
