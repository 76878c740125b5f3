//! The sequences of one model that hold no KV blocks, in one queue per class and tenant, each in order of rank.

use std::collections::BTreeMap;

use super::{
    request::Priority,
    sequence::{Rank, Sequence},
    tenant::Tenant,
};

/// Names the queue of one class and tenant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct QueueKey {
    /// The class of its sequences.
    pub class: Priority,
    /// The account that they are charged to.
    pub tenant: Tenant,
}

/// All queues of one model. Queues without sequences are removed.
#[derive(Default)]
pub(crate) struct WaitingQueues(BTreeMap<QueueKey, BTreeMap<Rank, Sequence>>);

impl WaitingQueues {
    /// Puts a sequence into its queue, in order of rank.
    pub(crate) fn insert(&mut self, sequence: Sequence) {
        let key = QueueKey {
            class: sequence.priority,
            tenant: sequence.tenant.clone(),
        };
        self.0.entry(key).or_default().insert(sequence.rank, sequence);
    }

    /// Takes the first sequence of a queue.
    pub(crate) fn pop(&mut self, key: &QueueKey) -> Option<Sequence> {
        let sequences = self.0.get_mut(key)?;
        let (_, sequence) = sequences.pop_first()?;
        if sequences.is_empty() {
            self.0.remove(key);
        }
        Some(sequence)
    }

    /// Each queue with the rank of its first sequence.
    pub(crate) fn heads(&self) -> impl Iterator<Item = (&QueueKey, Rank)> {
        self.0
            .iter()
            .filter_map(|(key, sequences)| Some((key, *sequences.first_key_value()?.0)))
    }

    /// The sequences of one queue, in order of rank.
    pub(crate) fn queue<'a>(&'a self, key: &QueueKey) -> impl Iterator<Item = &'a Sequence> + use<'a> {
        self.0.get(key).into_iter().flat_map(BTreeMap::values)
    }

    /// All waiting sequences.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Sequence> {
        self.0.values().flat_map(BTreeMap::values)
    }

    /// All waiting sequences, to change fields that decide neither their queue nor their rank.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Sequence> {
        self.0.values_mut().flat_map(BTreeMap::values_mut)
    }

    /// Whether no sequence waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes the sequences for which `reason` returns something, and returns them with their reasons.
    pub(crate) fn remove_stopped<R>(
        &mut self,
        reason: impl Fn(&Sequence) -> Option<R>,
    ) -> Vec<(Sequence, R)> {
        let mut stopped = Vec::new();
        for sequences in self.0.values_mut() {
            let ranks: Vec<(Rank, R)> = sequences
                .iter()
                .filter_map(|(&rank, sequence)| Some((rank, reason(sequence)?)))
                .collect();
            stopped.extend(
                ranks
                    .into_iter()
                    .filter_map(|(rank, reason)| Some((sequences.remove(&rank)?, reason))),
            );
        }
        self.0.retain(|_, sequences| !sequences.is_empty());
        stopped
    }

    /// Removes all sequences.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Sequence> {
        std::mem::take(&mut self.0)
            .into_values()
            .flat_map(BTreeMap::into_values)
    }
}
