//! Whether a model was tuned to follow instructions.

use serde::{Deserialize, Serialize};

/// Whether a model was tuned to follow instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tuning {
    /// A base model, which only continues text.
    Base,
    /// A model tuned to follow instructions.
    Instruct,
    /// Not known, because neither the model's name nor the user says.
    Unknown,
}
