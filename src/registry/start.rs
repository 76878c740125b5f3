//! Loads the eager models, before which the server is not ready.

use super::{error::RegistryError, residency::Residency};

/// How many of the eager models are loaded while the server starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartProgress {
    /// Eager models that are in memory.
    pub ready: usize,
    /// All eager models.
    pub models: usize,
}

impl Residency {
    /// Loads every eager model in turn.
    pub(super) fn load_eager(&self) -> Result<(), RegistryError> {
        for (index, group) in self.groups.iter().enumerate() {
            if group.is_eager() {
                self.state().slots[index].attempts += 1;
                self.load_now(index)?;
            }
        }
        Ok(())
    }

    /// See [`Registry::starting`](super::Registry::starting).
    pub(super) fn start_progress(&self) -> Option<StartProgress> {
        let state = self.state();
        let missing = state.slots.iter().filter(|slot| slot.required_at_start).count();
        drop(state);
        let models = self.groups.iter().filter(|group| group.is_eager()).count();
        (missing > 0).then(|| StartProgress {
            ready: models.saturating_sub(missing),
            models,
        })
    }
}
