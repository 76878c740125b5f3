//! Why models cannot be loaded, or found.

use std::path::PathBuf;

use super::ModelRole;
use crate::{
    engine::{SequenceError, SubmitError},
    guard::GuardError,
    model::load::LoadError,
    text::{TemplateError, TokenizerError},
};

/// Why the registry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Nothing to serve.
    #[error("no models are configured: name at least one (--model ID=PATH)")]
    NoModels,
    /// An id stands for two models.
    #[error("model id `{0}` is configured twice")]
    DuplicateId(String),
    /// An id has no role.
    #[error("model `{0}` has no role: it must be a target, a guard or both")]
    NoRole(String),
    /// A default names no model of that role.
    #[error("the default {role} `{id}` is not a configured {role}")]
    UnknownDefault {
        /// `target` or `guard`.
        role: &'static str,
        /// The id.
        id: String,
    },
    /// The path does not exist or cannot be read.
    #[error("model `{id}`: {path}: {source}")]
    Unreadable {
        /// The id.
        id: String,
        /// Its path.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The weights could not be loaded.
    #[error("model `{id}`: {source}")]
    Load {
        /// The id.
        id: String,
        /// Which file and field.
        source: LoadError,
    },
    /// The tokenizer could not be loaded.
    #[error("model `{id}`: {source}")]
    Tokenizer {
        /// The id.
        id: String,
        /// What is wrong.
        source: TokenizerError,
    },
    /// The chat template could not be compiled.
    #[error("model `{id}`: {source}")]
    Template {
        /// The id.
        id: String,
        /// What is wrong.
        source: TemplateError,
    },
    /// The model cannot serve as a guard.
    #[error("model `{id}`: {source}")]
    Guard {
        /// The id.
        id: String,
        /// Why.
        source: GuardError,
    },
    /// The engine's thread could not be started.
    #[error("the engine could not be started: {0}")]
    Engine(std::io::Error),
    /// The guard's policy prefix could not be queued.
    #[error("model `{id}`: the guard's policy text could not be computed: {source}")]
    PrefixRefused {
        /// The id.
        id: String,
        /// Why.
        source: SubmitError,
    },
    /// The guard's policy prefix could not be computed.
    #[error("model `{id}`: the guard's policy text could not be computed: {source}")]
    PrefixFailed {
        /// The id.
        id: String,
        /// Why.
        source: SequenceError,
    },
}

/// Why a request's model cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupError {
    /// No such id.
    NotFound {
        /// The closest id, when one is close.
        did_you_mean: Option<String>,
    },
    /// The request names no model and no model has this role.
    NoDefault {
        /// The role that was needed.
        needs: ModelRole,
    },
    /// The model is not configured for this.
    RoleMissing {
        /// What it is configured for.
        has: Vec<ModelRole>,
        /// What was needed.
        needs: ModelRole,
    },
}
