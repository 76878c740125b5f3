//! States of models, and who is told when one changes.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use tokio::sync::watch;

use super::ModelEntry;
use crate::engine::ModelIndex;

/// Faults in a row after which a model is FAILED.
const FAULTS_UNTIL_FAILED: u32 = 3;

/// What a model is fit for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelState {
    /// Answers.
    Ready,
    /// Finishes what it has, takes nothing new.
    Draining,
    /// Its last forward passes all failed. Requests are still tried; one answer makes it READY.
    Failed,
}

pub(super) struct States {
    /// Per id: its resident model, as index into `faults`.
    resident_of: Vec<usize>,
    /// Per resident model: faults since its last answer.
    faults: Vec<AtomicU32>,
    draining: AtomicBool,
    current: watch::Sender<Vec<ModelState>>,
}

impl States {
    pub(super) fn new(entries: &[Arc<ModelEntry>]) -> Self {
        let resident_of: Vec<usize> = entries.iter().map(|entry| entry.resident.index.0).collect();
        let residents = resident_of.iter().max().map_or(0, |last| last + 1);
        Self {
            faults: (0..residents).map(|_| AtomicU32::new(0)).collect(),
            draining: AtomicBool::new(false),
            current: watch::Sender::new(vec![ModelState::Ready; resident_of.len()]),
            resident_of,
        }
    }

    pub(super) fn of(&self, position: usize) -> ModelState {
        self.current
            .borrow()
            .get(position)
            .copied()
            .unwrap_or(ModelState::Failed)
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Vec<ModelState>> {
        self.current.subscribe()
    }

    pub(super) fn answered(&self, index: ModelIndex) {
        let Some(faults) = self.faults.get(index.0) else {
            return;
        };
        // The common case costs one load.
        if faults.load(Ordering::Relaxed) != 0 && faults.swap(0, Ordering::AcqRel) >= FAULTS_UNTIL_FAILED {
            self.refresh();
        }
    }

    pub(super) fn faulted(&self, index: ModelIndex) {
        let Some(faults) = self.faults.get(index.0) else {
            return;
        };
        if faults.fetch_add(1, Ordering::AcqRel) + 1 == FAULTS_UNTIL_FAILED {
            self.refresh();
        }
    }

    pub(super) fn drain(&self) {
        if !self.draining.swap(true, Ordering::AcqRel) {
            self.refresh();
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Computes all states anew, inside the channel's lock so that two writers cannot undo each other.
    fn refresh(&self) {
        self.current.send_if_modified(|states| {
            let mut changed = false;
            for (state, resident) in states.iter_mut().zip(&self.resident_of) {
                let now = self.compute(*resident);
                changed |= *state != now;
                *state = now;
            }
            changed
        });
    }

    fn compute(&self, resident: usize) -> ModelState {
        let failed = self
            .faults
            .get(resident)
            .is_none_or(|faults| faults.load(Ordering::Acquire) >= FAULTS_UNTIL_FAILED);
        if self.is_draining() {
            ModelState::Draining
        } else if failed {
            ModelState::Failed
        } else {
            ModelState::Ready
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states() -> States {
        States {
            resident_of: vec![0, 0, 1],
            faults: vec![AtomicU32::new(0), AtomicU32::new(0)],
            draining: AtomicBool::new(false),
            current: watch::Sender::new(vec![ModelState::Ready; 3]),
        }
    }

    fn all(states: &States) -> Vec<ModelState> {
        states.current.borrow().clone()
    }

    #[test]
    fn faults_in_a_row_fail_every_id_of_the_model_and_one_answer_heals() {
        let states = states();
        for _ in 0..FAULTS_UNTIL_FAILED - 1 {
            states.faulted(ModelIndex(0));
        }
        assert_eq!(all(&states), [ModelState::Ready; 3]);
        states.faulted(ModelIndex(0));
        assert_eq!(
            all(&states),
            [ModelState::Failed, ModelState::Failed, ModelState::Ready]
        );
        states.faulted(ModelIndex(0));
        states.answered(ModelIndex(0));
        assert_eq!(all(&states), [ModelState::Ready; 3]);
    }

    #[test]
    fn an_answer_between_faults_keeps_a_model_ready() {
        let states = states();
        for _ in 0..10 {
            states.faulted(ModelIndex(1));
            states.answered(ModelIndex(1));
        }
        assert_eq!(all(&states), [ModelState::Ready; 3]);
    }

    #[test]
    fn draining_is_final_and_told_once() {
        let states = states();
        let mut watcher = states.subscribe();
        states.drain();
        assert!(watcher.has_changed().unwrap());
        assert_eq!(*watcher.borrow_and_update(), [ModelState::Draining; 3]);
        states.drain();
        states.answered(ModelIndex(0));
        assert!(!watcher.has_changed().unwrap());
    }
}
