//! ModelStates of models, and the subscriptions to their changes.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::{broadcast, watch};

/// Number of failed forward passes in a row after which a model is FAILED.
const FAULTS_UNTIL_FAILED: u32 = 3;

/// Number of changes that a slow watcher may be behind. Beyond that, it gets the present states instead.
const REMEMBERED_CHANGES: usize = 256;

/// Whether a model answers requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelState {
    /// Not in memory.
    Unloaded,
    /// It is being loaded.
    Loading,
    /// It answers requests.
    Ready,
    /// It finishes open requests and accepts no new ones.
    Draining,
    /// It could not be loaded, a step of it panicked, its device is lost, or its last forward passes all failed. In the last
    /// case requests are still tried, and one answer makes it READY.
    Failed,
}

/// Whether a model is in memory, or between disk and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Unloaded,
    Loading,
    Ready,
    Draining,
    /// It could not be loaded, or its device is lost.
    Broken,
    /// A step of it panicked, and it leaves memory.
    Stopping,
    /// A step of it panicked. It comes back when it is loaded again.
    Stopped,
}

/// The new state of a model id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateChange {
    /// Position of the id in the list of all ids.
    pub position: usize,
    /// Its state from now on.
    pub state: ModelState,
}

/// The states of all ids at one moment, and each change from then on.
pub struct StateWatch {
    /// ModelStates of all ids at the moment of subscription.
    pub now: Vec<ModelState>,
    /// The changes after that.
    pub changes: broadcast::Receiver<StateChange>,
}

/// The states of all ids.
pub(super) struct ModelStates {
    /// The model of each id.
    group_of: Vec<usize>,
    /// For each model, failed forward passes since its last answer.
    faults: Vec<AtomicU32>,
    current: watch::Sender<Vec<ModelState>>,
    changes: broadcast::Sender<StateChange>,
}

impl ModelStates {
    /// ModelStates of ids whose models are not loaded; `group_of` has the model of each id.
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

    /// The states of all ids. The receiver is notified whenever one changes.
    pub(super) fn subscribe(&self) -> watch::Receiver<Vec<ModelState>> {
        self.current.subscribe()
    }

    /// Notifies the receivers of all states although none may have changed: a device is lost, which requests that wait for a
    /// load and the health of the server depend on.
    pub(super) fn notify(&self) {
        self.current.send_modify(|_| {});
    }

    /// Every change from now on. Callers hold the lock with which [`ModelStates::refresh`] is called.
    pub(super) fn watch(&self) -> StateWatch {
        StateWatch {
            changes: self.changes.subscribe(),
            now: self.current.borrow().clone(),
        }
    }

    /// Records that the model has answered. Returns whether that changes its state.
    pub(super) fn answered(&self, group: usize) -> bool {
        let Some(faults) = self.faults.get(group) else {
            return false;
        };
        // In the common case there were no faults, and this costs one atomic load.
        faults.load(Ordering::Relaxed) != 0 && faults.swap(0, Ordering::AcqRel) >= FAULTS_UNTIL_FAILED
    }

    /// Records that a forward pass of the model has failed. Returns whether that changes its state.
    pub(super) fn faulted(&self, group: usize) -> bool {
        let faults = self.faults.get(group);
        faults.is_some_and(|faults| faults.fetch_add(1, Ordering::AcqRel) + 1 == FAULTS_UNTIL_FAILED)
    }

    /// Computes all states again. Callers hold the lock of what they pass, so that changes are sent in order.
    pub(super) fn refresh(&self, phases: &[Phase], draining: bool) {
        self.current.send_if_modified(|states| {
            let mut changed = false;
            for (position, (state, group)) in states.iter_mut().zip(&self.group_of).enumerate() {
                let phase = phases.get(*group).copied().unwrap_or(Phase::Unloaded);
                let now = self.state(*group, phase, draining);
                if *state != now {
                    *state = now;
                    changed = true;
                    // An error means that nobody watches.
                    let _ = self.changes.send(StateChange { position, state: now });
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
            // Requests no longer wait for it.
            Phase::Loading if draining => ModelState::Draining,
            Phase::Loading => ModelState::Loading,
            Phase::Draining => ModelState::Draining,
            Phase::Ready if draining => ModelState::Draining,
            Phase::Ready if failing => ModelState::Failed,
            Phase::Ready => ModelState::Ready,
            Phase::Broken | Phase::Stopping | Phase::Stopped => ModelState::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two ids of one model, and one of another; both models are READY.
    fn states() -> ModelStates {
        let states = ModelStates::new(vec![0, 0, 1]);
        states.refresh(&[Phase::Ready; 2], false);
        states
    }

    fn all(states: &ModelStates) -> Vec<ModelState> {
        states.current.borrow().clone()
    }

    fn fault(states: &ModelStates, group: usize) {
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
    fn a_watcher_receives_each_change_even_one_that_is_undone() {
        let states = states();
        let mut watch = states.watch();
        assert_eq!(watch.now, [ModelState::Ready; 3]);
        for phase in [Phase::Draining, Phase::Unloaded, Phase::Loading, Phase::Ready] {
            states.refresh(&[Phase::Ready, phase], false);
        }
        states.refresh(&[Phase::Ready, Phase::Ready], true);
        states.refresh(&[Phase::Ready, Phase::Broken], true);
        let mut received = Vec::new();
        while let Ok(change) = watch.changes.try_recv() {
            received.push((change.position, change.state));
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
        assert_eq!(received, expected);
    }
}
