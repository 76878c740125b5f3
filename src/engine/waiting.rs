//! The sequences of one model that hold no KV blocks, in one queue per class and tenant, each in order of rank.
//!
//! What is done for each step takes time in proportion to the queues, of which there is at most one for each class and account,
//! and to the sequences that it concerns, not to those that wait: the sequences are found by id and by owner, and those whose
//! deadlines come next are known.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    time::Instant,
};

use super::{
    prefix::CacheOwner,
    request::Priority,
    sequence::{Rank, Sequence},
    step_time::StepShape,
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

impl QueueKey {
    fn of(sequence: &Sequence) -> Self {
        Self {
            class: sequence.priority,
            tenant: sequence.tenant.clone(),
        }
    }
}

/// Names the sequences of one class that have the same prefixes in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct OwnerKey {
    class: Priority,
    owner: CacheOwner,
}

impl OwnerKey {
    fn of(sequence: &Sequence) -> Self {
        Self {
            class: sequence.priority,
            owner: sequence.owner.clone(),
        }
    }
}

/// The waiting sequences of one class and owner.
#[derive(Default)]
struct OwnerQueue {
    ranks: BTreeSet<Rank>,
    /// The most work that a new one may have to wait for, all together.
    most_work: StepShape,
}

/// Where a sequence waits. The order is that of all waiting sequences.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    key: QueueKey,
    rank: Rank,
}

/// When a waiting sequence ends, whether or not it has been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct DueEnd {
    at: Instant,
    id: u64,
}

/// All queues of one model. Queues without sequences are removed.
#[derive(Default)]
pub(crate) struct WaitingQueues {
    queues: BTreeMap<QueueKey, BTreeMap<Rank, Sequence>>,
    /// Which of the sequences are whose. Owners without sequences are removed.
    owners: HashMap<OwnerKey, OwnerQueue>,
    /// Where each sequence waits, by its id.
    places: HashMap<u64, Place>,
    /// The deadlines of those that have one.
    deadlines: BTreeSet<DueEnd>,
    /// Waiting sequences that were looked at so far.
    #[cfg(test)]
    pub looks: std::cell::Cell<usize>,
}

impl WaitingQueues {
    /// Puts a sequence into its queue, in order of rank.
    pub(crate) fn insert(&mut self, sequence: Sequence) {
        let (key, rank) = (QueueKey::of(&sequence), sequence.rank);
        let id = rank.id();
        let due = sequence.deadline().map(|at| DueEnd { at, id });
        self.deadlines.extend(due);
        let owner = self.owners.entry(OwnerKey::of(&sequence)).or_default();
        owner.ranks.insert(rank);
        owner.most_work = owner.most_work.plus(sequence.most_prefill);
        self.queues.entry(key.clone()).or_default().insert(rank, sequence);
        self.places.insert(id, Place { key, rank });
    }

    /// Takes the first sequence of a queue.
    pub(crate) fn pop(&mut self, key: &QueueKey) -> Option<Sequence> {
        let (first, _) = self.queues.get(key)?.first_key_value()?;
        let id = first.id();
        self.remove(id)
    }

    /// Takes the sequences with these ids, as far as they wait, and those whose deadlines have come, in their order.
    pub(crate) fn take_ending(&mut self, stopped: &[u64], now: Instant) -> Vec<Sequence> {
        let due = self.deadlines.iter().take_while(|due| due.at <= now);
        let ids = stopped.iter().copied().chain(due.map(|due| due.id));
        let places: BTreeSet<Place> = ids.filter_map(|id| self.places.get(&id).cloned()).collect();
        places
            .iter()
            .filter_map(|place| self.remove(place.rank.id()))
            .collect()
    }

    fn remove(&mut self, id: u64) -> Option<Sequence> {
        let Place { key, rank } = self.places.remove(&id)?;
        let queue = self.queues.get_mut(&key)?;
        let sequence = queue.remove(&rank)?;
        if queue.is_empty() {
            self.queues.remove(&key);
        }
        if let Some(at) = sequence.deadline() {
            self.deadlines.remove(&DueEnd { at, id });
        }
        if let Entry::Occupied(mut entry) = self.owners.entry(OwnerKey::of(&sequence)) {
            let owner = entry.get_mut();
            owner.ranks.remove(&rank);
            owner.most_work = owner.most_work.minus(sequence.most_prefill);
            if owner.ranks.is_empty() {
                entry.remove();
            }
        }
        Some(sequence)
    }

    /// Each queue with the rank of its first sequence.
    pub(crate) fn heads(&self) -> impl Iterator<Item = (&QueueKey, Rank)> {
        self.queues
            .iter()
            .filter_map(|(key, sequences)| Some((key, *sequences.first_key_value()?.0)))
    }

    /// The first sequence of a queue.
    pub(crate) fn first(&self, key: &QueueKey) -> Option<&Sequence> {
        self.queues.get(key)?.values().next()
    }

    /// The sequences of one owner in one queue, in order of rank.
    pub(crate) fn of_owner<'a>(
        &'a self,
        key: &QueueKey,
        owner: &CacheOwner,
    ) -> impl Iterator<Item = &'a Sequence> + use<'a> {
        let (class, owner) = (key.class, owner.clone());
        let ranks = self.owners.get(&OwnerKey { class, owner });
        let ranks = ranks.into_iter().flat_map(|owner| &owner.ranks);
        let queue = self.queues.get(key);
        ranks.filter_map(move |rank| {
            #[cfg(test)]
            self.looks.set(self.looks.get() + 1);
            queue?.get(rank)
        })
    }

    /// The most work that a new sequence of a class and owner may have to wait for while those that are here wait.
    pub(crate) fn most_work(&self, class: Priority, owner: &CacheOwner) -> StepShape {
        let owner = owner.clone();
        let sequences = self.owners.get(&OwnerKey { class, owner });
        sequences.map_or_else(StepShape::default, |sequences| sequences.most_work)
    }

    /// All waiting sequences.
    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Sequence> {
        self.queues.values().flat_map(BTreeMap::values)
    }

    /// All waiting sequences, to change fields that decide neither their queue nor their rank.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Sequence> {
        #[cfg(test)]
        self.looks.set(self.looks.get() + self.places.len());
        self.queues.values_mut().flat_map(BTreeMap::values_mut)
    }

    /// Whether no sequence waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Removes all sequences.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Sequence> {
        let queues = std::mem::take(self).queues;
        queues.into_values().flat_map(BTreeMap::into_values)
    }
}
