//! Model ids to models in memory: what is loaded, on which device, in which role, in which state, within which budget. Owns
//! an engine for each device.

mod accounts;
mod asked;
mod assemble;
mod budget;
#[cfg(test)]
mod budget_tests;
mod declare;
mod device;
mod error;
mod loader;
mod model;
mod residency;
mod start;
mod state;
mod stats;
mod survey;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::watch;

use self::{
    accounts::Accounts,
    declare::{declare, default_of, over_budget, terms},
    device::Device,
    loader::Placement,
    residency::Core,
};
pub use self::{
    accounts::DeviceMemory,
    budget::{KvSize, Need, automatic_budget},
    device::DeviceOptions,
    error::{LoadFailure, LoadRefusal, LookupError, MemoryShortage, RegistryError, UnknownPolicy},
    loader::{ModelGroup, ModelLoader, OpenedModel},
    model::{
        Declared, DeclaredAdapter, Lease, ModelEntry, ModelNeed, ModelRole, ModelSpec, Resident,
        ResidentAdapter, Verdict,
    },
    start::StartProgress,
    state::{Change, ModelState, StateWatch},
    survey::{Surveyed, survey},
};
pub use crate::config::LoadPolicy;
use crate::{
    backend::{Backend, DeviceInfo},
    engine::{EngineConfig, ModelStats},
    guard::Policy,
    model::spec::{Precision, PrecisionChoice},
};

/// How long [`Registry::shutdown`] waits for the engine's thread.
const JOIN_LIMIT: Duration = Duration::from_secs(10);

/// A suggestion is made when the spelling is at least this close (Jaro-Winkler, 0..=1).
const SUGGESTION_LIKENESS: f64 = 0.75;

/// Everything [`Registry::prepare`] needs.
#[derive(Clone)]
pub struct RegistryOptions {
    /// At least one. Ids with the same canonical path, device and precision share one resident model.
    pub models: Vec<ModelSpec>,
    /// Upper limit on context windows, in tokens; the models' own where absent or larger.
    pub max_context: Option<usize>,
    /// The precision of models that say nothing of it themselves.
    pub precision: PrecisionChoice,
    /// What computes: one for each of the devices of `start`, in the same order.
    pub backends: Vec<Arc<dyn Backend>>,
    /// Everything else.
    pub start: StartOptions,
}

impl RegistryOptions {
    /// The models as they will be loaded.
    fn groups(&self) -> Result<Vec<ModelGroup>, RegistryError> {
        let limits = self.start.devices.iter().map(DeviceOptions::batch_limits);
        let devices: Vec<_> = self.backends.iter().cloned().zip(limits).collect();
        let placement = Placement {
            max_context: self.max_context,
            precision: self.precision,
            devices: &devices,
        };
        loader::group(self.models.clone(), &placement)
    }
}

/// How much memory models may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryOptions {
    /// Bytes of weights, KV pools and buffers, all models together.
    pub budget: u64,
    /// Size of each KV pool.
    pub kv: KvSize,
}

/// All models that the configuration declares.
pub struct Registry {
    declared: Vec<Arc<Declared>>,
    by_id: BTreeMap<String, usize>,
    default_target: Option<usize>,
    default_guard: Option<usize>,
    default_quality: Option<usize>,
    core: Arc<Core>,
}

/// What [`Registry::prepare_groups`] needs besides models.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// The target for requests that name none; the first target when absent.
    pub default_target: Option<String>,
    /// The guard for requests that name none; the first guard when absent.
    pub default_guard: Option<String>,
    /// The quality estimator for requests that name none; the first one when absent.
    pub default_quality: Option<String>,
    /// What requests may let guards judge by, each name once.
    pub policies: Vec<Policy>,
    /// The devices that models are loaded onto; at least one.
    pub devices: Vec<DeviceOptions>,
}

impl Registry {
    /// Starts the engine, loads weights, tokenizers, templates and guards of eager models, computes and pins the
    /// guards' policy prefixes. Blocks until every eager model is READY; the error names the model and the
    /// reason.
    pub fn load(options: RegistryOptions) -> Result<Arc<Self>, RegistryError> {
        let registry = Self::prepare(options)?;
        registry.load_eager()?;
        Ok(registry)
    }

    /// Checks everything that headers tell and starts the engine; [`Registry::load_eager`] is what is left. Blocks
    /// while it reads.
    pub fn prepare(options: RegistryOptions) -> Result<Arc<Self>, RegistryError> {
        let groups = options.groups()?;
        Self::prepare_groups(groups, options.start)
    }

    /// [`Registry::prepare`] with models from anywhere.
    pub fn prepare_groups(
        groups: Vec<ModelGroup>,
        options: StartOptions,
    ) -> Result<Arc<Self>, RegistryError> {
        if options.devices.is_empty() {
            return Err(RegistryError::NoDevices);
        }
        let terms = groups
            .iter()
            .map(|group| Ok((group.device, terms(group, &options.devices[group.device])?)))
            .collect::<Result<Vec<_>, RegistryError>>()?;
        let groups = declare(groups)?;
        let mut declared: Vec<_> = groups
            .iter()
            .flat_map(|group| group.members.iter().cloned())
            .collect();
        declared.sort_by_key(|declared| declared.position);
        if declared.is_empty() {
            return Err(RegistryError::NoModels);
        }
        let mut by_id = BTreeMap::new();
        for declared in &declared {
            if by_id.insert(declared.id.clone(), declared.position).is_some() {
                return Err(RegistryError::DuplicateId(declared.id.clone()));
            }
        }
        let default_target = default_of(&declared, ModelRole::Target, options.default_target)?;
        let default_guard = default_of(&declared, ModelRole::Guard, options.default_guard)?;
        let default_quality = default_of(&declared, ModelRole::Quality, options.default_quality)?;
        let mut policies = BTreeMap::new();
        for policy in options.policies {
            if let Some(twice) = policies.insert(policy.name().to_owned(), Arc::new(policy)) {
                return Err(RegistryError::DuplicatePolicy(twice.name().to_owned()));
            }
        }
        let budgets: Vec<u64> = options
            .devices
            .iter()
            .map(|device| device.memory.budget)
            .collect();
        let accounts = Accounts::new(&budgets, &terms);
        if let Some(error) = over_budget(&accounts, &groups, &terms) {
            return Err(error);
        }
        stats::describe();
        let devices = options.devices.iter().map(Device::start);
        let devices = devices.collect::<Result<_, _>>().map_err(RegistryError::Engine)?;
        Ok(Arc::new(Self {
            declared,
            by_id,
            default_target,
            default_guard,
            default_quality,
            core: Arc::new(Core::new(groups, policies, accounts, devices)),
        }))
    }

    /// The target with this id; the default target for an empty id. Waits while it is on its way into memory.
    pub async fn target(&self, id: &str) -> Result<Lease, LookupError> {
        self.core.acquire(self.in_role(id, ModelRole::Target)?).await
    }

    /// The guard with this id; the default guard for an empty id. Waits while it is on its way into memory.
    pub async fn guard(&self, id: &str) -> Result<Lease, LookupError> {
        self.core.acquire(self.in_role(id, ModelRole::Guard)?).await
    }

    /// The quality estimator with this id; the first one for an empty id. Waits while it is on its way into memory.
    pub async fn estimator(&self, id: &str) -> Result<Lease, LookupError> {
        self.core.acquire(self.in_role(id, ModelRole::Quality)?).await
    }

    /// The model with this id in whatever role; the default target, or else the default guard, for an empty
    /// id. Waits while it is on its way into memory.
    pub async fn any(&self, id: &str) -> Result<Lease, LookupError> {
        self.core.acquire(self.find(id)?).await
    }

    /// What the configuration says of an id; of the default target, or else the default guard, for an empty
    /// one.
    pub fn find(&self, id: &str) -> Result<&Arc<Declared>, LookupError> {
        let position = if id.is_empty() {
            self.default_target.or(self.default_guard)
        } else {
            self.by_id.get(id).copied()
        };
        let declared = position.and_then(|position| self.declared.get(position));
        declared.ok_or_else(|| {
            if id.is_empty() {
                LookupError::NoDefault {
                    needs: ModelRole::Target,
                }
            } else {
                LookupError::NotFound {
                    did_you_mean: closest(self.by_id.keys(), id),
                }
            }
        })
    }

    /// The default of a role.
    pub fn default_of(&self, role: ModelRole) -> Option<&Arc<Declared>> {
        let position = match role {
            ModelRole::Target => self.default_target,
            ModelRole::Guard => self.default_guard,
            ModelRole::Quality => self.default_quality,
        };
        position.and_then(|position| self.declared.get(position))
    }

    fn in_role(&self, id: &str, needs: ModelRole) -> Result<&Arc<Declared>, LookupError> {
        if id.is_empty() {
            return self.default_of(needs).ok_or(LookupError::NoDefault { needs });
        }
        let declared = self.find(id)?;
        if declared.has(needs) {
            Ok(declared)
        } else {
            Err(LookupError::RoleMissing {
                has: declared.roles.clone(),
                needs,
            })
        }
    }

    /// The policy with this name.
    pub fn policy(&self, name: &str) -> Result<&Arc<Policy>, UnknownPolicy> {
        self.core.policies.get(name).ok_or_else(|| UnknownPolicy {
            did_you_mean: closest(self.core.policies.keys(), name),
        })
    }

    /// All policies, in the order of their names.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.core.policies.values()
    }

    /// All ids, in the order of the configuration.
    pub fn list(&self) -> &[Arc<Declared>] {
        &self.declared
    }

    /// What is in memory for an id.
    pub fn resident(&self, declared: &Declared) -> Option<Arc<ModelEntry>> {
        self.core.entry(declared)
    }

    /// What an id is fit for now.
    pub fn state(&self, declared: &Declared) -> ModelState {
        self.core.states.of(declared.position)
    }

    /// States of all ids in the order of [`Registry::list`], now and whenever one changes.
    pub fn states(&self) -> watch::Receiver<Vec<ModelState>> {
        self.core.states.subscribe()
    }

    /// States of all ids in the order of [`Registry::list`], and each change.
    pub fn watch(&self) -> StateWatch {
        self.core.watch()
    }

    /// Whether a request for an id in this state would be served, perhaps after loading its model.
    pub fn serves(&self, declared: &Declared, state: ModelState) -> bool {
        match state {
            ModelState::Ready => true,
            ModelState::Failed => false,
            ModelState::Unloaded | ModelState::Loading | ModelState::Draining => {
                declared.policy == LoadPolicy::Lazy && !self.is_draining()
            }
        }
    }

    /// Queue and pool of the model behind an id; all zero while it is not in memory.
    pub fn stats(&self, declared: &Declared) -> ModelStats {
        let entry = self.core.entry(declared);
        entry.map_or_else(ModelStats::default, |entry| {
            entry.resident.engine.stats(entry.resident.index)
        })
    }

    /// Loads the model behind an id, with all ids that share it, and waits until it is READY. It goes on when
    /// nobody waits any more. See [`Registry::request_load`] for `precision`.
    pub async fn load_model(
        &self,
        declared: &Declared,
        precision: Option<Precision>,
    ) -> Result<(), LoadRefusal> {
        let mut states = self.core.states.subscribe();
        let attempt = self.request_load(declared, precision).await?;
        loop {
            if let Some(outcome) = self.core.outcome(declared.group, attempt) {
                return outcome.map_err(LoadRefusal::from);
            }
            if states.changed().await.is_err() {
                return Err(LoadFailure::Closed.into());
            }
        }
    }

    /// Asks for the model behind an id to be loaded; returns a number of the load. Once that succeeds the model
    /// computes in `precision`, in later loads too; without one it stays as it is.
    pub async fn request_load(
        &self,
        declared: &Declared,
        precision: Option<Precision>,
    ) -> Result<u64, LoadRefusal> {
        let (core, group) = (Arc::clone(&self.core), declared.group);
        let span = tracing::Span::current();
        let begin = move || span.in_scope(|| core.request_load(group, precision));
        let begun = tokio::task::spawn_blocking(begin).await;
        begun.unwrap_or(Err(LoadFailure::Closed.into()))
    }

    /// Unloads the model behind an id, with all ids that share it. What is open may finish within `limit`.
    pub async fn unload_model(&self, declared: &Declared, limit: Duration) {
        let (core, group) = (Arc::clone(&self.core), declared.group);
        let span = tracing::Span::current();
        let unload = move || span.in_scope(|| core.unload(group, limit));
        // It goes on when nobody waits any more, and an end of the runtime is an end of everything.
        let _ = tokio::task::spawn_blocking(unload).await;
    }

    /// Keeps the model behind an id from being evicted, or no longer.
    pub fn pin_model(&self, declared: &Declared, pinned: bool) {
        self.core.set_pinned(declared.group, pinned);
    }

    /// Whether the model behind an id is never evicted.
    pub fn is_pinned(&self, declared: &Declared) -> bool {
        self.core.is_pinned(declared.group)
    }

    /// How the model behind an id computes, or would if it were loaded now.
    pub fn precision(&self, declared: &Declared) -> Precision {
        self.core.precision(declared.group)
    }

    /// What loading the model behind an id would take and come to, in `precision` or as it is. Reads its header.
    pub fn estimate_model(
        &self,
        declared: &Declared,
        precision: Option<Precision>,
    ) -> Result<ModelNeed, RegistryError> {
        let (need, context_length, verdict) = self.core.judge(declared.group, precision)?;
        let memory = self.memory_of(declared);
        Ok(ModelNeed {
            need,
            context_length,
            budget: memory.budget,
            available: memory.available,
            verdict,
        })
    }

    /// What the devices are, and their memory for models, in the order of [`StartOptions::devices`].
    pub fn devices(&self) -> Vec<(Arc<DeviceInfo>, DeviceMemory)> {
        let devices = self.core.devices.iter().enumerate();
        devices
            .map(|(index, device)| (Arc::clone(&device.info), self.core.memory_of(index)))
            .collect()
    }

    /// The device that the model behind an id is loaded onto.
    pub fn device_of(&self, declared: &Declared) -> &DeviceInfo {
        &self.core.devices[self.core.groups[declared.group].device].info
    }

    /// The memory of the device that the model behind an id is loaded onto.
    pub fn memory_of(&self, declared: &Declared) -> DeviceMemory {
        self.core.inner().accounts.of_model(declared.group)
    }

    /// Limits of the engine of the device that the model behind an id is loaded onto.
    pub fn engine_config(&self, declared: &Declared) -> &EngineConfig {
        &self.core.devices[self.core.groups[declared.group].device].config
    }

    /// Says that the model behind an id answered. Ends a FAILED state.
    pub fn record_answer(&self, entry: &ModelEntry) {
        self.core.answered(entry.group);
    }

    /// Says that the model behind an id could not compute. After some in a row its ids are FAILED; they are
    /// still tried, and the first answer makes them READY again.
    pub fn record_fault(&self, entry: &ModelEntry) {
        self.core.faulted(entry.group);
    }

    /// Marks every model DRAINING. The engine still takes sequences, because open requests may need more of
    /// them (Score judges what it has generated); whoever admits requests must ask [`Registry::is_draining`].
    pub fn begin_drain(&self) {
        self.core.begin_drain();
    }

    /// Whether [`Registry::begin_drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.core.is_draining()
    }

    /// Ends the engines; what is still open fails. `false` when the thread of one has not ended after ten seconds.
    pub fn shutdown(&self) -> bool {
        self.begin_drain();
        // All of them, whether or not one hangs.
        let ended = self.core.devices.iter().map(|device| device.shutdown(JOIN_LIMIT));
        ended.fold(true, |all, ended| all && ended)
    }
}

/// What is spelled most like `id`, when anything is close.
fn closest<'a>(known: impl Iterator<Item = &'a String>, id: &str) -> Option<String> {
    known
        .map(|known| (strsim::jaro_winkler(known, id), known))
        .filter(|(likeness, _)| *likeness >= SUGGESTION_LIKENESS)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known.clone())
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shutdown();
    }
}
