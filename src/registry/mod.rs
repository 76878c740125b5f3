//! Model ids to resident models: what is loaded, in which role, in which state. Owns the engine.

mod error;
mod load;
mod state;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use self::state::States;
pub use self::{
    error::{LookupError, RegistryError},
    state::ModelState,
};
use crate::{
    engine::{self, EngineConfig, EngineHandle, EngineThread, ModelIndex, ModelStats},
    guard::{Guard, GuardKind},
    kernels::Precision,
    model::{
        Device, ModelLimits,
        load::{LoadOptions, LoadedModel},
    },
    text::{ChatTemplate, Tokenizer},
};

/// How long [`Registry::shutdown`] waits for the engine's thread.
const JOIN_LIMIT: Duration = Duration::from_secs(10);

/// A suggestion is made when the spelling is at least this close (Jaro-Winkler, 0..=1).
const SUGGESTION_LIKENESS: f64 = 0.75;

/// What a model id may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelRole {
    /// Generate, and the answering half of Score.
    Target,
    /// Classify, and the judging half of Score.
    Guard,
}

/// One model id of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// What callers name it by.
    pub id: String,
    /// A GGUF file or a Hugging Face folder.
    pub path: PathBuf,
    /// What it may be used for; at least one.
    pub roles: Vec<ModelRole>,
    /// Which guard prompt it was trained on; found out from the model when absent.
    pub guard_kind: Option<GuardKind>,
}

/// Everything [`Registry::load`] needs.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// At least one. Ids with the same canonical path share one resident model.
    pub models: Vec<ModelSpec>,
    /// The target for requests that name none; the first target when absent.
    pub default_target: Option<String>,
    /// The guard for requests that name none; the first guard when absent.
    pub default_guard: Option<String>,
    /// How models are made resident.
    pub load: LoadOptions,
    /// Limits of the engine.
    pub engine: EngineConfig,
}

/// A resident model in parts, for [`Registry::from_parts`].
pub struct ModelParts {
    /// The ids that stand for it; their paths are not looked at.
    pub specs: Vec<ModelSpec>,
    /// Weights and KV pool.
    pub loaded: LoadedModel,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template; base models have none.
    pub template: Option<Arc<ChatTemplate>>,
    /// `sha256:<hex>` of the weights.
    pub digest: String,
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
    /// Where it computes.
    pub device: Device,
    /// Bytes of weights and KV pool.
    pub resident_bytes: u64,
    /// `sha256:<hex>` of the weights.
    pub digest: String,
    /// Vocabulary, window and KV pool.
    pub limits: ModelLimits,
    /// When it could first be used.
    pub ready_at: SystemTime,
}

/// One model id.
pub struct ModelEntry {
    /// What callers name it by.
    pub id: String,
    /// What it may be used for.
    pub roles: Vec<ModelRole>,
    /// The model behind it.
    pub resident: Arc<Resident>,
    /// Prompts and verdicts, when it may judge.
    pub guard: Option<Arc<Guard>>,
    position: usize,
}

impl ModelEntry {
    /// Whether it may be used so.
    pub fn has(&self, role: ModelRole) -> bool {
        self.roles.contains(&role)
    }
}

/// All resident models. Cheap lookups, no locks on the way of a request.
pub struct Registry {
    entries: Vec<Arc<ModelEntry>>,
    by_id: BTreeMap<String, usize>,
    default_target: Option<usize>,
    default_guard: Option<usize>,
    engine: EngineHandle,
    engine_config: EngineConfig,
    thread: Mutex<Option<EngineThread>>,
    states: States,
}

/// Defaults and engine limits for [`Registry::from_parts`].
#[derive(Debug, Clone)]
pub struct PartsOptions {
    /// See [`RegistryOptions::default_target`].
    pub default_target: Option<String>,
    /// See [`RegistryOptions::default_guard`].
    pub default_guard: Option<String>,
    /// Limits of the engine.
    pub engine: EngineConfig,
}

impl Registry {
    /// Loads weights, tokenizers, templates and guards, starts the engine, computes and pins the guards'
    /// policy prefixes. Blocks until every model is READY; the error names the model and the reason.
    pub fn load(options: RegistryOptions) -> Result<Arc<Self>, RegistryError> {
        let parts = load::open_all(&options)?;
        let RegistryOptions {
            default_target,
            default_guard,
            engine,
            ..
        } = options;
        Self::from_parts(
            parts,
            PartsOptions {
                default_target,
                default_guard,
                engine,
            },
        )
    }

    /// The same from models that are open already (tests, other loaders).
    pub fn from_parts(parts: Vec<ModelParts>, mut options: PartsOptions) -> Result<Arc<Self>, RegistryError> {
        // Metrics name a resident model by the first id that stands for it.
        let name = |part: &ModelParts| part.specs.first().map(|spec| spec.id.clone()).unwrap_or_default();
        options.engine.model_names = parts.iter().map(name).collect();
        let (entries, models) = load::assemble(parts)?;
        let mut by_id = BTreeMap::new();
        for entry in &entries {
            if by_id.insert(entry.id.clone(), entry.position).is_some() {
                return Err(RegistryError::DuplicateId(entry.id.clone()));
            }
        }
        let default_target = default_of(&entries, ModelRole::Target, options.default_target)?;
        let default_guard = default_of(&entries, ModelRole::Guard, options.default_guard)?;
        let (engine, thread) =
            engine::start(options.engine.clone(), models).map_err(RegistryError::Engine)?;
        load::pin_prefixes(&engine, &entries)?;
        let states = States::new(&entries);
        Ok(Arc::new(Self {
            entries,
            by_id,
            default_target,
            default_guard,
            engine,
            engine_config: options.engine,
            thread: Mutex::new(Some(thread)),
            states,
        }))
    }

    /// The target with this id; the default target for an empty id.
    pub fn target(&self, id: &str) -> Result<Arc<ModelEntry>, LookupError> {
        self.in_role(id, ModelRole::Target, self.default_target)
    }

    /// The guard with this id; the default guard for an empty id.
    pub fn guard(&self, id: &str) -> Result<Arc<ModelEntry>, LookupError> {
        self.in_role(id, ModelRole::Guard, self.default_guard)
    }

    /// The model with this id in whatever role; the default target, or else the default guard, for an empty
    /// id.
    pub fn any(&self, id: &str) -> Result<Arc<ModelEntry>, LookupError> {
        if id.is_empty() {
            let position = self.default_target.or(self.default_guard);
            return position
                .and_then(|position| self.entries.get(position).cloned())
                .ok_or(LookupError::NoDefault {
                    needs: ModelRole::Target,
                });
        }
        match self
            .by_id
            .get(id)
            .and_then(|position| self.entries.get(*position))
        {
            Some(entry) => Ok(Arc::clone(entry)),
            None => Err(LookupError::NotFound {
                did_you_mean: self.closest(id),
            }),
        }
    }

    fn in_role(
        &self,
        id: &str,
        needs: ModelRole,
        default: Option<usize>,
    ) -> Result<Arc<ModelEntry>, LookupError> {
        if id.is_empty() {
            return default
                .and_then(|position| self.entries.get(position).cloned())
                .ok_or(LookupError::NoDefault { needs });
        }
        let entry = self.any(id)?;
        if entry.has(needs) {
            Ok(entry)
        } else {
            Err(LookupError::RoleMissing {
                has: entry.roles.clone(),
                needs,
            })
        }
    }

    fn closest(&self, id: &str) -> Option<String> {
        self.by_id
            .keys()
            .map(|known| (strsim::jaro_winkler(known, id), known))
            .filter(|(likeness, _)| *likeness >= SUGGESTION_LIKENESS)
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, known)| known.clone())
    }

    /// All ids, in the order of the configuration.
    pub fn list(&self) -> &[Arc<ModelEntry>] {
        &self.entries
    }

    /// What an id is fit for now.
    pub fn state(&self, entry: &ModelEntry) -> ModelState {
        self.states.of(entry.position)
    }

    /// States of all ids in the order of [`Registry::list`], now and whenever one changes.
    pub fn watch(&self) -> watch::Receiver<Vec<ModelState>> {
        self.states.subscribe()
    }

    /// Queue and pool of the model behind an id.
    pub fn stats(&self, entry: &ModelEntry) -> ModelStats {
        self.engine.stats(entry.resident.index)
    }

    /// Queues sequences on the models.
    pub fn engine(&self) -> &EngineHandle {
        &self.engine
    }

    /// Limits of the engine.
    pub fn engine_config(&self) -> &EngineConfig {
        &self.engine_config
    }

    /// Says that the model behind an id answered. Ends a FAILED state.
    pub fn record_answer(&self, entry: &ModelEntry) {
        self.states.answered(entry.resident.index);
    }

    /// Says that the model behind an id could not compute. After some in a row its ids are FAILED; they are
    /// still tried, and the first answer makes them READY again.
    pub fn record_fault(&self, entry: &ModelEntry) {
        self.states.faulted(entry.resident.index);
    }

    /// Marks every model DRAINING. The engine still takes sequences, because open requests may need more of
    /// them (Score judges what it has generated); whoever admits requests must ask [`Registry::is_draining`].
    pub fn begin_drain(&self) {
        self.states.drain();
    }

    /// Whether [`Registry::begin_drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.states.is_draining()
    }

    /// Ends the engine; what is still open fails. `false` when its thread has not ended after ten seconds.
    pub fn shutdown(&self) -> bool {
        self.begin_drain();
        self.engine.drain();
        self.engine.shutdown();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        thread.is_none_or(|thread| thread.join(JOIN_LIMIT))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shutdown();
    }
}

fn default_of(
    entries: &[Arc<ModelEntry>],
    role: ModelRole,
    id: Option<String>,
) -> Result<Option<usize>, RegistryError> {
    let mut candidates = entries.iter().filter(|entry| entry.has(role));
    let Some(id) = id else {
        return Ok(candidates.next().map(|entry| entry.position));
    };
    match candidates.find(|entry| entry.id == id) {
        Some(entry) => Ok(Some(entry.position)),
        None => Err(RegistryError::UnknownDefault {
            role: match role {
                ModelRole::Target => "target",
                ModelRole::Guard => "guard",
            },
            id,
        }),
    }
}
