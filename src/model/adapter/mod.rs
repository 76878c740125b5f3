//! LoRA adapters (arXiv 2106.09685): low-rank updates of a decoder's matrices, for some sequences of a batch.
//!
//! [`peft`] and [`gguf`] read what files have, in their own names and order, and [`dummy`] makes values up; [`weights`]
//! checks that against the base and brings it into the base's order.

mod base;
mod contents;
mod dummy;
mod error;
mod gguf;
mod module;
mod peft;
mod weights;

pub use self::error::AdapterError;
pub(crate) use self::{
    base::{Base, HeadOrder},
    contents::Extent,
    module::Site,
    weights::AdapterWeights,
};
