//! Faults of the device, which operations keep for the end of the step.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The first fault of a model's operations since faults were last taken. Loading and steps share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults(Arc<Mutex<Option<String>>>);

impl Faults {
    /// Keeps a fault, unless one is kept already: those after the first follow from it.
    pub(super) fn keep(&self, error: &candle_core::Error) {
        self.first().get_or_insert_with(|| text(error));
    }

    /// Whether a fault is kept.
    pub(super) fn any(&self) -> bool {
        self.first().is_some()
    }

    /// The first fault, which is forgotten.
    pub(super) fn take(&self) -> Option<String> {
        self.first().take()
    }

    fn first(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The message of an error, without the backtrace that candle writes below it when the environment asks for one.
pub(super) fn text(error: &candle_core::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}
