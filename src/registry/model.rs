//! Model ids, what is in memory for them, and who uses it.

use std::{ops::Deref, path::PathBuf, sync::Arc, time::SystemTime};

use super::{LoadPolicy, MemoryShortage, budget::Need, residency::Core};
use crate::{
    backend::{AdapterIndex, DeviceInfo, ModelLimits},
    engine::{EngineHandle, ModelIndex},
    guard::{Guard, GuardKind},
    model::{spec::Precision, spec::PrecisionChoice},
    quality::PairEncoder,
    text::{ChatTemplate, Tokenizer},
};

/// What a model id may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelRole {
    /// Generate, and the answering half of Score.
    Target,
    /// Classify, and the judging half of Score.
    Guard,
    /// EstimateQuality.
    Quality,
}

/// One model id of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// What callers name it by.
    pub id: String,
    /// A GGUF file or a Hugging Face folder.
    pub path: PathBuf,
    /// Name of the device that it is loaded onto; the first one when absent. An adapter is where its base is.
    pub device: Option<String>,
    /// The id whose model this LoRA adapter changes; `None` for a model of its own.
    pub base: Option<String>,
    /// What it may be used for; at least one.
    pub roles: Vec<ModelRole>,
    /// Which guard prompt it was trained on; found out from the model when absent.
    pub guard_kind: Option<GuardKind>,
    /// How it computes; as [`super::RegistryOptions::precision`] says when absent. An adapter computes as its base does.
    pub precision: Option<PrecisionChoice>,
    /// When it is loaded; of ids that share a model, the most eager one counts.
    pub load: LoadPolicy,
    /// It is never evicted to make room for another.
    pub pinned: bool,
}

/// A model in memory, shared by all ids that stand for it.
pub struct Resident {
    /// Its place in the engine.
    pub index: ModelIndex,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template; base models have none.
    pub template: Option<Arc<ChatTemplate>>,
    /// For example `llama`.
    pub architecture: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Storage type of most weights.
    pub dtype: String,
    /// How it computes.
    pub precision: Precision,
    /// The device that it computes on.
    pub device: Arc<DeviceInfo>,
    /// The engine of that device.
    pub engine: EngineHandle,
    /// Bytes of weights.
    pub weight_bytes: u64,
    /// Bytes of the KV pool. The system gives them as blocks are first used.
    pub kv_bytes: u64,
    /// Bytes that buffers grow to.
    pub scratch_bytes: u64,
    /// `sha256:<hex>` of the weights.
    pub digest: String,
    /// Vocabulary, window and KV pool.
    pub limits: ModelLimits,
    /// When it could first be used.
    pub ready_at: SystemTime,
}

impl Resident {
    /// Bytes of weights and KV pool.
    pub fn resident_bytes(&self) -> u64 {
        self.weight_bytes.saturating_add(self.kv_bytes)
    }
}

/// A LoRA adapter in memory, beside its base.
pub struct ResidentAdapter {
    /// Its place among the adapters of its base.
    pub index: AdapterIndex,
    /// The id of its base.
    pub base: String,
    /// The largest rank of its changes.
    pub rank: usize,
    /// Number of its parameters.
    pub parameters: u64,
    /// Bytes of its weights.
    pub resident_bytes: u64,
    /// `sha256:<hex>` of its files.
    pub digest: String,
}

/// Which adapter of its model an id stands for.
#[derive(Debug, Clone)]
pub struct DeclaredAdapter {
    /// The id of its base.
    pub base: String,
    /// Its place among the adapters of its base.
    pub(super) index: AdapterIndex,
}

/// A model id of the configuration, in memory or not.
#[derive(Debug)]
pub struct Declared {
    /// What callers name it by.
    pub id: String,
    /// What it may be used for.
    pub roles: Vec<ModelRole>,
    /// When its model is loaded.
    pub policy: LoadPolicy,
    /// What changes its model for this id.
    pub adapter: Option<DeclaredAdapter>,
    pub(super) guard_kind: Option<GuardKind>,
    /// Place in the list of all ids.
    pub(super) position: usize,
    /// Its model.
    pub(super) group: usize,
}

impl Declared {
    /// Whether it may be used so.
    pub fn has(&self, role: ModelRole) -> bool {
        self.roles.contains(&role)
    }
}

/// A model id whose model is in memory.
pub struct ModelEntry {
    /// What callers name it by.
    pub id: String,
    /// What it may be used for.
    pub roles: Vec<ModelRole>,
    /// The model behind it.
    pub resident: Arc<Resident>,
    /// What changes that model for this id.
    pub adapter: Option<Arc<ResidentAdapter>>,
    /// Prompts and verdicts, when it may judge.
    pub guard: Option<Arc<Guard>>,
    /// How pairs become tokens, when it judges translations.
    pub quality: Option<Arc<PairEncoder>>,
    /// See [`Declared::group`].
    pub(super) group: usize,
}

/// A model id in use: its model stays in memory until this is dropped, unless whoever unloads it has waited long
/// enough.
pub struct Lease {
    pub(super) entry: Arc<ModelEntry>,
    pub(super) core: Arc<Core>,
}

impl Deref for Lease {
    type Target = ModelEntry;

    fn deref(&self) -> &ModelEntry {
        &self.entry
    }
}

impl Clone for Lease {
    fn clone(&self) -> Self {
        self.core.enter(&self.entry);
        Self {
            entry: Arc::clone(&self.entry),
            core: Arc::clone(&self.core),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.core.leave(&self.entry);
    }
}

/// What loading a model would come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is in memory.
    Resident {
        /// Bytes of its KV pool.
        kv_bytes: u64,
    },
    /// There is room.
    Fits {
        /// Bytes that its KV pool would get.
        kv_bytes: u64,
        /// Models that would have to go.
        evict: Vec<String>,
    },
    /// There is not.
    Lacks(MemoryShortage),
}

/// What a model needs, and whether it can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelNeed {
    /// What it needs.
    pub need: Need,
    /// Longest sequence, in tokens.
    pub context_length: usize,
    /// Bytes that there are for models.
    pub budget: u64,
    /// Bytes that are free.
    pub available: u64,
    /// Whether it fits.
    pub verdict: Verdict,
}
