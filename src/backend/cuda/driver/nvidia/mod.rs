//! Real cards: the CUDA driver, NVRTC and cuBLASLt, which are found and loaded when this program runs.

mod card;
mod compile;
mod context;
mod error;
mod kernel_cache;
mod libraries;
mod products;
mod queue;

pub use self::{
    card::{NvidiaCard, card_count},
    compile::compile,
    libraries::{Library, LibraryFinding, LibraryProblem, findings, load},
};
