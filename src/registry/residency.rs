//! Models between disk and memory: loading with the first request or when asked, making room, unloading. Loads
//! run on threads of their own; the engine's steps go on meanwhile.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{
    Declared, Lease, LoadFailure, LoadPolicy, LookupError, MemoryShortage, ModelEntry, ModelLoader,
    RegistryError,
    accounts::{Accounts, DeviceMemory},
    assemble::install,
    budget::{Need, Shortage},
    device::Device,
    state::{Phase, States},
    stats::record_memory,
};
use crate::{backend::Footprint, errors::with_causes, guard::Policy, model::spec::Precision};

/// How long a load waits for a model that may be evicted to become idle.
const BUSY_PATIENCE: Duration = Duration::from_secs(1);

/// A model that is loaded and unloaded as one.
pub(super) struct Group {
    /// Index of the device that it is loaded onto.
    pub(super) device: usize,
    /// How it computes as configured.
    pub(super) precision: Precision,
    pub(super) loader: Box<dyn ModelLoader>,
    /// Ids that stand for it.
    pub(super) members: Vec<Arc<Declared>>,
}

impl Group {
    /// The first of its ids.
    pub(super) fn name(&self) -> &str {
        self.members.first().map_or("", |declared| declared.id.as_str())
    }

    /// Loaded when the server starts.
    pub(super) fn is_eager(&self) -> bool {
        let first = self.members.first();
        first.is_some_and(|declared| declared.policy == LoadPolicy::Eager)
    }
}

/// What requests, loads and unloads share.
pub(super) struct Core {
    pub(super) groups: Vec<Group>,
    /// By name.
    pub(super) policies: BTreeMap<String, Arc<Policy>>,
    pub(super) devices: Vec<Device>,
    pub(super) states: States,
    inner: Mutex<Inner>,
    /// Told when a use ends and when a phase changes.
    pub(super) changed: Condvar,
    /// Who makes room does so alone: else two could count on the same memory.
    making_room: Mutex<()>,
}

pub(super) struct Inner {
    pub(super) accounts: Accounts,
    pub(super) places: Vec<Place>,
    pub(super) draining: bool,
}

/// Where a model stands.
pub(super) struct Place {
    pub(super) phase: Phase,
    /// How it computes, or will with a load that names no precision.
    pub(super) precision: Precision,
    /// How it is to compute after the load that is under way; a load that fails changes nothing.
    pub(super) coming: Precision,
    /// Loads that were begun.
    pub(super) attempts: u64,
    /// The server is not ready before it has been loaded.
    pub(super) awaited: bool,
    /// The last load that failed, by its number.
    pub(super) failure: Option<(u64, LoadFailure)>,
    /// One entry for each id, in the order of the group's members; empty while it is not in memory.
    pub(super) entries: Vec<Arc<ModelEntry>>,
}

/// What a request for a model comes to at this moment.
enum Attempt {
    Leased(Lease),
    /// It is on its way: the load of this number, or one that can begin when it has gone.
    Wait(Option<u64>),
}

impl Core {
    pub(super) fn new(
        groups: Vec<Group>,
        policies: BTreeMap<String, Arc<Policy>>,
        accounts: Accounts,
        devices: Vec<Device>,
    ) -> Self {
        let mut group_of = Vec::new();
        for member in groups.iter().flat_map(|group| &group.members) {
            group_of.push((member.position, member.group));
        }
        group_of.sort_unstable();
        let place = |group: &Group| {
            let awaited = group.is_eager();
            let precision = group.precision;
            Place {
                precision,
                coming: precision,
                // Its load begins soon.
                phase: if awaited { Phase::Loading } else { Phase::Unloaded },
                attempts: 0,
                awaited,
                failure: None,
                entries: Vec::new(),
            }
        };
        let core = Self {
            states: States::new(group_of.into_iter().map(|(_, group)| group).collect()),
            inner: Mutex::new(Inner {
                accounts,
                places: groups.iter().map(place).collect(),
                draining: false,
            }),
            groups,
            policies,
            devices,
            changed: Condvar::new(),
            making_room: Mutex::new(()),
        };
        core.refresh(&core.inner());
        core
    }

    /// Nothing panics while it holds the lock in the middle of a change.
    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refresh(&self, inner: &Inner) {
        let phases: Vec<Phase> = inner.places.iter().map(|place| place.phase).collect();
        self.states.refresh(&phases, inner.draining);
        record_memory(inner.accounts.budget(), inner.accounts.taken());
        self.changed.notify_all();
    }

    /// Watches from a moment between two changes.
    pub(super) fn watch(&self) -> super::StateWatch {
        let _inner = self.inner();
        self.states.watch()
    }

    /// The model behind an id, in memory and kept there until the lease is dropped. Waits while it is on its
    /// way; a lazy one is sent for.
    pub(super) async fn acquire(self: &Arc<Self>, declared: &Declared) -> Result<Lease, LookupError> {
        let mut states = self.states.subscribe();
        let mut awaited = None;
        loop {
            match self.attempt(declared, awaited)? {
                Attempt::Leased(lease) => return Ok(lease),
                Attempt::Wait(load) => awaited = load,
            }
            tracing::debug!(model = declared.id.as_str(), "waits until the model is in memory");
            if states.changed().await.is_err() {
                return Err(LookupError::Closed);
            }
        }
    }

    fn attempt(self: &Arc<Self>, declared: &Declared, awaited: Option<u64>) -> Result<Attempt, LookupError> {
        let mut inner = self.inner();
        let place = &inner.places[declared.group];
        let lazy = declared.policy == LoadPolicy::Lazy;
        match place.phase {
            Phase::Ready => {
                let entry = place.entries.iter().find(|entry| entry.id == declared.id);
                let entry = Arc::clone(entry.ok_or(LookupError::NotLoaded)?);
                inner.accounts.enter(declared.group);
                Ok(Attempt::Leased(Lease {
                    entry,
                    core: Arc::clone(self),
                }))
            }
            Phase::Loading if inner.draining => Err(LookupError::Closed),
            Phase::Loading => Ok(Attempt::Wait(Some(place.attempts))),
            Phase::Draining if lazy && !inner.draining => Ok(Attempt::Wait(None)),
            Phase::Draining => Err(LookupError::Unloading),
            Phase::Broken => Err(LookupError::LoadFailed),
            Phase::Unloaded => match &place.failure {
                Some((attempt, failure)) if awaited == Some(*attempt) => Err(failure.clone().into()),
                _ if inner.draining => Err(LookupError::Closed),
                _ if lazy => {
                    let precision = place.precision;
                    let attempt = self.begin(&mut inner, declared.group, precision);
                    Ok(Attempt::Wait(Some(attempt)))
                }
                _ => Err(LookupError::NotLoaded),
            },
        }
    }

    /// Starts a load; returns its number.
    pub(super) fn begin(self: &Arc<Self>, inner: &mut Inner, group: usize, precision: Precision) -> u64 {
        let place = &mut inner.places[group];
        place.coming = precision;
        place.phase = Phase::Loading;
        place.attempts += 1;
        let attempt = place.attempts;
        self.refresh(inner);
        let core = Arc::clone(self);
        let thread = thread::Builder::new().name("model-load".to_owned());
        // What it logs belongs to the call that asked for it.
        let span = tracing::Span::current();
        if let Err(error) = thread.spawn(move || span.in_scope(|| core.run(group))) {
            self.failed(inner, group, &RegistryError::Engine(error));
        }
        attempt
    }

    /// A load on its own thread.
    fn run(&self, group: usize) {
        let began = Instant::now();
        let name = self.groups[group].name();
        match catch_unwind(AssertUnwindSafe(|| self.make(group))) {
            Ok(Ok(())) => {
                let seconds = began.elapsed().as_secs_f64();
                tracing::info!(model = name, seconds, "loaded");
            }
            Ok(Err(error)) => {
                tracing::error!(model = name, error = with_causes(&error), "could not be loaded");
                self.failed(&mut self.inner(), group, &error);
            }
            Err(_) => {
                tracing::error!(model = name, "loading it panicked");
                let error = RegistryError::LoadPanicked { id: name.to_owned() };
                self.failed(&mut self.inner(), group, &error);
            }
        }
    }

    fn failed(&self, inner: &mut Inner, group: usize, error: &RegistryError) {
        inner.accounts.release(group);
        let place = &mut inner.places[group];
        let failure = LoadFailure::from(error);
        // What lacked memory may fit later; what is broken stays so until somebody asks for another try.
        place.phase = match failure {
            LoadFailure::Broken(_) => Phase::Broken,
            LoadFailure::Memory(_) | LoadFailure::Closed => Phase::Unloaded,
        };
        place.failure = Some((place.attempts, failure));
        self.refresh(inner);
    }

    pub(super) fn make(&self, group: usize) -> Result<(), RegistryError> {
        let precision = self.inner().places[group].coming;
        let footprint = self.groups[group].loader.footprint(precision)?;
        let need = self.need(group, &footprint);
        let kv_bytes = self.make_room(group, need)?;
        let opened = self.groups[group].loader.open(kv_bytes, precision)?;
        let adapters = opened
            .loaded
            .adapters
            .iter()
            .map(|adapter| adapter.resident_bytes);
        let weights = opened.loaded.weight_bytes + adapters.sum::<u64>();
        let taken = weights + opened.loaded.kv_bytes + need.scratch;
        // As it really is: estimates are exact unless the file was changed meanwhile.
        let settled = self.inner().accounts.take(group, taken);
        settled.map_err(|shortage| self.shortage(group, shortage))?;
        let (members, device) = (
            &self.groups[group].members,
            &self.devices[self.groups[group].device],
        );
        let entries = install(device, opened, members, &self.policies, need.scratch)?;
        let mut inner = self.inner();
        inner.accounts.settle(group);
        let place = &mut inner.places[group];
        place.entries = entries;
        place.phase = Phase::Ready;
        place.precision = precision;
        place.awaited = false;
        place.failure = None;
        self.states.answered(group);
        self.refresh(&inner);
        Ok(())
    }

    pub(super) fn need(&self, group: usize, footprint: &Footprint) -> Need {
        self.devices[self.groups[group].device].need(footprint)
    }

    /// Sets aside what a model needs; who has to go for it goes first. Returns the size of its KV pool.
    fn make_room(&self, group: usize, need: Need) -> Result<u64, RegistryError> {
        let _alone = self.making_room.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = {
            let mut inner = self.inner();
            inner.accounts.set_need(group, need);
            let began = Instant::now();
            let plan = loop {
                let shortage = match inner.accounts.plan(group, need) {
                    Ok(plan) => break plan,
                    Err(shortage) => shortage,
                };
                let left = BUSY_PATIENCE.saturating_sub(began.elapsed());
                if !shortage.passing || left.is_zero() {
                    return Err(self.shortage(group, shortage));
                }
                let waited = self.changed.wait_timeout(inner, left);
                inner = waited.unwrap_or_else(PoisonError::into_inner).0;
            };
            // Nobody uses them, and nobody begins to.
            for &evicted in &plan.evict {
                inner.accounts.unsettle(evicted);
                inner.places[evicted].phase = Phase::Draining;
            }
            self.refresh(&inner);
            plan
        };
        for evicted in plan.evict {
            let (gone, room_for) = (self.groups[evicted].name(), self.groups[group].name());
            tracing::info!(model = gone, room_for, "evicted");
            self.take_down(evicted);
        }
        let taken = self.inner().accounts.take(group, need.fixed() + plan.kv_bytes);
        taken.map_err(|shortage| self.shortage(group, shortage))?;
        Ok(plan.kv_bytes)
    }

    /// Takes a draining model out of the engine and gives its memory back to the system.
    fn take_down(&self, group: usize) {
        let entries = std::mem::take(&mut self.inner().places[group].entries);
        if let Some(entry) = entries.first() {
            entry.resident.engine.remove_model(entry.resident.index).wait();
        }
        drop(entries);
        let mut inner = self.inner();
        inner.accounts.release(group);
        inner.places[group].phase = Phase::Unloaded;
        self.refresh(&inner);
    }

    /// Unloads a model: nothing new begins; what is open may finish within `limit`, and fails then.
    pub(super) fn unload(&self, group: usize, limit: Duration) {
        let mut inner = self.inner();
        // One that is on its way in or out arrives first.
        while matches!(inner.places[group].phase, Phase::Loading | Phase::Draining) {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        match inner.places[group].phase {
            Phase::Ready => {}
            Phase::Broken => {
                inner.places[group].phase = Phase::Unloaded;
                return self.refresh(&inner);
            }
            Phase::Unloaded | Phase::Loading | Phase::Draining => return,
        }
        inner.accounts.unsettle(group);
        inner.places[group].phase = Phase::Draining;
        self.refresh(&inner);
        let idle = self
            .changed
            .wait_timeout_while(inner, limit, |inner| inner.accounts.in_use(group) > 0);
        let open = idle
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .accounts
            .in_use(group);
        let model = self.groups[group].name();
        if open > 0 {
            tracing::warn!(model, open, "unloaded with work in flight");
        }
        self.take_down(group);
        tracing::info!(model, "unloaded");
    }

    /// The memory of a device.
    pub(super) fn memory_of(&self, device: usize) -> DeviceMemory {
        self.inner().accounts.of_device(device)
    }

    /// The entry of an id whose model is in memory.
    pub(super) fn entry(&self, declared: &Declared) -> Option<Arc<ModelEntry>> {
        let inner = self.inner();
        let mut entries = inner.places[declared.group].entries.iter();
        entries.find(|entry| entry.id == declared.id).cloned()
    }

    pub(super) fn enter(&self, entry: &ModelEntry) {
        let mut inner = self.inner();
        if is_current(&inner.places[entry.group], entry) {
            inner.accounts.enter(entry.group);
        }
    }

    pub(super) fn leave(&self, entry: &ModelEntry) {
        let mut inner = self.inner();
        if is_current(&inner.places[entry.group], entry) {
            inner.accounts.leave(entry.group);
            // For who drains it, or wants its room.
            if inner.accounts.in_use(entry.group) == 0 {
                self.changed.notify_all();
            }
        }
    }

    /// See [`States::answered`].
    pub(super) fn answered(&self, group: usize) {
        if self.states.answered(group) {
            self.refresh(&self.inner());
        }
    }

    /// See [`States::faulted`].
    pub(super) fn faulted(&self, group: usize) {
        if self.states.faulted(group) {
            self.refresh(&self.inner());
        }
    }

    /// Every model that is READY is DRAINING from now on.
    pub(super) fn begin_drain(&self) {
        let mut inner = self.inner();
        inner.draining = true;
        self.refresh(&inner);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.inner().draining
    }

    pub(super) fn names(&self, groups: &[usize]) -> Vec<String> {
        let names = groups.iter().map(|&group| self.groups[group].name().to_owned());
        names.collect()
    }

    pub(super) fn told(&self, shortage: Shortage) -> MemoryShortage {
        MemoryShortage {
            needed: shortage.needed,
            available: shortage.available,
            budget: shortage.budget,
            could_unload: self.names(&shortage.unpinned),
            passing: shortage.passing,
        }
    }

    fn shortage(&self, group: usize, shortage: Shortage) -> RegistryError {
        RegistryError::Memory {
            id: self.groups[group].name().to_owned(),
            shortage: self.told(shortage),
        }
    }
}

/// Whether an entry is of the load that is in memory now.
fn is_current(place: &Place, entry: &ModelEntry) -> bool {
    let current = place.entries.first();
    current.is_some_and(|current| current.resident.index == entry.resident.index)
}
