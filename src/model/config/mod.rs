//! Reads what a checkpoint says about its model, from GGUF metadata or a Hugging Face `config.json`, into a
//! [`ModelConfig`].

mod check;
mod gguf;
mod hf;
mod hf_fields;
mod hf_gpt;

use serde_json::Value as Json;

pub(crate) use self::gguf::reorders_heads;
use super::spec::ModelConfig;
use crate::gguf::Gguf;

impl ModelConfig {
    /// From a GGUF file's metadata.
    pub(crate) fn from_gguf(file: &Gguf) -> Result<Self, String> {
        gguf::read(file)?.validated()
    }

    /// From a Hugging Face `config.json`.
    pub(crate) fn from_json(json: &Json) -> Result<Self, String> {
        hf::read(json)?.validated()
    }
}
