//! States of models, and who is told when one changes.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::{broadcast, watch};

/// Faults in a row after which a model is FAILED.
const FAULTS_UNTIL_FAILED: u32 = 3;

/// Changes that a slow watcher may be behind before it is told how things stand instead.
const REMEMBERED_CHANGES: usize = 256;

/// What a model is fit for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelState {
    /// Not in memory.
    Unloaded,
    /// On its way into memory.
    Loading,
    /// Answers.
    Ready,
    /// Finishes what it has, takes nothing new.
    Draining,
    /// It could not be loaded, or its last forward passes all failed. In the second case requests are still
    /// tried, and one answer makes it READY.
    Failed,
}

/// Where a model stands between disk and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Unloaded,
    Loading,
    Ready,
    Draining,
    /// Could not be loaded.
    Broken,
}

/// A model id, by its place in the list of all, and its new state.
pub type Change = (usize, ModelState);

/// How all stood, and each change from then on.
pub struct StateWatch {
    /// States of all ids.
    pub now: Vec<ModelState>,
    /// What changes after that.
    pub changes: broadcast::Receiver<Change>,
}

pub(super) struct States {
    /// Per id: its model.
    group_of: Vec<usize>,
    /// Per model: faults since its last answer.
    faults: Vec<AtomicU32>,
    current: watch::Sender<Vec<ModelState>>,
    changes: broadcast::Sender<Change>,
}

impl States {
    /// Nothing is loaded; `group_of` names each id's model.
    pub(super) fn new(group_of: Vec<usize>) -> Self {
        let groups = group_of.iter().max().map_or(0, |last| last + 1);
        Self {
            faults: (0..groups).map(|_| AtomicU32::new(0)).collect(),
            current: watch::Sender::new(vec![ModelState::Unloaded; group_of.len()]),
            changes: broadcast::Sender::new(REMEMBERED_CHANGES),
            group_of,
        }
    }

    pub(super) fn of(&self, position: usize) -> ModelState {
        let current = self.current.borrow();
        current.get(position).copied().unwrap_or(ModelState::Unloaded)
    }

    /// States of all ids, now and whenever one changes.
    pub(super) fn subscribe(&self) -> watch::Receiver<Vec<ModelState>> {
        self.current.subscribe()
    }

    /// Every change from now on. To be called with the lock that [`States::refresh`] is called with.
    pub(super) fn watch(&self) -> StateWatch {
        StateWatch {
            changes: self.changes.subscribe(),
            now: self.current.borrow().clone(),
        }
    }

    /// The model answered; whether that changes its state.
    pub(super) fn answered(&self, group: usize) -> bool {
        let Some(faults) = self.faults.get(group) else {
            return false;
        };
        // The common case costs one load.
        faults.load(Ordering::Relaxed) != 0 && faults.swap(0, Ordering::AcqRel) >= FAULTS_UNTIL_FAILED
    }

    /// The model could not compute; whether that changes its state.
    pub(super) fn faulted(&self, group: usize) -> bool {
        let faults = self.faults.get(group);
        faults.is_some_and(|faults| faults.fetch_add(1, Ordering::AcqRel) + 1 == FAULTS_UNTIL_FAILED)
    }

    /// Computes all states anew. Callers hold the lock of what they pass, so that nobody tells old news last.
    pub(super) fn refresh(&self, phases: &[Phase], draining: bool) {
        self.current.send_if_modified(|states| {
            let mut changed = false;
            for (position, (state, group)) in states.iter_mut().zip(&self.group_of).enumerate() {
                let phase = phases.get(*group).copied().unwrap_or(Phase::Unloaded);
                let now = self.state(*group, phase, draining);
                if *state != now {
                    *state = now;
                    changed = true;
                    // No watcher is no reason to stop.
                    let _ = self.changes.send((position, now));
                }
            }
            changed
        });
    }

    fn state(&self, group: usize, phase: Phase, draining: bool) -> ModelState {
        let faults = self.faults.get(group);
        let failing = faults.is_some_and(|faults| faults.load(Ordering::Acquire) >= FAULTS_UNTIL_FAILED);
        match phase {
            Phase::Unloaded => ModelState::Unloaded,
            // Nobody waits for it any more.
            Phase::Loading if draining => ModelState::Draining,
            Phase::Loading => ModelState::Loading,
            Phase::Draining => ModelState::Draining,
            Phase::Ready if draining => ModelState::Draining,
            Phase::Ready if failing => ModelState::Failed,
            Phase::Ready => ModelState::Ready,
            Phase::Broken => ModelState::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two ids of one model, and one of another; both READY.
    fn states() -> States {
        let states = States::new(vec![0, 0, 1]);
        states.refresh(&[Phase::Ready; 2], false);
        states
    }

    fn all(states: &States) -> Vec<ModelState> {
        states.current.borrow().clone()
    }

    fn fault(states: &States, group: usize) {
        if states.faulted(group) {
            states.refresh(&[Phase::Ready; 2], false);
        }
    }

    #[test]
    fn faults_in_a_row_fail_every_id_of_the_model_and_one_answer_heals() {
        let states = states();
        for _ in 0..FAULTS_UNTIL_FAILED - 1 {
            fault(&states, 0);
        }
        assert_eq!(all(&states), [ModelState::Ready; 3]);
        fault(&states, 0);
        assert_eq!(
            all(&states),
            [ModelState::Failed, ModelState::Failed, ModelState::Ready]
        );
        fault(&states, 0);
        assert!(states.answered(0));
        states.refresh(&[Phase::Ready; 2], false);
        assert_eq!(all(&states), [ModelState::Ready; 3]);
    }

    #[test]
    fn an_answer_between_faults_keeps_a_model_ready() {
        let states = states();
        for _ in 0..10 {
            fault(&states, 1);
            states.answered(1);
        }
        assert_eq!(all(&states), [ModelState::Ready; 3]);
    }

    #[test]
    fn a_watcher_is_told_each_change_even_one_that_is_undone() {
        let states = states();
        let mut watch = states.watch();
        assert_eq!(watch.now, [ModelState::Ready; 3]);
        for phase in [Phase::Draining, Phase::Unloaded, Phase::Loading, Phase::Ready] {
            states.refresh(&[Phase::Ready, phase], false);
        }
        states.refresh(&[Phase::Ready, Phase::Ready], true);
        states.refresh(&[Phase::Ready, Phase::Broken], true);
        let mut told = Vec::new();
        while let Ok(change) = watch.changes.try_recv() {
            told.push(change);
        }
        use ModelState::{Draining, Failed, Loading, Ready, Unloaded};
        let expected = [
            (2, Draining),
            (2, Unloaded),
            (2, Loading),
            (2, Ready),
            (0, Draining),
            (1, Draining),
            (2, Draining),
            (2, Failed),
        ];
        assert_eq!(told, expected);
    }
}
