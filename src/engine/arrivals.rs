//! What is on its way from callers to the engine's thread.

use std::sync::mpsc::Sender;

use super::{admission::Submission, step::ModelEngine};

/// A model that is being added.
pub(crate) struct AddedModel {
    /// Index of the model in the engine.
    pub index: usize,
    /// Its engine, ready to run.
    pub engine: Box<ModelEngine>,
}

/// A model that is being removed.
pub(crate) struct RemovedModel {
    /// Index of the model in the engine.
    pub index: usize,
    /// Receives the model's engine when the thread has let it go.
    pub receiver: Sender<Box<ModelEngine>>,
}

/// Everything that has arrived since the thread last looked. It is taken in the order of the fields.
#[derive(Default)]
pub(crate) struct Arrivals {
    /// Models to add, before the sequences that are for them.
    pub models: Vec<AddedModel>,
    /// Accepted sequences.
    pub sequences: Vec<Submission>,
    /// Models to remove, after their last sequences.
    pub removals: Vec<RemovedModel>,
}

impl Arrivals {
    /// Whether nothing has arrived.
    pub(crate) fn is_empty(&self) -> bool {
        self.models.is_empty() && self.sequences.is_empty() && self.removals.is_empty()
    }

    /// Moves everything to `other`.
    pub(crate) fn drain_to(&mut self, other: &mut Self) {
        other.models.append(&mut self.models);
        other.sequences.append(&mut self.sequences);
        other.removals.append(&mut self.removals);
    }
}
