//! The parts of the program that contain `unsafe`, with their tests.

#[path = "../../../src/kernels/mod.rs"]
pub mod kernels;
