//! What callers may request for one model: to load it, to pin it, and to assess what loading it would take.

use std::sync::{Arc, PoisonError};

use super::{
    budget::MemoryNeed,
    error::{LoadFailure, LoadRefusal, MemoryShortage, RegistryError},
    residency::{FilesAllowed, LoadOrder, Residency},
    state::Phase,
};
use crate::model::spec::Precision;

/// Whether a model could be loaded now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feasibility {
    /// It is in memory already.
    Resident {
        /// Bytes of its KV pool.
        kv_bytes: u64,
    },
    /// There is room for it.
    Fits {
        /// Bytes that its KV pool would get.
        kv_bytes: u64,
        /// Models that would be evicted for it, each by its first id.
        evict: Vec<String>,
    },
    /// There is no room for it.
    Lacks(MemoryShortage),
}

/// What loading a model would take, and whether there is room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadAssessment {
    /// Memory that it needs.
    pub need: MemoryNeed,
    /// Longest sequence, in tokens.
    pub context_length: usize,
    /// Bytes of the memory budget for models, of its device.
    pub budget: u64,
    /// Bytes of the budget that are free.
    pub available: u64,
    /// Whether it could be loaded now.
    pub feasibility: Feasibility,
}

impl Residency {
    /// Requests that a model is loaded, unless it is in memory or being loaded. Once the load succeeds, the model computes
    /// in `precision`; without one, its precision is kept. Returns the number of the load.
    pub(super) fn request_load(
        self: &Arc<Self>,
        group: usize,
        precision: Option<Precision>,
    ) -> Result<u64, LoadRefusal> {
        let requested = precision.map(|precision| self.groups[group].loader.effective(precision));
        let mut state = self.state();
        if state.draining {
            return Err(LoadFailure::Closed.into());
        }
        if let Some(loss) = self.device_of(group).loss() {
            return Err(LoadFailure::DeviceLost(loss).into());
        }
        // A model that is being unloaded is loaded again after that.
        while state.slots[group].is_leaving() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let slot = &state.slots[group];
        let has = match slot.phase {
            Phase::Unloaded | Phase::Broken | Phase::Stopped => {
                let precision = requested.unwrap_or(slot.precision);
                let order = LoadOrder {
                    precision,
                    files: FilesAllowed::Any,
                };
                return Ok(self.begin_load(&mut state, group, order));
            }
            Phase::Loading => slot.order.precision,
            Phase::Ready | Phase::Draining | Phase::Stopping => slot.precision,
        };
        match requested {
            Some(requested) if requested != has => Err(LoadRefusal::Precision { has, requested }),
            Some(_) | None => Ok(slot.attempts),
        }
    }

    /// How the load of this number ended; `None` while it goes on.
    pub(super) fn outcome(&self, group: usize, attempt: u64) -> Option<Result<(), LoadFailure>> {
        let state = self.state();
        let slot = &state.slots[group];
        match &slot.failure {
            Some(failed) if failed.attempt == attempt => Some(Err(failed.failure.clone())),
            _ if slot.phase == Phase::Loading && slot.attempts == attempt => None,
            _ => Some(Ok(())),
        }
    }

    /// Sets whether a model is pinned.
    pub(super) fn set_pinned(&self, group: usize, pinned: bool) {
        let mut state = self.state();
        state.accounts.set_pinned(group, pinned);
    }

    /// Whether a model is pinned.
    pub(super) fn is_pinned(&self, group: usize) -> bool {
        self.state().accounts.is_pinned(group)
    }

    /// The precision in which a model computes, or would if it were loaded now.
    pub(super) fn precision(&self, group: usize) -> Precision {
        let state = self.state();
        let slot = &state.slots[group];
        match slot.phase {
            Phase::Loading => slot.order.precision,
            Phase::Unloaded
            | Phase::Ready
            | Phase::Draining
            | Phase::Broken
            | Phase::Stopping
            | Phase::Stopped => slot.precision,
        }
    }

    /// What loading a model would take now, in `precision`, or in its present one when absent.
    pub(super) fn assess(
        &self,
        group: usize,
        precision: Option<Precision>,
    ) -> Result<LoadAssessment, RegistryError> {
        let loader = &self.groups[group].loader;
        let precision =
            precision.map_or_else(|| self.precision(group), |precision| loader.effective(precision));
        let footprint = loader.footprint(precision)?;
        let need = self.need(group, &footprint);
        let state = self.state();
        let feasibility = match state.slots[group].entries.first() {
            Some(entry) => Feasibility::Resident {
                kv_bytes: entry.resident.kv_bytes,
            },
            None => match state.accounts.plan(group, need) {
                Ok(plan) => Feasibility::Fits {
                    kv_bytes: plan.kv_bytes,
                    evict: self.names(&plan.evict),
                },
                Err(shortage) => Feasibility::Lacks(self.memory_shortage(group, need, shortage)),
            },
        };
        let memory = state.accounts.of_model(group);
        Ok(LoadAssessment {
            need,
            context_length: footprint.context_length,
            budget: memory.budget,
            available: memory.available,
            feasibility,
        })
    }
}
