//! Loads, evicts and unloads models: at the first request or when a caller requests it. Loads run on threads of their own,
//! while the engine's steps go on.

use std::{
    collections::BTreeMap,
    ops::Deref,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{
    accounts::Accounts,
    assemble::install,
    budget::{MemoryNeed, Shortage},
    declare::DeclaredGroup,
    device::Device,
    error::{LoadFailure, LookupError, MemoryShortage, RegistryError},
    model::{Declared, ModelEntry},
    state::{ModelStates, Phase, StateWatch},
    stats::record_memory,
};
use crate::{
    backend::{Determinism, Footprint, LoadedModel},
    config::{DeterminismPolicy, LoadPolicy},
    engine::{ModelIndex, SequenceError},
    errors::with_causes,
    guard::Policy,
    memory,
    model::spec::Precision,
    panics,
};

/// How long a load waits for a busy model that may be evicted to become idle.
const BUSY_PATIENCE: Duration = Duration::from_secs(1);

/// Which models are in memory. Requests, loads and unloads share it.
pub(super) struct Residency {
    pub(super) groups: Vec<DeclaredGroup>,
    /// Policies by name.
    pub(super) policies: BTreeMap<String, Arc<Policy>>,
    pub(super) devices: Vec<Device>,
    /// What is done about models whose results may depend on what else is in their batch.
    determinism: DeterminismPolicy,
    pub(super) states: ModelStates,
    /// Models that endpoints compute. They have states, behind those of the groups, and nothing else here.
    remotes: usize,
    state: Mutex<ResidencyState>,
    /// Notified when a lease ends and when a phase changes.
    pub(super) changed: Condvar,
    /// Held while room is made for a model. Otherwise two loads could count on the same memory.
    making_room: Mutex<()>,
}

/// What changes while models come and go.
pub(super) struct ResidencyState {
    pub(super) accounts: Accounts,
    /// One slot for each group.
    pub(super) slots: Vec<ModelSlot>,
    pub(super) draining: bool,
}

/// A load that failed.
pub(super) struct FailedLoad {
    /// Number of the load.
    pub(super) attempt: u64,
    pub(super) failure: LoadFailure,
}

/// What is known of one model.
pub(super) struct ModelSlot {
    pub(super) phase: Phase,
    /// The precision in which it computes, or will after a load that names none.
    pub(super) precision: Precision,
    /// What the load that is under way, or the next one, shall do. A load that fails does not change `precision`.
    pub(super) order: LoadOrder,
    /// Digests of the files that were loaded last: of the model, and of each adapter.
    promised: Option<Vec<String>>,
    /// Number of loads that were begun.
    pub(super) attempts: u64,
    /// Whether the server waits for its first load before it is ready.
    pub(super) required_at_start: bool,
    /// The last load, if it failed.
    pub(super) failure: Option<FailedLoad>,
    /// One entry for each id, in the order of the group's members; empty while the model is not in memory.
    pub(super) entries: Vec<Arc<ModelEntry>>,
}

/// What a load shall do.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoadOrder {
    /// The precision in which the model computes afterwards.
    pub(super) precision: Precision,
    /// Which files it may load.
    pub(super) files: FilesAllowed,
}

/// Which files a load accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FilesAllowed {
    /// Those that were loaded before, if any were. Callers were told their digest, and nobody has said that it may change.
    Promised,
    /// Any, because an operator has requested the load.
    Any,
}

impl ModelSlot {
    /// Refuses a model whose files are not those that callers were told of.
    fn check_promise(&self, id: &str, found: &[String]) -> Result<(), RegistryError> {
        let promised = match (self.order.files, &self.promised) {
            (FilesAllowed::Promised, Some(promised)) if promised != found => promised,
            (FilesAllowed::Any | FilesAllowed::Promised, _) => return Ok(()),
        };
        Err(RegistryError::OtherFiles {
            id: id.to_owned(),
            promised: promised.join(", "),
            found: found.join(", "),
        })
    }

    /// Whether the model is on its way out of memory.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Draining | Phase::Stopping)
    }
}

/// Whether a request can use its model at this moment.
enum LeaseAttempt {
    Leased(Lease),
    /// The model is being loaded, by the load of this number, or unloaded, after which a load can begin.
    Wait(Option<u64>),
}

impl Residency {
    pub(super) fn new(
        groups: Vec<DeclaredGroup>,
        remotes: usize,
        policies: BTreeMap<String, Arc<Policy>>,
        accounts: Accounts,
        devices: Vec<Device>,
        determinism: DeterminismPolicy,
    ) -> Self {
        let mut group_of = Vec::new();
        for member in groups.iter().flat_map(|group| &group.members) {
            group_of.push((member.position, member.group));
        }
        group_of.sort_unstable();
        let slot = |group: &DeclaredGroup| {
            let is_eager = group.is_eager();
            let precision = group.precision;
            ModelSlot {
                precision,
                order: LoadOrder {
                    precision,
                    files: FilesAllowed::Any,
                },
                promised: None,
                // The load of an eager model begins soon.
                phase: if is_eager { Phase::Loading } else { Phase::Unloaded },
                attempts: 0,
                required_at_start: is_eager,
                failure: None,
                entries: Vec::new(),
            }
        };
        let residency = Self {
            states: ModelStates::new(
                group_of
                    .into_iter()
                    .map(|(_, group)| group)
                    .chain((0..remotes).map(|index| groups.len() + index))
                    .collect(),
            ),
            remotes,
            state: Mutex::new(ResidencyState {
                accounts,
                slots: groups.iter().map(slot).collect(),
                draining: false,
            }),
            groups,
            policies,
            devices,
            determinism,
            changed: Condvar::new(),
            making_room: Mutex::new(()),
        };
        residency.refresh(&residency.state());
        residency
    }

    /// Locks the state. A poisoned lock is used all the same, because no code panics in the middle of a change.
    pub(super) fn state(&self) -> MutexGuard<'_, ResidencyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes the states of all models again whenever a device is lost, and takes models that have stopped out of memory.
    pub(super) fn follow_devices(self: &Arc<Self>) {
        for (position, device) in self.devices.iter().enumerate() {
            let residency = Arc::downgrade(self);
            device.engine.on_stop(move |index| {
                if let Some(residency) = residency.upgrade() {
                    residency.model_stopped(position, index);
                }
            });
            let residency = Arc::downgrade(self);
            device.engine.on_loss(move || {
                if let Some(residency) = residency.upgrade() {
                    residency.refresh(&residency.state());
                    residency.states.notify();
                }
            });
        }
    }

    /// Publishes the phases of all models and the memory that they take. On a lost device no model serves, and none can be
    /// loaded.
    fn refresh(&self, state: &ResidencyState) {
        let slots = state.slots.iter().enumerate();
        let phases = slots.map(|(group, slot)| match slot.phase {
            Phase::Unloaded | Phase::Ready if self.device_of(group).loss().is_some() => Phase::Broken,
            phase => phase,
        });
        // Whether an endpoint answers is seen when it is asked.
        let remotes = std::iter::repeat_n(Phase::Ready, self.remotes);
        let phases: Vec<Phase> = phases.chain(remotes).collect();
        self.states.refresh(&phases, state.draining);
        for (device, pool) in state.accounts.pools() {
            record_memory(
                self.devices[device].info.name,
                pool.budget,
                pool.budget - pool.available,
            );
        }
        self.changed.notify_all();
    }

    /// The states at a moment between two changes, and the changes from then on.
    pub(super) fn watch(&self) -> StateWatch {
        let _state = self.state();
        self.states.watch()
    }

    /// A lease on the model behind an id. Waits while the model is being loaded; a lazy one is loaded for the request.
    pub(super) async fn acquire(self: &Arc<Self>, declared: &Declared) -> Result<Lease, LookupError> {
        if declared.remote.is_some() {
            return Err(LookupError::Remote);
        }
        let mut states = self.states.subscribe();
        let mut awaited = None;
        loop {
            match self.try_lease(declared, awaited)? {
                LeaseAttempt::Leased(lease) => return Ok(lease),
                LeaseAttempt::Wait(load) => awaited = load,
            }
            tracing::debug!(
                model = declared.id.as_str(),
                "a request waits until the model is in memory"
            );
            if states.changed().await.is_err() {
                return Err(LookupError::Closed);
            }
        }
    }

    /// A lease, if the model is in memory. `awaited` is the number of the load that the request has waited for.
    fn try_lease(
        self: &Arc<Self>,
        declared: &Declared,
        awaited: Option<u64>,
    ) -> Result<LeaseAttempt, LookupError> {
        if let Some(loss) = self.device_of(declared.group).loss() {
            return Err(LookupError::DeviceLost(loss));
        }
        let mut state = self.state();
        let slot = &state.slots[declared.group];
        let lazy = declared.policy == LoadPolicy::Lazy;
        match slot.phase {
            Phase::Ready => {
                let entry = slot.entries.iter().find(|entry| entry.id == declared.id);
                let entry = Arc::clone(entry.ok_or(LookupError::NotLoaded)?);
                state.accounts.begin_use(declared.group);
                Ok(LeaseAttempt::Leased(Lease {
                    entry,
                    residency: Arc::clone(self),
                }))
            }
            Phase::Loading if state.draining => Err(LookupError::Closed),
            Phase::Loading => Ok(LeaseAttempt::Wait(Some(slot.attempts))),
            Phase::Draining if lazy && !state.draining => Ok(LeaseAttempt::Wait(None)),
            Phase::Draining => Err(LookupError::Unloading),
            Phase::Broken => Err(LookupError::LoadFailed),
            Phase::Stopping | Phase::Stopped => Err(LookupError::Stopped),
            Phase::Unloaded => match &slot.failure {
                Some(failed) if awaited == Some(failed.attempt) => Err(failed.failure.clone().into()),
                _ if state.draining => Err(LookupError::Closed),
                _ if lazy => {
                    let order = LoadOrder {
                        precision: slot.precision,
                        files: FilesAllowed::Promised,
                    };
                    let attempt = self.begin_load(&mut state, declared.group, order);
                    Ok(LeaseAttempt::Wait(Some(attempt)))
                }
                _ => Err(LookupError::NotLoaded),
            },
        }
    }

    /// Begins a load on a thread of its own, and returns the number of the load.
    pub(super) fn begin_load(
        self: &Arc<Self>,
        state: &mut ResidencyState,
        group: usize,
        order: LoadOrder,
    ) -> u64 {
        let slot = &mut state.slots[group];
        slot.order = order;
        slot.phase = Phase::Loading;
        slot.attempts += 1;
        let attempt = slot.attempts;
        self.refresh(state);
        let residency = Arc::clone(self);
        let thread = thread::Builder::new().name("model-load".to_owned());
        // Its log lines belong to the call that requested the load.
        let span = tracing::Span::current();
        if let Err(error) = thread.spawn(move || span.in_scope(|| residency.run_load(group))) {
            self.load_failed(state, group, &RegistryError::Engine(error));
        }
        attempt
    }

    /// Loads a model and logs the result. Runs on a thread of its own.
    fn run_load(&self, group: usize) {
        let began = Instant::now();
        let name = self.groups[group].name();
        match panics::catch(|| self.load_now(group)) {
            Ok(Ok(())) => {
                let seconds = began.elapsed().as_secs_f64();
                tracing::info!(model = name, seconds, "loaded");
            }
            Ok(Err(error)) => {
                tracing::error!(model = name, error = with_causes(&error), "could not be loaded");
                self.load_failed(&mut self.state(), group, &error);
            }
            Err(panicked) => {
                let (location, reason) = (panicked.location, panicked.reason);
                tracing::error!(model = name, location, reason, "loading it panicked");
                let error = RegistryError::LoadPanicked { id: name.to_owned() };
                self.load_failed(&mut self.state(), group, &error);
            }
        }
        memory::give_back_freed();
    }

    fn load_failed(&self, state: &mut ResidencyState, group: usize, error: &RegistryError) {
        state.accounts.release(group);
        let slot = &mut state.slots[group];
        let loss = self.device_of(group).loss();
        let failure = loss.map_or_else(|| LoadFailure::from(error), LoadFailure::DeviceLost);
        // A model that lacked memory may fit later; a broken one stays broken until a caller requests another load.
        slot.phase = match failure {
            LoadFailure::Broken(_) => Phase::Broken,
            LoadFailure::Memory(_) | LoadFailure::DeviceLost(_) | LoadFailure::Closed => Phase::Unloaded,
        };
        slot.failure = Some(FailedLoad {
            attempt: slot.attempts,
            failure,
        });
        self.refresh(state);
    }

    /// Loads a model on the calling thread.
    pub(super) fn load_now(&self, group: usize) -> Result<(), RegistryError> {
        let precision = self.state().slots[group].order.precision;
        let footprint = self.groups[group].loader.footprint(precision)?;
        let need = self.need(group, &footprint);
        let kv_bytes = self.make_room(group, need)?;
        let opened = self.groups[group].loader.open(kv_bytes, precision)?;
        let digests = std::iter::once(&opened.digest).chain(&opened.adapter_digests);
        let digests: Vec<String> = digests.cloned().collect();
        self.state().slots[group].check_promise(self.groups[group].name(), &digests)?;
        self.check_determinism(group, &opened.loaded)?;
        let adapters = opened
            .loaded
            .adapters
            .iter()
            .map(|adapter| adapter.resident_bytes);
        let weights = opened.loaded.weight_bytes + adapters.sum::<u64>();
        let taken = weights + opened.loaded.kv_bytes + need.scratch;
        // Reserves what the model really takes. The estimate was exact unless the file has changed since.
        let reserved = self.state().accounts.reserve(group, taken);
        reserved.map_err(|shortage| self.shortage_error(group, need, shortage))?;
        let entries = install(
            self.device_of(group),
            opened,
            &self.groups[group],
            &self.policies,
            need.scratch,
        )?;
        let mut state = self.state();
        if let Some(entry) = entries.first()
            && entry.resident.engine.is_stopped(entry.resident.index)
        {
            drop(state);
            entry.resident.engine.remove_model(entry.resident.index).wait();
            return Err(RegistryError::PrefixFailed {
                id: self.groups[group].name().to_owned(),
                source: SequenceError::ModelPanicked,
            });
        }
        state.accounts.mark_ready(group);
        let slot = &mut state.slots[group];
        slot.entries = entries;
        slot.phase = Phase::Ready;
        slot.precision = precision;
        slot.promised = Some(digests);
        slot.required_at_start = false;
        slot.failure = None;
        self.states.answered(group);
        self.refresh(&state);
        Ok(())
    }

    /// Refuses a model that was loaded and does not promise what the configuration requires.
    fn check_determinism(&self, group: usize, loaded: &LoadedModel) -> Result<(), RegistryError> {
        match (self.determinism, loaded.determinism) {
            (DeterminismPolicy::Required, Determinism::BestEffort) => Err(RegistryError::NotDeterministic {
                id: self.groups[group].name().to_owned(),
                device: self.device_of(group).info.name,
                precision: loaded.precision,
            }),
            (DeterminismPolicy::Report, _) | (_, Determinism::BatchInvariant) => Ok(()),
        }
    }

    /// The device that a model is loaded onto.
    pub(super) fn device_of(&self, group: usize) -> &Device {
        &self.devices[self.groups[group].device]
    }

    pub(super) fn need(&self, group: usize, footprint: &Footprint) -> MemoryNeed {
        self.device_of(group).need(footprint)
    }

    /// Reserves the memory that a model needs, after evicting other models where that is necessary. Returns the bytes of
    /// the model's KV pool.
    fn make_room(&self, group: usize, need: MemoryNeed) -> Result<u64, RegistryError> {
        let _guard = self.making_room.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = {
            let mut state = self.state();
            state.accounts.set_need(group, need);
            let began = Instant::now();
            let plan = loop {
                let shortage = match state.accounts.plan(group, need) {
                    Ok(plan) => break plan,
                    Err(shortage) => shortage,
                };
                let left = BUSY_PATIENCE.saturating_sub(began.elapsed());
                if !shortage.is_temporary || left.is_zero() {
                    return Err(self.shortage_error(group, need, shortage));
                }
                let waited = self.changed.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            };
            // The evicted models are idle, and from now on no request can begin to use them.
            for &evicted in &plan.evict {
                state.accounts.mark_unready(evicted);
                state.slots[evicted].phase = Phase::Draining;
            }
            self.refresh(&state);
            plan
        };
        for evicted in plan.evict {
            let (model, room_for) = (self.groups[evicted].name(), self.groups[group].name());
            tracing::info!(model, room_for, "evicted");
            self.remove_from_memory(evicted, Phase::Unloaded);
        }
        let bytes = need.fixed() + plan.kv_bytes;
        let reserved = self.state().accounts.reserve(group, bytes);
        reserved.map_err(|shortage| self.shortage_error(group, need, shortage))?;
        Ok(plan.kv_bytes)
    }

    /// Removes a model that is leaving from the engine, releases its memory, and gives it its next phase.
    fn remove_from_memory(&self, group: usize, next: Phase) {
        let entries = std::mem::take(&mut self.state().slots[group].entries);
        if let Some(entry) = entries.first() {
            let resident = &entry.resident;
            resident.engine.remove_model(resident.index).wait();
        }
        drop(entries);
        memory::give_back_freed();
        let mut state = self.state();
        state.accounts.release(group);
        state.slots[group].phase = next;
        self.refresh(&state);
    }

    /// Marks a model whose step has panicked as stopped, and takes it out of memory. Runs on the engine's thread.
    fn model_stopped(self: &Arc<Self>, device: usize, index: ModelIndex) {
        let mut state = self.state();
        let is_it = |group: &usize| {
            let entry = state.slots[*group].entries.first();
            self.groups[*group].device == device && entry.is_some_and(|entry| entry.resident.index == index)
        };
        // A model that stops while it is being loaded is not there yet, and its load fails.
        let Some(group) = (0..state.slots.len()).find(is_it) else {
            return;
        };
        if state.slots[group].phase != Phase::Ready {
            // It is leaving already.
            return;
        }
        state.accounts.mark_unready(group);
        state.slots[group].phase = Phase::Stopping;
        self.refresh(&state);
        let residency = Arc::clone(self);
        let thread = thread::Builder::new().name("model-unload".to_owned());
        let removal = move || residency.remove_from_memory(group, Phase::Stopped);
        if let Err(error) = thread.spawn(removal) {
            let model = self.groups[group].name();
            tracing::error!(model, %error, "a thread could not be started, and the engine drops the stopped model itself");
            // The engine takes it in its next turn, and nobody waits for it.
            for entry in std::mem::take(&mut state.slots[group].entries).iter().take(1) {
                drop(entry.resident.engine.remove_model(index));
            }
            state.accounts.release(group);
            state.slots[group].phase = Phase::Stopped;
            self.refresh(&state);
        }
    }

    /// Unloads a model. New requests are refused; open ones may finish within `limit`, and fail after that.
    pub(super) fn unload(&self, group: usize, limit: Duration) {
        let mut state = self.state();
        // A load or an unload that is under way ends first.
        while state.slots[group].phase == Phase::Loading || state.slots[group].is_leaving() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match state.slots[group].phase {
            Phase::Ready => {}
            Phase::Broken | Phase::Stopped => {
                state.slots[group].phase = Phase::Unloaded;
                return self.refresh(&state);
            }
            Phase::Unloaded | Phase::Loading | Phase::Draining | Phase::Stopping => return,
        }
        state.accounts.mark_unready(group);
        state.slots[group].phase = Phase::Draining;
        self.refresh(&state);
        let idle = self
            .changed
            .wait_timeout_while(state, limit, |state| state.accounts.in_use(group) > 0);
        let open = idle
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .accounts
            .in_use(group);
        let model = self.groups[group].name();
        if open > 0 {
            tracing::warn!(model, open, "unloaded with open requests");
        }
        self.remove_from_memory(group, Phase::Unloaded);
        tracing::info!(model, "unloaded");
    }

    /// The entry of an id whose model is in memory.
    pub(super) fn entry(&self, declared: &Declared) -> Option<Arc<ModelEntry>> {
        let state = self.state();
        let mut entries = state.slots.get(declared.group)?.entries.iter();
        entries.find(|entry| entry.id == declared.id).cloned()
    }

    /// Counts a lease, unless its model has been unloaded since.
    fn begin_use(&self, entry: &ModelEntry) {
        let mut state = self.state();
        if is_current(&state.slots[entry.group], entry) {
            state.accounts.begin_use(entry.group);
        }
    }

    /// Ends a lease.
    fn end_use(&self, entry: &ModelEntry) {
        let mut state = self.state();
        if is_current(&state.slots[entry.group], entry) {
            state.accounts.end_use(entry.group);
            // An unload or an eviction may be waiting for this.
            if state.accounts.in_use(entry.group) == 0 {
                self.changed.notify_all();
            }
        }
    }

    /// See [`ModelStates::answered`].
    pub(super) fn answered(&self, group: usize) {
        if self.states.answered(group) {
            self.refresh(&self.state());
        }
    }

    /// See [`ModelStates::faulted`].
    pub(super) fn faulted(&self, group: usize) {
        if self.states.faulted(group) {
            self.refresh(&self.state());
        }
    }

    /// Marks every READY model as DRAINING.
    pub(super) fn begin_drain(&self) {
        let mut state = self.state();
        state.draining = true;
        self.refresh(&state);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.state().draining
    }

    /// The first id of each of these groups.
    pub(super) fn names(&self, groups: &[usize]) -> Vec<String> {
        let names = groups.iter().map(|&group| self.groups[group].name().to_owned());
        names.collect()
    }

    /// The shortage of a model with this need, with the names of models.
    pub(super) fn memory_shortage(
        &self,
        group: usize,
        need: MemoryNeed,
        shortage: Shortage,
    ) -> MemoryShortage {
        MemoryShortage {
            place: self.device_of(group).memory,
            need,
            needed: shortage.needed,
            available: shortage.available,
            budget: shortage.budget,
            could_unload: self.names(&shortage.unpinned),
            is_temporary: shortage.is_temporary,
        }
    }

    fn shortage_error(&self, group: usize, need: MemoryNeed, shortage: Shortage) -> RegistryError {
        RegistryError::Memory {
            id: self.groups[group].name().to_owned(),
            shortage: self.memory_shortage(group, need, shortage),
        }
    }
}

/// Whether an entry belongs to the load that is in memory now.
fn is_current(slot: &ModelSlot, entry: &ModelEntry) -> bool {
    let current = slot.entries.first();
    current.is_some_and(|current| current.resident.index == entry.resident.index)
}

/// A model id in use. Its model stays in memory until the lease is dropped, or until an unload has waited for its limit.
pub struct Lease {
    entry: Arc<ModelEntry>,
    residency: Arc<Residency>,
}

impl Deref for Lease {
    type Target = ModelEntry;

    fn deref(&self) -> &ModelEntry {
        &self.entry
    }
}

impl Clone for Lease {
    fn clone(&self) -> Self {
        self.residency.begin_use(&self.entry);
        Self {
            entry: Arc::clone(&self.entry),
            residency: Arc::clone(&self.residency),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.residency.end_use(&self.entry);
    }
}
