//! What callers know of an engine's models. An index is never given to another model.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    admission::AdmissionLedger, error::SubmitError, kv_blocks::KvCounts, stats::TokenTotals,
    verdict_pace::VerdictPaces,
};
use crate::backend::ModelLimits;

/// What callers know of one model.
pub(crate) struct ModelEntry {
    /// Sizes of the model and of its KV pool.
    pub limits: Arc<ModelLimits>,
    /// Open sequences and promised blocks.
    pub ledger: AdmissionLedger,
    /// The KV pool's counts after the last step.
    pub kv: KvCounts,
    /// Its tokens up to the last step.
    pub tokens: TokenTotals,
    /// Whether it accepts sequences.
    pub availability: Availability,
    /// How long its verdicts take.
    pub verdicts: VerdictPaces,
}

/// Whether a model accepts sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Availability {
    Open,
    /// A step of it has panicked.
    Stopped,
    /// It is being removed.
    Closed,
}

/// All models by index.
#[derive(Default)]
pub(crate) struct ModelTable {
    next_index: usize,
    models: BTreeMap<usize, ModelEntry>,
}

impl ModelTable {
    /// Adds a model, and returns an index that no model had before.
    pub(crate) fn add(&mut self, limits: ModelLimits) -> usize {
        let index = self.next_index;
        self.next_index += 1;
        let entry = ModelEntry {
            kv: KvCounts {
                available: limits.num_blocks,
                ..KvCounts::default()
            },
            tokens: TokenTotals::default(),
            limits: Arc::new(limits),
            ledger: AdmissionLedger::default(),
            availability: Availability::Open,
            verdicts: VerdictPaces::default(),
        };
        self.models.insert(index, entry);
        index
    }

    /// The model with this index if it accepts sequences; otherwise the reason why it does not.
    pub(crate) fn open(&mut self, index: usize) -> Result<&mut ModelEntry, SubmitError> {
        let was_added = index < self.next_index;
        match self.models.get_mut(&index) {
            Some(entry) => match entry.availability {
                Availability::Open => Ok(entry),
                Availability::Stopped => Err(SubmitError::ModelStopped),
                Availability::Closed => Err(SubmitError::ModelRemoved),
            },
            None if was_added => Err(SubmitError::ModelRemoved),
            None => Err(SubmitError::EngineGone),
        }
    }

    /// The model with this index, also while it is being removed.
    pub(crate) fn get(&self, index: usize) -> Option<&ModelEntry> {
        self.models.get(&index)
    }

    /// Like [`ModelTable::get`], to change the entry.
    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut ModelEntry> {
        self.models.get_mut(&index)
    }

    /// Removes a model's entry.
    pub(crate) fn remove(&mut self, index: usize) {
        self.models.remove(&index);
    }
}
