//! The parts of the program that contain `unsafe`, with their tests, and the types that they need.
#![allow(dead_code, unused_imports, reason = "the rest of the program uses it")]

/// What models are.
#[path = "../../../src/model"]
pub mod model {
    pub mod spec;
}

/// Numbers from a seed.
#[path = "../../../src/random.rs"]
pub mod random;

/// What computes them.
#[path = "../../../src/backend"]
pub mod backend {
    /// The host processor.
    pub mod cpu {
        pub mod kernels;
    }
}
