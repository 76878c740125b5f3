//! Model ids as they are configured, and what is in memory for them.

use std::{fmt, path::PathBuf, sync::Arc, time::SystemTime};

use super::placement::PassedOver;
use crate::{
    backend::{AdapterIndex, Determinism, DeviceInfo, ModelLimits},
    classifier::TextClassifier,
    config::LoadPolicy,
    engine::{EngineHandle, ModelIndex},
    guard::{Guard, GuardKind},
    model::spec::{DeviceChoice, Precision, PrecisionChoice},
    quality::PairEncoder,
    remote::{EndpointOptions, RemoteEndpoint},
    text::{ChatTemplate, Tokenizer},
};

/// What a model id may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelRole {
    /// Answers: for Generate, and for the first half of Score.
    Target,
    /// Judges: for Classify, and for the second half of Score.
    Guard,
    /// Scores translations: for EstimateQuality.
    Quality,
    /// Labels texts: for Classify, beside a guard.
    Classifier,
}

/// One model id of the configuration, as it is written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// The name that callers use.
    pub id: String,
    /// A GGUF file or a Hugging Face folder.
    pub path: PathBuf,
    /// The device that it is loaded onto. An adapter is where its base is, whatever this says.
    pub device: DeviceChoice,
    /// The id whose model this LoRA adapter changes; `None` for a model of its own.
    pub base: Option<String>,
    /// What the model may be used for; at least one role.
    pub roles: Vec<ModelRole>,
    /// The guard prompt that the model was trained on; detected from the model when absent.
    pub guard_kind: Option<GuardKind>,
    /// The precision in which it computes; [`RegistryOptions::precision`](super::RegistryOptions::precision) when absent. An
    /// adapter computes in that of its base.
    pub precision: Option<PrecisionChoice>,
    /// When it is loaded. Of ids that share a model, the most eager one decides.
    pub load: LoadPolicy,
    /// Whether it is never evicted to make room for another model.
    pub pinned: bool,
}

/// A model id that is an endpoint, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteSpec {
    /// What the model may be used for; at least one role.
    pub roles: Vec<ModelRole>,
    /// The guard prompt that the model was trained on, if it is a guard.
    pub guard_kind: Option<GuardKind>,
    /// A GGUF file or Hugging Face folder with the model's tokenizer and template. Its weights are not read.
    pub tokenizer: Option<PathBuf>,
    /// Where the model is, and how it is asked. Its id is the model's.
    pub endpoint: EndpointOptions,
}

/// A model that an endpoint computes.
pub struct RemoteModel {
    /// The name that callers use.
    pub id: String,
    /// What the model may be used for.
    pub roles: Vec<ModelRole>,
    /// Asks it.
    pub endpoint: RemoteEndpoint,
    /// Builds prompts and reads verdicts, if it is a guard. It has a tokenizer only where the configuration names one.
    pub guard: Option<Arc<Guard>>,
    /// Its place behind the models that are loaded here, for its state.
    pub(super) group: usize,
}

impl fmt::Debug for RemoteModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("RemoteModel");
        shown.field("id", &self.id).field("roles", &self.roles);
        shown.field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// A model in memory, shared by all ids that stand for it.
pub struct Resident {
    /// Its index in the engine.
    pub index: ModelIndex,
    /// Turns text into its tokens.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template; `None` for base models.
    pub template: Option<Arc<ChatTemplate>>,
    /// Name of the architecture, for example `llama`.
    pub architecture: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Storage type of most weights.
    pub dtype: String,
    /// The precision in which it computes.
    pub precision: Precision,
    /// The device that it computes on.
    pub device: Arc<DeviceInfo>,
    /// Devices that automatic placement preferred to that one, and why it is not there.
    pub passed_over: Vec<PassedOver>,
    /// Which of its results are equal to the bit.
    pub determinism: Determinism,
    /// The engine of that device.
    pub engine: EngineHandle,
    /// Bytes of weights.
    pub weight_bytes: u64,
    /// Bytes of the KV pool. The system provides them as blocks are first used.
    pub kv_bytes: u64,
    /// Bytes of buffers for the largest batch.
    pub scratch_bytes: u64,
    /// `sha256:<hex>` of the weights.
    pub digest: String,
    /// Sizes of its vocabulary, context window and KV pool.
    pub limits: ModelLimits,
    /// When it became ready.
    pub ready_at: SystemTime,
}

impl Resident {
    /// Bytes of weights and KV pool.
    pub fn resident_bytes(&self) -> u64 {
        self.weight_bytes.saturating_add(self.kv_bytes)
    }
}

/// A LoRA adapter in memory.
pub struct ResidentAdapter {
    /// Its index among the adapters of its base.
    pub index: AdapterIndex,
    /// Model id of its base.
    pub base: String,
    /// Largest rank of its updates.
    pub rank: usize,
    /// Number of its parameters.
    pub parameters: u64,
    /// Bytes of its weights.
    pub resident_bytes: u64,
    /// `sha256:<hex>` of its files.
    pub digest: String,
}

/// The adapter that a model id stands for.
#[derive(Debug, Clone)]
pub struct DeclaredAdapter {
    /// Model id of its base.
    pub base: String,
    /// Its index among the adapters of its base.
    pub(super) index: AdapterIndex,
}

/// A checked model id of the configuration, whether its model is in memory or not.
#[derive(Debug)]
pub struct Declared {
    /// The name that callers use.
    pub id: String,
    /// What the model may be used for.
    pub roles: Vec<ModelRole>,
    /// When its model is loaded.
    pub policy: LoadPolicy,
    /// The adapter that its model runs with for this id.
    pub adapter: Option<DeclaredAdapter>,
    /// The endpoint that computes it; `None` for a model that is loaded here.
    pub remote: Option<Arc<RemoteModel>>,
    pub(super) guard_kind: Option<GuardKind>,
    /// Position in the list of all ids.
    pub(super) position: usize,
    /// Index of its group, which is loaded as one model.
    pub(super) group: usize,
}

impl Declared {
    /// Whether it has this role.
    pub fn has(&self, role: ModelRole) -> bool {
        self.roles.contains(&role)
    }
}

/// A model id whose model is in memory.
pub struct ModelEntry {
    /// The name that callers use.
    pub id: String,
    /// What the model may be used for.
    pub roles: Vec<ModelRole>,
    /// The model behind the id.
    pub resident: Arc<Resident>,
    /// The adapter that the model runs with for this id.
    pub adapter: Option<Arc<ResidentAdapter>>,
    /// Builds prompts and reads verdicts, if it is a guard.
    pub guard: Option<Arc<Guard>>,
    /// Turns pairs of texts into tokens, if it is a quality estimator.
    pub quality: Option<Arc<PairEncoder>>,
    /// Turns texts into tokens and has the labels, if it is a classifier.
    pub classifier: Option<Arc<TextClassifier>>,
    /// See [`Declared::group`].
    pub(super) group: usize,
}
