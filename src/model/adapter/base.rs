//! The model that an adapter belongs to.

use crate::model::{config::reorders_heads, spec::ModelConfig};

/// What an adapter has to fit.
pub(crate) struct Base<'a> {
    pub config: &'a ModelConfig,
    /// The order in which the model's file has the rows of its queries and keys.
    pub heads: HeadOrder,
    /// `general.architecture`, when the model is a GGUF file.
    pub gguf_architecture: Option<&'a str>,
}

/// The order of the rows of queries' and keys' heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadOrder {
    /// Hugging Face's: the two rows that are rotated together are half a head apart.
    Halves,
    /// llama.cpp's for some architectures: the two rows that are rotated together are neighbours.
    Neighbours,
}

impl HeadOrder {
    /// The order in a GGUF file of this architecture, or in Hugging Face's tensors where there is none.
    pub(crate) fn of(gguf_architecture: Option<&str>) -> Self {
        match gguf_architecture {
            Some(architecture) if reorders_heads(architecture) => Self::Neighbours,
            _ => Self::Halves,
        }
    }
}
