//! What is asked of one model from outside: to be loaded, to stay, and what loading it would come to.

use std::sync::{Arc, PoisonError};

use super::{LoadFailure, LoadRefusal, RegistryError, Verdict, budget::Need, residency::Core, state::Phase};
use crate::model::spec::Precision;

impl Core {
    /// Asks for a model to be loaded, unless it is or is about to be; from then on it computes in `precision`, or as
    /// it did when there is none. Returns the load's number.
    pub(super) fn request_load(
        self: &Arc<Self>,
        group: usize,
        precision: Option<Precision>,
    ) -> Result<u64, LoadRefusal> {
        let asked = precision.map(|asked| self.groups[group].loader.effective(asked));
        let mut inner = self.inner();
        if inner.draining {
            return Err(LoadFailure::Closed.into());
        }
        // One that is on its way out is asked for again when it has gone.
        while inner.places[group].phase == Phase::Draining {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        let place = &inner.places[group];
        let has = match place.phase {
            Phase::Unloaded | Phase::Broken => {
                let precision = asked.unwrap_or(place.precision);
                return Ok(self.begin(&mut inner, group, precision));
            }
            Phase::Loading => place.coming,
            Phase::Ready | Phase::Draining => place.precision,
        };
        match asked {
            Some(asked) if asked != has => Err(LoadRefusal::Precision { has, asked }),
            Some(_) | None => Ok(place.attempts),
        }
    }

    /// How the load of this number ended; `None` while it has not.
    pub(super) fn outcome(&self, group: usize, attempt: u64) -> Option<Result<(), LoadFailure>> {
        let inner = self.inner();
        let place = &inner.places[group];
        match &place.failure {
            Some((failed, failure)) if *failed == attempt => Some(Err(failure.clone())),
            _ if place.phase == Phase::Loading && place.attempts == attempt => None,
            _ => Some(Ok(())),
        }
    }

    /// Keeps a model from being evicted, or no longer.
    pub(super) fn set_pinned(&self, group: usize, pinned: bool) {
        let mut inner = self.inner();
        inner.accounts.set_pinned(group, pinned);
    }

    pub(super) fn is_pinned(&self, group: usize) -> bool {
        self.inner().accounts.is_pinned(group)
    }

    /// How a model computes, or would if it were loaded now.
    pub(super) fn precision(&self, group: usize) -> Precision {
        let inner = self.inner();
        let place = &inner.places[group];
        match place.phase {
            Phase::Loading => place.coming,
            Phase::Unloaded | Phase::Ready | Phase::Draining | Phase::Broken => place.precision,
        }
    }

    /// What loading a model would come to now, in `precision`, or as it computes when there is none.
    pub(super) fn judge(
        &self,
        group: usize,
        precision: Option<Precision>,
    ) -> Result<(Need, usize, Verdict), RegistryError> {
        let loader = &self.groups[group].loader;
        let precision = precision.map_or_else(|| self.precision(group), |asked| loader.effective(asked));
        let footprint = loader.footprint(precision)?;
        let need = self.need(group, &footprint);
        let inner = self.inner();
        let verdict = match inner.places[group].entries.first() {
            Some(entry) => Verdict::Resident {
                kv_bytes: entry.resident.kv_bytes,
            },
            None => match inner.accounts.plan(group, need) {
                Ok(plan) => Verdict::Fits {
                    kv_bytes: plan.kv_bytes,
                    evict: self.names(&plan.evict),
                },
                Err(shortage) => Verdict::Lacks(self.told(shortage)),
            },
        };
        Ok((need, footprint.context_length, verdict))
    }
}
