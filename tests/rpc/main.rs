//! The services as clients see them: a real server on a port of its own, real HTTP/2, and a scripted model, so
//! that every answer is known beforehand. One file per behaviour.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails, fails its test"
)]

#[path = "../common/alone.rs"]
mod alone;
#[path = "../common/authority.rs"]
mod authority;
#[path = "../common/classifiers.rs"]
mod classifiers_golden;
#[path = "../common/collector.rs"]
mod collector;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/credentials.rs"]
mod credentials;
#[path = "../common/endpoint.rs"]
mod endpoint;
#[path = "../common/estimators.rs"]
mod estimators;
#[path = "../common/python.rs"]
mod python;
#[path = "../common/rig.rs"]
mod rig;
#[path = "../common/scripted.rs"]
mod scripted;
#[path = "../common/verdict_heads.rs"]
mod verdict_heads_golden;

mod access;
mod admission;
mod authentication;
mod back_pressure;
mod calibrators;
mod cancellation;
mod chaos;
mod classifiers;
mod classify;
mod connections;
mod conversations;
mod deadlines;
mod decisions;
mod decisions_elsewhere;
mod devices;
mod doctor;
mod drain;
mod evidence;
mod external_clients;
mod faults;
mod fleet;
mod floods;
mod generate;
mod greedy;
mod guard_stream;
mod guarded_generate;
mod guards;
mod health;
mod long_texts;
mod models;
mod policies;
mod precision;
mod quality;
mod quality_held;
mod quotas;
mod raw;
mod receipts;
mod received;
mod remote_endpoint;
mod remote_guards;
mod remote_llama_server;
mod remote_targets;
mod renderings;
mod residency;
mod score;
mod secured;
mod simulation;
mod starting;
mod streaming_validation;
mod streams;
mod tenants;
mod traces;
mod translated_renderings;
mod validation;
mod verdict_heads;
mod windows;
