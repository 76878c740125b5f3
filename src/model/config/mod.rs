//! Reads what a checkpoint says about its model, from GGUF metadata or a Hugging Face `config.json`, into a
//! [`ModelConfig`].

mod check;
mod gguf;
mod granite;
mod hf;
mod hf_fields;
mod hf_gpt;
mod verdict_heads;

use serde_json::Value as Json;

pub(crate) use self::gguf::reorders_heads;
use super::{error::ConfigError, spec::ModelConfig};
use crate::gguf::Gguf;

impl ModelConfig {
    /// Reads the metadata of a GGUF file.
    ///
    /// # Errors
    /// When they describe no model that can be computed; names the key or tensor.
    pub(crate) fn from_gguf(file: &Gguf) -> Result<Self, ConfigError> {
        check::checked(gguf::read(file)?)
    }

    /// Reads a Hugging Face `config.json`.
    ///
    /// # Errors
    /// When it describes no model that can be computed; names the key.
    pub(crate) fn from_json(json: &Json) -> Result<Self, ConfigError> {
        check::checked(hf::read(json)?)
    }
}
