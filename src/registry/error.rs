//! Why models cannot be loaded, or found.

use std::{fmt, path::PathBuf};

use super::ModelRole;
use crate::{
    engine::{AddModelError, SequenceError, SubmitError},
    errors::with_causes,
    guard::GuardError,
    memory::human_bytes,
    model::LoadError,
    model::spec::Precision,
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
    /// A name stands for two policies.
    #[error("policy `{0}` is configured twice")]
    DuplicatePolicy(String),
    /// There is nothing to compute on.
    #[error("there is no device to load models onto")]
    NoDevices,
    /// A model names a device that there is not.
    #[error("model `{id}`: there is no device `{device}`; there are {}", known.join(", "))]
    UnknownDevice {
        /// The model.
        id: String,
        /// The device that it names.
        device: String,
        /// The devices that there are.
        known: Vec<String>,
    },
    /// An adapter's base is no model of its own.
    #[error("adapter `{id}`: its base `{base}` is not a configured model")]
    UnknownBase {
        /// The adapter's id.
        id: String,
        /// The base's.
        base: String,
    },
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
    #[error("model `{id}`: cannot read {path}")]
    Unreadable {
        /// The id.
        id: String,
        /// Its path.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The weights could not be loaded.
    #[error("model `{id}` cannot be loaded")]
    Load {
        /// The id.
        id: String,
        /// Which file and field.
        source: LoadError,
    },
    /// The tokenizer could not be loaded.
    #[error("model `{id}` cannot be loaded")]
    Tokenizer {
        /// The id.
        id: String,
        /// What is wrong.
        source: TokenizerError,
    },
    /// The chat template could not be compiled.
    #[error("model `{id}` cannot be loaded")]
    Template {
        /// The id.
        id: String,
        /// What is wrong.
        source: TemplateError,
    },
    /// The model cannot serve as a guard.
    #[error("model `{id}` cannot be loaded")]
    Guard {
        /// The id.
        id: String,
        /// Why.
        source: GuardError,
    },
    /// A model with the role `quality` is none that judges translations.
    #[error(
        "model `{id}`: it has the role quality, but {path} is no folder of a quality estimator (its config.json names \
         none in architectures)"
    )]
    NoEstimator {
        /// The id.
        id: String,
        /// Its path.
        path: PathBuf,
    },
    /// A quality estimator was given another role.
    #[error(
        "model `{id}` is a quality estimator ({kind}): its role can only be quality, and it takes no adapters"
    )]
    OnlyEstimator {
        /// The id.
        id: String,
        /// What it is.
        kind: &'static str,
    },
    /// A thread of the engine, or for a load, could not be started.
    #[error("a thread could not be started: {0}")]
    Engine(std::io::Error),
    /// The engine did not take the model.
    #[error("the engine did not take the model")]
    NotTaken(#[from] AddModelError),
    /// Loading ended in a panic.
    #[error("model `{id}`: loading it stopped unexpectedly")]
    LoadPanicked {
        /// The id.
        id: String,
    },
    /// The models that are loaded at the start do not fit into the budget.
    #[error(
        "the models to load at the start need {}, {} more than the memory budget of {}: {}; load some of them \
         lazily (models.ID.load = \"lazy\"), lower engine.kv_memory, or raise memory.budget",
        human_bytes(*needed), human_bytes(needed.saturating_sub(*budget)), human_bytes(*budget), shown(models)
    )]
    OverBudget {
        /// Bytes for all of them, with the smallest KV pools.
        needed: u64,
        /// Bytes there are.
        budget: u64,
        /// Each with what it needs.
        models: Vec<(String, u64)>,
    },
    /// There is no room for the model.
    #[error("model `{id}`: {shortage}")]
    Memory {
        /// The id.
        id: String,
        /// The numbers.
        shortage: MemoryShortage,
    },
    /// The guard's policy prefix could not be queued.
    #[error("model `{id}`: the guard's policy text could not be computed")]
    PrefixRefused {
        /// The id.
        id: String,
        /// Why.
        source: SubmitError,
    },
    /// The guard's policy prefix could not be computed.
    #[error("model `{id}`: the guard's policy text could not be computed")]
    PrefixFailed {
        /// The id.
        id: String,
        /// Why.
        source: SequenceError,
    },
}

/// Why there is no room for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryShortage {
    /// Bytes that it needs at least.
    pub needed: u64,
    /// Bytes that are free.
    pub available: u64,
    /// Bytes that there are for models.
    pub budget: u64,
    /// Models in memory that are not pinned, each by its first id: unloading some of them makes room.
    pub could_unload: Vec<String>,
    /// Models that may be evicted are only busy: there can be room soon.
    pub passing: bool,
}

impl fmt::Display for MemoryShortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            needed,
            available,
            budget,
            could_unload,
            ..
        } = self;
        write!(
            f,
            "it needs {}, and {} of the memory budget's {} are free",
            human_bytes(*needed),
            human_bytes(*available),
            human_bytes(*budget)
        )?;
        if could_unload.is_empty() {
            write!(f, ", and nothing that is not pinned could be unloaded")
        } else {
            write!(f, "; unloading could help: {}", could_unload.join(", "))
        }
    }
}

fn shown(models: &[(String, u64)]) -> String {
    let each = models
        .iter()
        .map(|(id, needed)| format!("{id} {}", human_bytes(*needed)));
    each.collect::<Vec<_>>().join(", ")
}

/// Why a model was not loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadFailure {
    /// There is no room for it.
    Memory(MemoryShortage),
    /// Something is wrong with it: what, for whoever runs the server.
    Broken(String),
    /// The server is going away.
    Closed,
}

/// Why a load that somebody asked for came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadRefusal {
    /// It was tried.
    Failed(LoadFailure),
    /// The model is in memory, or on its way there, and computes otherwise.
    Precision {
        /// How.
        has: Precision,
        /// How it was asked for.
        asked: Precision,
    },
}

impl From<LoadFailure> for LoadRefusal {
    fn from(failure: LoadFailure) -> Self {
        Self::Failed(failure)
    }
}

impl From<&RegistryError> for LoadFailure {
    fn from(error: &RegistryError) -> Self {
        match error {
            RegistryError::Memory { shortage, .. } => Self::Memory(shortage.clone()),
            RegistryError::NotTaken(AddModelError::Closed)
            | RegistryError::PrefixRefused {
                source: SubmitError::Draining | SubmitError::EngineGone,
                ..
            }
            | RegistryError::PrefixFailed {
                source: SequenceError::ShuttingDown,
                ..
            } => Self::Closed,
            broken => Self::Broken(with_causes(broken)),
        }
    }
}

impl From<LoadFailure> for LookupError {
    fn from(failure: LoadFailure) -> Self {
        match failure {
            LoadFailure::Memory(shortage) => Self::Memory(shortage),
            LoadFailure::Broken(_) => Self::LoadFailed,
            LoadFailure::Closed => Self::Closed,
        }
    }
}

/// No policy has this name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownPolicy {
    /// The closest name, when one is close.
    pub did_you_mean: Option<String>,
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
    /// Its model is not in memory, and requests do not load it.
    NotLoaded,
    /// Its model could not be loaded.
    LoadFailed,
    /// Its model is on its way out of memory.
    Unloading,
    /// There is no room for its model.
    Memory(MemoryShortage),
    /// It is not in memory, and the server is going away.
    Closed,
}
