//! The models of an engine as its callers know them. Places are never given to another model.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc::Sender},
};

use super::{
    SubmitError,
    admission::Book,
    inbox::{KvCounts, Submission},
    step::ModelEngine,
};
use crate::backend::ModelLimits;

/// What is on its way to the engine's thread.
#[derive(Default)]
pub struct Arrivals {
    /// Models and their places; they come before their sequences.
    pub models: Vec<(usize, Box<ModelEngine>)>,
    /// Accepted sequences.
    pub sequences: Vec<Submission>,
    /// Places of models that are to go, after their last sequences, and who wants them back.
    pub departures: Vec<(usize, Sender<Box<ModelEngine>>)>,
}

impl Arrivals {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.models.is_empty() && self.sequences.is_empty() && self.departures.is_empty()
    }

    /// Moves everything to `other`.
    pub fn drain_to(&mut self, other: &mut Self) {
        other.models.append(&mut self.models);
        other.sequences.append(&mut self.sequences);
        other.departures.append(&mut self.departures);
    }
}

/// What callers know of a model.
pub struct Slot {
    /// Its sizes.
    pub limits: Arc<ModelLimits>,
    /// What is open.
    pub book: Book,
    /// Its pool after the last step.
    pub kv: KvCounts,
    /// It is being removed.
    pub closed: bool,
}

/// All models by their places.
#[derive(Default)]
pub struct Slots {
    next: usize,
    slots: BTreeMap<usize, Slot>,
}

impl Slots {
    /// A place that no model ever had.
    pub fn add(&mut self, limits: ModelLimits) -> usize {
        let place = self.next;
        self.next += 1;
        let slot = Slot {
            kv: KvCounts {
                available: limits.num_blocks,
                ..KvCounts::default()
            },
            limits: Arc::new(limits),
            book: Book::default(),
            closed: false,
        };
        self.slots.insert(place, slot);
        place
    }

    /// A model that takes sequences, or why it does not.
    pub fn open(&mut self, place: usize) -> Result<&mut Slot, SubmitError> {
        let known = place < self.next;
        match self.slots.get_mut(&place) {
            Some(slot) if !slot.closed => Ok(slot),
            _ if known => Err(SubmitError::ModelRemoved),
            _ => Err(SubmitError::EngineGone),
        }
    }

    /// A model, also while it is being removed.
    pub fn get(&self, place: usize) -> Option<&Slot> {
        self.slots.get(&place)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, place: usize) -> Option<&mut Slot> {
        self.slots.get_mut(&place)
    }

    /// Forgets a model.
    pub fn remove(&mut self, place: usize) {
        self.slots.remove(&place);
    }
}
