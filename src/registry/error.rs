//! Why a model cannot be loaded, or found.

use std::{fmt, path::PathBuf};

use super::{budget::MemoryNeed, device_options::MemoryPlace, model::ModelRole, placement::PassedOver};
use crate::{
    classifier::{ClassifierFamily, LabelsError},
    engine::{AddModelError, SequenceError, SubmitError},
    errors::with_causes,
    guard::GuardError,
    memory::human_bytes,
    model::LoadError,
    model::spec::{DeviceName, Precision},
    remote::EndpointError,
    text::{TemplateError, TokenizerError},
};

/// Why the registry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No model is configured.
    #[error("no models are configured: name at least one (--model ID=PATH)")]
    NoModels,
    /// Two models have the same id.
    #[error("model id `{0}` is configured twice")]
    DuplicateId(String),
    /// Two policies have the same name.
    #[error("policy `{0}` is configured twice")]
    DuplicatePolicy(String),
    /// There is no device to load models onto.
    #[error("there is no device to load models onto")]
    NoDevices,
    /// A model names a device that there is not.
    #[error("model `{id}`: there is no device `{device}`; there are {}", listed(known))]
    UnknownDevice {
        /// The model.
        id: String,
        /// The device that it names.
        device: DeviceName,
        /// The devices that there are.
        known: Vec<DeviceName>,
    },
    /// Automatic placement found no device for a model.
    #[error("model `{id}`: no device can take it: {}", passed_over_text(passed_over))]
    NoPlace {
        /// The model.
        id: String,
        /// Why each device cannot take it.
        passed_over: Vec<PassedOver>,
    },
    /// A model's results may depend on what else is in its batch, and the configuration does not allow that.
    #[error(
        "model `{id}`: engine.deterministic is required, but in {} on {device} its last bits may depend on what else is in \
         the batch: load it onto another device (models.ID.device), such as the cpu, or in another precision \
         (models.ID.precision), or allow it (engine.deterministic = \"report\"), and provenance says so",
        precision.name()
    )]
    NotDeterministic {
        /// The model.
        id: String,
        /// Its device.
        device: DeviceName,
        /// The precision in which it was loaded.
        precision: Precision,
    },
    /// The base of an adapter is not a configured model.
    #[error("adapter `{id}`: its base `{base}` is not a configured model")]
    UnknownBase {
        /// Model id of the adapter.
        id: String,
        /// Model id of the base.
        base: String,
    },
    /// An endpoint cannot be used.
    #[error("model `{id}`: its endpoint cannot be used")]
    Endpoint {
        /// Model id.
        id: String,
        /// What is wrong.
        source: EndpointError,
    },
    /// It is asked what loading a model would take that is an endpoint.
    #[error("model `{0}` is an endpoint: it is never loaded here")]
    Remote(String),
    /// An id has no role.
    #[error("model `{0}` has no role: it must be a target, a guard or both")]
    NoRole(String),
    /// The default of a role does not name a model with that role.
    #[error("the default {role} `{id}` is not a configured {role}")]
    UnknownDefault {
        /// Name of the role: `target`, `guard` or `quality`.
        role: &'static str,
        /// Model id.
        id: String,
    },
    /// The path does not exist or cannot be read.
    #[error("model `{id}`: cannot read {path}")]
    Unreadable {
        /// Model id.
        id: String,
        /// Path of the model.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Its files changed while they were read.
    #[error(
        "model `{id}`: its files changed while they were being read; load it again when they are complete, and replace \
         files by renaming new ones over them"
    )]
    ChangedMeanwhile {
        /// Model id.
        id: String,
    },
    /// Its files are not those that were loaded before.
    #[error(
        "model `{id}`: its files have changed since they were first loaded (they were {promised} and are {found}): put the \
         old ones back, or accept the new ones with LoadModel (`babelward models load {id}`)"
    )]
    OtherFiles {
        /// Model id.
        id: String,
        /// Digest of the files that were loaded before.
        promised: String,
        /// Digest of the present files.
        found: String,
    },
    /// The weights could not be loaded.
    #[error("model `{id}` cannot be loaded")]
    Load {
        /// Model id.
        id: String,
        /// Which file and field.
        source: LoadError,
    },
    /// The tokenizer could not be loaded.
    #[error("model `{id}` cannot be loaded")]
    Tokenizer {
        /// Model id.
        id: String,
        /// What is wrong.
        source: TokenizerError,
    },
    /// The chat template could not be compiled.
    #[error("model `{id}` cannot be loaded")]
    Template {
        /// Model id.
        id: String,
        /// What is wrong.
        source: TemplateError,
    },
    /// The model cannot serve as a guard.
    #[error("model `{id}` cannot be loaded")]
    Guard {
        /// Model id.
        id: String,
        /// Why.
        source: GuardError,
    },
    /// A model has the role `quality` but is not a quality estimator.
    #[error(
        "model `{id}`: it has the role quality, but {path} is not the folder of a quality estimator (the architectures \
         in its config.json name none)"
    )]
    NoEstimator {
        /// Model id.
        id: String,
        /// Path of the model.
        path: PathBuf,
    },
    /// A quality estimator was given another role.
    #[error(
        "model `{id}` is a quality estimator ({kind}): its role can only be quality, and it takes no adapters"
    )]
    OnlyEstimator {
        /// Model id.
        id: String,
        /// Kind of the estimator.
        kind: &'static str,
    },
    /// A model has the role `classifier` but is no classifier.
    #[error(
        "model `{id}`: it has the role classifier, but {path} is not the folder of one: the architectures in its config.json have to \
         begin with one of {known}",
        known = ClassifierFamily::ARCHITECTURES.join(", ")
    )]
    NoClassifier {
        /// Model id.
        id: String,
        /// Path of the model.
        path: PathBuf,
    },
    /// A classifier was given another role.
    #[error("model `{id}` is a classifier: its role can only be classifier, and it takes no adapters")]
    OnlyClassifier {
        /// Model id.
        id: String,
    },
    /// A model with verdict heads was given another role.
    #[error("model `{id}` gives verdicts and no text: its role can only be guard, and it takes no adapters")]
    OnlyGuard {
        /// Model id.
        id: String,
    },
    /// The labels of a classifier cannot be read.
    #[error("model `{id}` cannot be loaded")]
    Labels {
        /// Model id.
        id: String,
        /// Why.
        source: LabelsError,
    },
    /// A thread of the engine, or for a load, could not be started.
    #[error("a thread could not be started: {0}")]
    Engine(std::io::Error),
    /// The engine refused the model.
    #[error("the engine refused the model")]
    NotTaken(#[from] AddModelError),
    /// Loading the model panicked.
    #[error("model `{id}`: loading it stopped unexpectedly")]
    LoadPanicked {
        /// Model id.
        id: String,
    },
    /// The eager models do not fit into the memory budget.
    #[error(
        "the models to load at the start {place} need {}, {} more than the memory budget of {}: {}; load some of them \
         lazily (models.ID.load = \"lazy\"), lower engine.kv_memory, {}",
        human_bytes(*needed), human_bytes(needed.saturating_sub(*budget)), human_bytes(*budget), shown(models),
        place.remedy()
    )]
    OverBudget {
        /// Where they would be.
        place: MemoryPlace,
        /// Bytes for all of them, with the smallest KV pools.
        needed: u64,
        /// Bytes of the memory budget.
        budget: u64,
        /// Each eager model with what it needs.
        models: Vec<(String, MemoryNeed)>,
    },
    /// There is no room for the model.
    #[error("model `{id}`: {shortage}")]
    Memory {
        /// Model id.
        id: String,
        /// What it needs and what is free.
        shortage: MemoryShortage,
    },
    /// The guard's policy prefix could not be queued.
    #[error("model `{id}`: the guard's policy text could not be computed")]
    PrefixRefused {
        /// Model id.
        id: String,
        /// Why.
        source: SubmitError,
    },
    /// The guard's policy prefix could not be computed.
    #[error("model `{id}`: the guard's policy text could not be computed")]
    PrefixFailed {
        /// Model id.
        id: String,
        /// Why.
        source: SequenceError,
    },
}

/// Why there is no room for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryShortage {
    /// Where it would be.
    pub place: MemoryPlace,
    /// What it needs, part by part.
    pub need: MemoryNeed,
    /// Bytes that it needs at least.
    pub needed: u64,
    /// Bytes that are free.
    pub available: u64,
    /// Bytes of the memory budget.
    pub budget: u64,
    /// Models in memory that are not pinned, each by its first id. Unloading some of them makes room.
    pub could_unload: Vec<String>,
    /// Whether there would be room if the models that may be evicted were idle, so that a later try may succeed.
    pub is_temporary: bool,
}

impl fmt::Display for MemoryShortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place,
            need,
            needed,
            available,
            budget,
            could_unload,
            ..
        } = self;
        write!(
            f,
            "it needs {} {place} ({}), and {} of the memory budget's {} are free",
            human_bytes(*needed),
            parts(need),
            human_bytes(*available),
            human_bytes(*budget)
        )?;
        if could_unload.is_empty() {
            write!(f, ", and all other models in memory are pinned")
        } else {
            write!(f, "; unloading could help: {}", could_unload.join(", "))
        }
    }
}

fn listed(devices: &[DeviceName]) -> String {
    let names: Vec<String> = devices.iter().map(DeviceName::to_string).collect();
    names.join(", ")
}

/// The reasons of all devices that automatic placement did not choose, as one text; empty when there are none.
pub fn passed_over_text(passed_over: &[PassedOver]) -> String {
    let reasons: Vec<String> = passed_over.iter().map(PassedOver::to_string).collect();
    reasons.join("; ")
}

/// What a model needs, part by part.
fn parts(need: &MemoryNeed) -> String {
    format!(
        "weights {}, buffers {}, key-value cache from {}",
        human_bytes(need.weights),
        human_bytes(need.scratch),
        human_bytes(need.kv_min)
    )
}

fn shown(models: &[(String, MemoryNeed)]) -> String {
    let each = models
        .iter()
        .map(|(id, need)| format!("{id} {} ({})", human_bytes(need.least()), parts(need)));
    each.collect::<Vec<_>>().join(", ")
}

/// A device that is lost: none of its models can answer any more in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceLoss {
    /// The device.
    pub device: DeviceName,
    /// What happened, as the device reported it.
    pub reason: String,
}

/// Why a model was not loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadFailure {
    /// There is no room for it.
    Memory(MemoryShortage),
    /// The model or its files are broken. The text is for the operator of the server.
    Broken(String),
    /// Its device is lost.
    DeviceLost(DeviceLoss),
    /// The server is shutting down.
    Closed,
}

/// Why a requested load did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadRefusal {
    /// The load failed.
    Failed(LoadFailure),
    /// It is an endpoint, which is never loaded here.
    Remote,
    /// The model is in memory, or being loaded, in another precision.
    Precision {
        /// The precision that it has.
        has: Precision,
        /// The precision that was requested.
        requested: Precision,
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
            LoadFailure::DeviceLost(loss) => Self::DeviceLost(loss),
            LoadFailure::Closed => Self::Closed,
        }
    }
}

/// The requested policy is not configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownPolicy {
    /// The name with the most similar spelling, if one is similar.
    pub did_you_mean: Option<String>,
}

/// Why a request's model cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupError {
    /// No configured model has this id.
    NotFound {
        /// The id with the most similar spelling, if one is similar.
        did_you_mean: Option<String>,
    },
    /// The request names no model, and no model has this role.
    NoDefault {
        /// The role that was needed.
        needs: ModelRole,
    },
    /// The model does not have the role that the request needs.
    RoleMissing {
        /// The roles that it has.
        has: Vec<ModelRole>,
        /// The role that is needed.
        needs: ModelRole,
    },
    /// Its model is not in memory, and requests do not load it.
    NotLoaded,
    /// Its model could not be loaded.
    LoadFailed,
    /// A step of its model has panicked, and the model has not been loaded again since.
    Stopped,
    /// Its model is being unloaded.
    Unloading,
    /// There is no room for its model.
    Memory(MemoryShortage),
    /// The device of its model is lost.
    DeviceLost(DeviceLoss),
    /// Its model is not in memory, and the server is shutting down.
    Closed,
    /// It is an endpoint, and the request needs a model that is loaded here.
    Remote,
}
