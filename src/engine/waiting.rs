//! Sequences that hold no blocks: one line per class and tenant, each in order of rank.

use std::collections::BTreeMap;

use super::{
    Priority, Tenant,
    sequence::{Rank, Sequence},
};

/// A class's sequences of one tenant.
pub type Line = (Priority, Tenant);

/// All lines of one model; none is empty.
#[derive(Default)]
pub struct Waiting(BTreeMap<Line, BTreeMap<Rank, Sequence>>);

impl Waiting {
    /// Puts a sequence into its place.
    pub fn insert(&mut self, sequence: Sequence) {
        let line = (sequence.priority, sequence.tenant.clone());
        self.0.entry(line).or_default().insert(sequence.rank, sequence);
    }

    /// Takes the first of a line.
    pub fn pop(&mut self, line: &Line) -> Option<Sequence> {
        let sequences = self.0.get_mut(line)?;
        let (_, sequence) = sequences.pop_first()?;
        if sequences.is_empty() {
            self.0.remove(line);
        }
        Some(sequence)
    }

    /// Each line with the first rank in it.
    pub fn heads(&self) -> impl Iterator<Item = (&Line, Rank)> {
        self.0
            .iter()
            .filter_map(|(line, sequences)| Some((line, *sequences.first_key_value()?.0)))
    }

    /// A line's sequences, the first in rank first.
    pub fn line<'a>(&'a self, line: &Line) -> impl Iterator<Item = &'a Sequence> + use<'a> {
        self.0.get(line).into_iter().flat_map(BTreeMap::values)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Sequence> {
        self.0.values().flat_map(BTreeMap::values)
    }

    /// All of them, to change what does not decide their places.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Sequence> {
        self.0.values_mut().flat_map(BTreeMap::values_mut)
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes out those for whom there is a reason.
    pub fn take_stopped<R>(&mut self, reason: impl Fn(&Sequence) -> Option<R>) -> Vec<(Sequence, R)> {
        let mut stopped = Vec::new();
        for sequences in self.0.values_mut() {
            let ranks: Vec<(Rank, R)> = sequences
                .iter()
                .filter_map(|(&rank, sequence)| Some((rank, reason(sequence)?)))
                .collect();
            stopped.extend(
                ranks
                    .into_iter()
                    .filter_map(|(rank, why)| Some((sequences.remove(&rank)?, why))),
            );
        }
        self.0.retain(|_, sequences| !sequences.is_empty());
        stopped
    }

    /// Takes all out.
    pub fn take_all(&mut self) -> impl Iterator<Item = Sequence> {
        std::mem::take(&mut self.0)
            .into_values()
            .flat_map(BTreeMap::into_values)
    }
}
