//! How callers stop their sequences, and how the scheduler hears of it without looking at every sequence that waits.
//!
//! A flag says that a sequence has to stop. Whoever sets it also puts the sequence's id on the list of the scheduler that has
//! the sequence, and the scheduler takes that list before each step. So a step costs no more however many sequences wait.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU8, Ordering},
};

/// The sequence is to end where it is, as if its answer were complete.
const CUT: u8 = 1;
/// The sequence is to fail.
const CANCELLED: u8 = 2;

/// Set by the caller to stop a sequence. The engine reads it before each step, so the sequence takes part in the step under way
/// and in none that begins later, and its blocks are free then. Clones are the same flag.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<FlagState>);

#[derive(Debug, Default)]
struct FlagState {
    stop: AtomicU8,
    /// The open sequences that the flag stops: one, unless its caller has used it for several.
    subscribers: Mutex<Vec<Subscriber>>,
}

#[derive(Debug)]
struct Subscriber {
    list: StopList,
    sequence: u64,
}

impl CancelFlag {
    /// Asks the engine to stop the sequence.
    pub fn cancel(&self) {
        self.stop(CANCELLED);
    }

    /// Asks the engine to end the sequence where it is, with [`FinishReason::Cut`](super::FinishReason::Cut) and a summary.
    pub fn cut(&self) {
        self.stop(CUT);
    }

    /// Whether [`CancelFlag::cancel`] has been called.
    pub fn is_cancelled(&self) -> bool {
        self.0.stop.load(Ordering::Acquire) == CANCELLED
    }

    /// Whether [`CancelFlag::cut`] has been called, and [`CancelFlag::cancel`] has not.
    pub(crate) fn is_cut(&self) -> bool {
        self.0.stop.load(Ordering::Acquire) == CUT
    }

    /// Puts the id of a sequence on the list when the flag is set, or at once if it is set already, for as long as what is
    /// returned lives.
    pub(crate) fn subscribe(&self, list: &StopList, sequence: u64) -> StopSubscription {
        let mut subscribers = lock(&self.0.subscribers);
        subscribers.push(Subscriber {
            list: list.clone(),
            sequence,
        });
        // Read while no other thread can go through the subscribers: a flag that is set later finds this one.
        if self.0.stop.load(Ordering::Acquire) > 0 {
            list.add(sequence);
        }
        StopSubscription {
            flag: self.clone(),
            list: list.clone(),
            sequence,
        }
    }

    fn stop(&self, how: u8) {
        self.0.stop.fetch_max(how, Ordering::AcqRel);
        for subscriber in lock(&self.0.subscribers).iter() {
            subscriber.list.add(subscriber.sequence);
        }
    }
}

/// Ids of the open sequences of one scheduler whose flags have been set since the list was last taken. A sequence may be in
/// it more than once, and after its end. Clones are the same list.
#[derive(Debug, Clone, Default)]
pub(crate) struct StopList(Arc<Mutex<Vec<u64>>>);

impl StopList {
    /// Takes all ids, in the order in which their flags were set.
    pub(crate) fn take(&self) -> Vec<u64> {
        std::mem::take(&mut *lock(&self.0))
    }

    fn add(&self, sequence: u64) {
        lock(&self.0).push(sequence);
    }
}

/// Keeps a sequence among the subscribers of its flag until it is dropped.
#[derive(Debug)]
pub(crate) struct StopSubscription {
    flag: CancelFlag,
    list: StopList,
    sequence: u64,
}

impl Drop for StopSubscription {
    fn drop(&mut self) {
        lock(&self.flag.0.subscribers).retain(|subscriber| {
            subscriber.sequence != self.sequence || !Arc::ptr_eq(&subscriber.list.0, &self.list.0)
        });
    }
}

/// Locks one of the lists. A poisoned lock is used all the same, because nothing panics while it is held.
fn lock<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_list_hears_of_the_sequences_that_are_stopped_and_of_no_others() {
        let (flag, other) = (CancelFlag::default(), CancelFlag::default());
        let (first, second) = (StopList::default(), StopList::default());
        let _on_first = flag.subscribe(&first, 7);
        let _on_second = flag.subscribe(&second, 7);
        let _of_other = other.subscribe(&first, 8);
        assert_eq!((first.take(), second.take()), (vec![], vec![]));
        flag.cut();
        assert!(flag.is_cut() && !other.is_cut());
        assert_eq!((first.take(), second.take()), (vec![7], vec![7]));
        flag.cancel();
        assert!(flag.is_cancelled() && !flag.is_cut());
        assert_eq!((first.take(), first.take()), (vec![7], vec![]));
    }

    #[test]
    fn a_flag_that_is_set_already_is_heard_of_at_once() {
        let (flag, list) = (CancelFlag::default(), StopList::default());
        flag.clone().cancel();
        let _subscription = flag.subscribe(&list, 3);
        assert_eq!(list.take(), [3]);
    }

    #[test]
    fn a_sequence_that_has_ended_is_on_no_list() {
        let (flag, list) = (CancelFlag::default(), StopList::default());
        let kept = flag.subscribe(&list, 1);
        drop(flag.subscribe(&list, 2));
        flag.cancel();
        assert_eq!(list.take(), [1]);
        drop(kept);
        flag.cancel();
        assert!(list.take().is_empty());
    }
}
