//! All configured models by id, and what can be done with them.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

use super::{
    accounts::Accounts,
    budget::MemoryUse,
    declare::{declare, default_of, over_budget, residency_terms},
    device::Device,
    error::{DeviceLoss, LoadFailure, LoadRefusal, LookupError, RegistryError, UnknownPolicy},
    loader::ModelGroup,
    model::{Declared, ModelEntry, ModelRole, RemoteModel},
    operations::LoadAssessment,
    options::{RegistryOptions, StartOptions},
    placement::PassedOver,
    remote::{ModelAccess, declare_remotes},
    residency::{Lease, Residency},
    start::StartProgress,
    state::{ModelState, Phase, StateWatch},
    stats::{self, ResidentStats},
};
use crate::{
    backend::DeviceInfo,
    config::LoadPolicy,
    engine::{EngineConfig, ModelStats},
    guard::Policy,
    model::spec::Precision,
};

/// How long [`Registry::shutdown`] waits for the thread of each engine.
const JOIN_LIMIT: Duration = Duration::from_secs(10);

/// Least similarity of a name to an unknown one for it to be suggested (Jaro-Winkler, from 0 to 1).
const SUGGESTION_SIMILARITY: f64 = 0.75;

/// All models that the configuration declares.
pub struct Registry {
    declared: Vec<Arc<Declared>>,
    by_id: BTreeMap<String, usize>,
    default_target: Option<usize>,
    default_guard: Option<usize>,
    default_quality: Option<usize>,
    residency: Arc<Residency>,
}

impl Registry {
    /// Starts the engine, loads the weights, tokenizers, templates and guards of eager models, and computes and pins the
    /// guards' policy prefixes. Blocks until every eager model is READY. The error names the model and the reason.
    pub fn load(options: RegistryOptions) -> Result<Arc<Self>, RegistryError> {
        let registry = Self::prepare(options)?;
        registry.load_eager()?;
        Ok(registry)
    }

    /// Checks the models' headers and starts the engine. Blocks while it reads. [`Registry::load_eager`] then loads the
    /// eager models.
    pub fn prepare(options: RegistryOptions) -> Result<Arc<Self>, RegistryError> {
        let mut groups = options.groups()?;
        let mut start = options.start;
        start.leave_out_idle_devices(&mut groups);
        Self::prepare_groups(groups, start)
    }

    /// Like [`Registry::prepare`], with models that need not come from files.
    pub fn prepare_groups(
        groups: Vec<ModelGroup>,
        options: StartOptions,
    ) -> Result<Arc<Self>, RegistryError> {
        if options.devices.is_empty() {
            return Err(RegistryError::NoDevices);
        }
        let terms = groups
            .iter()
            .map(|group| residency_terms(group, &options.devices))
            .collect::<Result<Vec<_>, _>>()?;
        let groups = declare(groups)?;
        let mut declared: Vec<_> = groups
            .iter()
            .flat_map(|group| group.members.iter().cloned())
            .collect();
        declared.sort_by_key(|declared| declared.position);
        let remotes = declare_remotes(options.remotes, declared.len(), groups.len())?;
        declared.extend(remotes.iter().cloned());
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
            if let Some(duplicate) = policies.insert(policy.name().to_owned(), Arc::new(policy)) {
                return Err(RegistryError::DuplicatePolicy(duplicate.name().to_owned()));
            }
        }
        let accounts = Accounts::new(&options.devices, &terms);
        if let Some(error) = over_budget(&accounts, &groups, &terms, &options.devices) {
            return Err(error);
        }
        stats::describe();
        let devices = options.devices.iter().map(Device::start);
        let devices = devices.collect::<Result<_, _>>().map_err(RegistryError::Engine)?;
        let residency = Arc::new(Residency::new(
            groups,
            remotes.len(),
            policies,
            accounts,
            devices,
            options.determinism,
        ));
        residency.follow_devices();
        Ok(Arc::new(Self {
            declared,
            by_id,
            default_target,
            default_guard,
            default_quality,
            residency,
        }))
    }

    /// The target with this id, or the default target for an empty id. Waits while it is being loaded.
    pub async fn target(&self, id: &str) -> Result<ModelAccess, LookupError> {
        self.access(self.in_role(id, ModelRole::Target)?).await
    }

    /// The guard with this id, or the default guard for an empty id. Waits while it is being loaded.
    pub async fn guard(&self, id: &str) -> Result<ModelAccess, LookupError> {
        self.access(self.in_role(id, ModelRole::Guard)?).await
    }

    async fn access(&self, declared: &Arc<Declared>) -> Result<ModelAccess, LookupError> {
        match &declared.remote {
            Some(model) => Ok(ModelAccess::Remote(Arc::clone(model))),
            None => self.residency.acquire(declared).await.map(ModelAccess::Local),
        }
    }

    /// A lease on the quality estimator with this id, or on the default one for an empty id. Waits while it is being
    /// loaded.
    pub async fn estimator(&self, id: &str) -> Result<Lease, LookupError> {
        self.residency
            .acquire(self.in_role(id, ModelRole::Quality)?)
            .await
    }

    /// A lease on the classifier with this id. Waits while it is being loaded.
    pub async fn classifier(&self, id: &str) -> Result<Lease, LookupError> {
        self.residency
            .acquire(self.in_role(id, ModelRole::Classifier)?)
            .await
    }

    /// A lease on the model with this id in any role; for an empty id, on the default target, or else the default guard.
    /// Waits while it is being loaded.
    pub async fn any(&self, id: &str) -> Result<Lease, LookupError> {
        self.residency.acquire(self.find(id)?).await
    }

    /// The configured model with this id; for an empty id, the default target, or else the default guard.
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

    /// The model that serves requests for a role which name no model.
    pub fn default_of(&self, role: ModelRole) -> Option<&Arc<Declared>> {
        let position = match role {
            ModelRole::Target => self.default_target,
            ModelRole::Guard => self.default_guard,
            ModelRole::Quality => self.default_quality,
            // Requests name the classifiers that they want.
            ModelRole::Classifier => None,
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

    /// The configured policy with this name.
    pub fn policy(&self, name: &str) -> Result<&Arc<Policy>, UnknownPolicy> {
        self.residency.policies.get(name).ok_or_else(|| UnknownPolicy {
            did_you_mean: closest(self.residency.policies.keys(), name),
        })
    }

    /// All configured policies, in the order of their names.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.residency.policies.values()
    }

    /// All configured models, in the order of the configuration.
    pub fn list(&self) -> &[Arc<Declared>] {
        &self.declared
    }

    /// What is in memory for a model id; `None` while its model is not loaded.
    pub fn resident(&self, declared: &Declared) -> Option<Arc<ModelEntry>> {
        self.residency.entry(declared)
    }

    /// The present state of a model id.
    pub fn state(&self, declared: &Declared) -> ModelState {
        self.residency.states.of(declared.position)
    }

    /// The states of all ids, in the order of [`Registry::list`]. The receiver is notified whenever one changes.
    pub fn states(&self) -> watch::Receiver<Vec<ModelState>> {
        self.residency.states.subscribe()
    }

    /// The states of all ids, in the order of [`Registry::list`], and each change from then on.
    pub fn watch(&self) -> StateWatch {
        self.residency.watch()
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

    /// Counts of the queue and KV pool of the model behind an id. All are zero while it is not in memory. An endpoint has no KV
    /// pool here.
    pub fn stats(&self, declared: &Declared) -> ModelStats {
        if let Some(remote) = &declared.remote {
            let load = remote.endpoint.load();
            return ModelStats {
                queued: load.waiting,
                running: load.open,
                ..ModelStats::default()
            };
        }
        let entry = self.residency.entry(declared);
        entry.map_or_else(ModelStats::default, |entry| {
            entry.resident.engine.stats(entry.resident.index)
        })
    }

    /// Sets the gauges of all models together. They are looked up when somebody reads them, because each model is counted by
    /// the thread of its own device.
    pub fn record_totals(&self) {
        let models: Vec<_> = self
            .first_of_groups()
            .map(|declared| self.stats(declared))
            .collect();
        stats::record_totals(&models);
    }

    /// The models that are in memory, each with all of its ids and its counts, in the order of their first ids.
    pub fn resident_stats(&self) -> Vec<ResidentStats> {
        let resident = self
            .first_of_groups()
            .filter(|declared| self.resident(declared).is_some());
        let stats = resident.map(|declared| {
            let ids = self.list().iter().filter(|other| other.group == declared.group);
            ResidentStats {
                ids: ids.map(|declared| declared.id.clone()).collect(),
                stats: self.stats(declared),
            }
        });
        stats.collect()
    }

    /// One id of each model.
    fn first_of_groups(&self) -> impl Iterator<Item = &Declared> {
        let mut groups = HashSet::new();
        self.list()
            .iter()
            .map(AsRef::as_ref)
            .filter(move |declared: &&Declared| groups.insert(declared.group))
    }

    /// Loads the model behind an id, for all ids that share it, and waits until it is READY. The load goes on even when
    /// the future is dropped. See [`Registry::request_load`] for `precision`.
    pub async fn load_model(
        &self,
        declared: &Declared,
        precision: Option<Precision>,
    ) -> Result<(), LoadRefusal> {
        let mut states = self.residency.states.subscribe();
        let attempt = self.request_load(declared, precision).await?;
        loop {
            if let Some(outcome) = self.residency.outcome(declared.group, attempt) {
                return outcome.map_err(LoadRefusal::from);
            }
            if states.changed().await.is_err() {
                return Err(LoadFailure::Closed.into());
            }
        }
    }

    /// Requests that the model behind an id is loaded, and returns the number of the load. Once that succeeds, the model
    /// computes in `precision`, in later loads too. Without a precision, the one it has is kept.
    pub async fn request_load(
        &self,
        declared: &Declared,
        precision: Option<Precision>,
    ) -> Result<u64, LoadRefusal> {
        if declared.remote.is_some() {
            return Err(LoadRefusal::Remote);
        }
        let (residency, group) = (Arc::clone(&self.residency), declared.group);
        let span = tracing::Span::current();
        let begin = move || span.in_scope(|| residency.request_load(group, precision));
        let begun = tokio::task::spawn_blocking(begin).await;
        begun.unwrap_or(Err(LoadFailure::Closed.into()))
    }

    /// Unloads the model behind an id, for all ids that share it. Open requests may finish within `limit`. An endpoint stays as
    /// it is.
    pub async fn unload_model(&self, declared: &Declared, limit: Duration) {
        if declared.remote.is_some() {
            return;
        }
        let (residency, group) = (Arc::clone(&self.residency), declared.group);
        let span = tracing::Span::current();
        let unload = move || span.in_scope(|| residency.unload(group, limit));
        // The unload goes on even when the future is dropped. An error means that the runtime has ended.
        let _ = tokio::task::spawn_blocking(unload).await;
    }

    /// Sets whether the model behind an id is pinned, which means that it is never evicted. An endpoint stays as it is.
    pub fn pin_model(&self, declared: &Declared, pinned: bool) {
        if declared.remote.is_none() {
            self.residency.set_pinned(declared.group, pinned);
        }
    }

    /// Whether the model behind an id is pinned.
    pub fn is_pinned(&self, declared: &Declared) -> bool {
        declared.remote.is_none() && self.residency.is_pinned(declared.group)
    }

    /// The precision in which the model behind an id computes, or would if it were loaded now; `None` for an endpoint.
    pub fn precision(&self, declared: &Declared) -> Option<Precision> {
        let is_local = declared.remote.is_none();
        is_local.then(|| self.residency.precision(declared.group))
    }

    /// What loading the model behind an id would take, and whether there is room. `precision` is that of the load, or the
    /// present one when absent. Reads the model's header.
    pub fn estimate_model(
        &self,
        declared: &Declared,
        precision: Option<Precision>,
    ) -> Result<LoadAssessment, RegistryError> {
        match &declared.remote {
            Some(remote) => Err(RegistryError::Remote(remote.id.clone())),
            None => self.residency.assess(declared.group, precision),
        }
    }

    /// The devices, in the order of [`StartOptions::devices`], and the memory budget of each.
    pub fn devices(&self) -> Vec<(Arc<DeviceInfo>, MemoryUse)> {
        let state = self.residency.state();
        let devices = self.residency.devices.iter().enumerate();
        devices
            .map(|(index, device)| (Arc::clone(&device.info), state.accounts.of_device(index)))
            .collect()
    }

    /// The device that the model behind an id is loaded onto; `None` for an endpoint.
    pub fn device_of(&self, declared: &Declared) -> Option<&DeviceInfo> {
        self.local_device(declared).map(|device| &*device.info)
    }

    fn local_device(&self, declared: &Declared) -> Option<&Device> {
        let is_local = declared.remote.is_none();
        is_local.then(|| self.residency.device_of(declared.group))
    }

    /// What happened to the device of the model behind an id if it is lost; `None` while it works.
    pub fn device_loss(&self, declared: &Declared) -> Option<DeviceLoss> {
        self.local_device(declared)?.loss()
    }

    /// Whether a step of the model behind an id has panicked, and the model has not been loaded again since.
    pub fn is_stopped(&self, declared: &Declared) -> bool {
        let state = self.residency.state();
        let slot = state.slots.get(declared.group);
        slot.is_some_and(|slot| matches!(slot.phase, Phase::Stopping | Phase::Stopped))
    }

    /// Whether all devices work.
    pub fn has_all_devices(&self) -> bool {
        self.residency
            .devices
            .iter()
            .all(|device| device.loss().is_none())
    }

    /// Devices that automatic placement would have preferred for the model behind an id, and why it is not there.
    pub fn passed_over(&self, declared: &Declared) -> &[PassedOver] {
        let group = self.residency.groups.get(declared.group);
        group.map_or(&[], |group| &group.passed_over)
    }

    /// The limits of the engine of the device that the model behind an id is loaded onto; `None` for an endpoint.
    pub fn engine_config(&self, declared: &Declared) -> Option<&EngineConfig> {
        self.local_device(declared).map(|device| &device.config)
    }

    /// Records that the model behind an id has answered, which ends a FAILED state.
    pub fn record_answer(&self, entry: &ModelEntry) {
        self.residency.answered(entry.group);
    }

    /// Records that a forward pass of the model behind an id has failed. After several in a row its ids are FAILED. Requests
    /// are still tried then, and the first answer makes the ids READY again.
    pub fn record_fault(&self, entry: &ModelEntry) {
        self.residency.faulted(entry.group);
    }

    /// Records that an endpoint has answered, which ends a FAILED state.
    pub fn record_remote_answer(&self, model: &RemoteModel) {
        self.residency.answered(model.group);
    }

    /// Records that an endpoint has failed. After several failures in a row its id is FAILED. Requests are still tried then, and
    /// the first answer makes it READY again.
    pub fn record_remote_fault(&self, model: &RemoteModel) {
        self.residency.faulted(model.group);
    }

    /// Marks every model DRAINING. The engine still accepts sequences, because open requests may need more of them (Score
    /// judges what it has generated). So services must check [`Registry::is_draining`] before they accept a request.
    pub fn begin_drain(&self) {
        self.residency.begin_drain();
    }

    /// Whether [`Registry::begin_drain`] has been called.
    pub fn is_draining(&self) -> bool {
        self.residency.is_draining()
    }

    /// Ends the engines; open requests fail. Returns `false` when the thread of one has not ended after ten seconds.
    pub fn shutdown(&self) -> bool {
        self.begin_drain();
        // Every engine is told to end, even when one of them hangs.
        let mut ended = true;
        for device in &self.residency.devices {
            ended &= device.shutdown(JOIN_LIMIT);
        }
        ended
    }
}

/// The known name that is spelled most like `id`, if one is close.
fn closest<'a>(known: impl Iterator<Item = &'a String>, id: &str) -> Option<String> {
    known
        .map(|known| (strsim::jaro_winkler(known, id), known))
        .filter(|(similarity, _)| *similarity >= SUGGESTION_SIMILARITY)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known.clone())
}

impl Registry {
    /// Loads every eager model, and blocks until all are READY.
    ///
    /// # Errors
    /// Names the first model that could not be loaded and the reason. The registry never becomes ready then.
    pub fn load_eager(&self) -> Result<(), RegistryError> {
        self.residency.load_eager()
    }

    /// How many eager models have been loaded; `None` when all of them have been loaded once.
    pub fn starting(&self) -> Option<StartProgress> {
        self.residency.start_progress()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shutdown();
    }
}
