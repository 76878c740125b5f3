//! What is loaded before the server is ready.

use super::{Registry, RegistryError, residency::Core};

/// How far a server is on its way to being ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartProgress {
    /// Models that are loaded at the start and are in memory.
    pub ready: usize,
    /// Models that are loaded at the start.
    pub models: usize,
}

impl Registry {
    /// Loads every eager model and blocks until all are READY.
    ///
    /// # Errors
    /// The first model that could not be loaded, and why. The registry is not ready then, and never will be.
    pub fn load_eager(&self) -> Result<(), RegistryError> {
        self.core.load_eager()
    }

    /// How far eager models are; `None` when all of them have been loaded once.
    pub fn starting(&self) -> Option<StartProgress> {
        self.core.starting()
    }
}

impl Core {
    fn load_eager(&self) -> Result<(), RegistryError> {
        for (index, group) in self.groups.iter().enumerate() {
            if group.is_eager() {
                self.inner().places[index].attempts += 1;
                self.make(index)?;
            }
        }
        Ok(())
    }

    fn starting(&self) -> Option<StartProgress> {
        let inner = self.inner();
        let awaited = inner.places.iter().filter(|place| place.awaited).count();
        drop(inner);
        let models = self.groups.iter().filter(|group| group.is_eager()).count();
        (awaited > 0).then(|| StartProgress {
            ready: models.saturating_sub(awaited),
            models,
        })
    }
}
