//! Models that come and go while the engine runs.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::{
    AddModelError, ModelIndex, SequenceError, SubmitError,
    scripted::ScriptedModel,
    testing::{HANG, greedy, request},
    thread_tests::{LIMITS, counting, gated, started},
};
use crate::backend::{ForwardBatch, LanguageModel, ModelLimits, StepError, StepOutput};

/// Says when its memory is given back.
struct Dropped(ScriptedModel, Arc<AtomicBool>);

impl LanguageModel for Dropped {
    fn limits(&self) -> &ModelLimits {
        self.0.limits()
    }

    fn submit(&mut self, batch: &ForwardBatch, output: StepOutput) -> Result<(), StepError> {
        self.0.submit(batch, output)
    }

    fn wait(&mut self) -> Result<StepOutput, StepError> {
        self.0.wait()
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Release);
    }
}

#[test]
fn a_model_comes_answers_and_goes_with_its_memory() {
    let (handle, _thread) = started(counting());
    let gone = Arc::new(AtomicBool::new(false));
    let second = handle
        .add_model("second", Box::new(Dropped(counting(), Arc::clone(&gone))))
        .unwrap();
    assert_eq!(second, ModelIndex(1));
    let (mut asked, recorder) = request(&[3, 4], greedy(3));
    asked.model = second;
    handle.submit(asked).unwrap();
    assert!(handle.wait_idle(HANG));
    assert_eq!(recorder.tokens(), [5, 6, 7]);
    assert_eq!(handle.stats(second).touched_blocks, 1);

    handle.remove_model(second).wait();
    assert!(gone.load(Ordering::Acquire));
    let (mut late, _) = request(&[3, 4], greedy(3));
    late.model = second;
    assert_eq!(handle.submit(late), Err(SubmitError::ModelRemoved));
    assert_eq!(handle.stats(second).total_blocks, 0);
    // Once more is nothing.
    handle.remove_model(second).wait();

    let third = handle.add_model("third", Box::new(counting())).unwrap();
    assert_eq!(third, ModelIndex(2), "a place is never given again");
    let (asked, recorder) = request(&[1], greedy(1));
    handle.submit(asked).unwrap();
    assert!(handle.wait_idle(HANG));
    assert_eq!(recorder.tokens(), [2]);
}

#[test]
fn what_is_open_on_a_model_that_goes_fails_and_the_others_go_on() {
    let (model, gate) = gated();
    let (handle, _thread) = started(model);
    let second = handle.add_model("second", Box::new(counting())).unwrap();
    let (stays, stays_events) = request(&[1, 2], greedy(4));
    handle.submit(stays).unwrap();
    gate.entered.recv_timeout(HANG).unwrap();
    // The thread is in a step of the first model: nothing of the second has begun.
    let open = [0, 1].map(|_| {
        let (mut asked, recorder) = request(&[5], greedy(20));
        asked.model = second;
        handle.submit(asked).unwrap();
        recorder
    });
    let removal = handle.remove_model(second);
    let (mut late, _) = request(&[5], greedy(1));
    late.model = second;
    assert_eq!(handle.submit(late), Err(SubmitError::ModelRemoved));
    drop(gate);
    removal.wait();
    for recorder in open {
        assert_eq!(recorder.error(), Some(SequenceError::ModelRemoved));
    }
    assert!(handle.wait_idle(HANG));
    assert_eq!(stays_events.tokens().len(), 4);
    assert_eq!(handle.stats(ModelIndex(0)).queued, 0);
}

#[test]
fn an_engine_that_ends_takes_no_model_and_frees_those_it_has() {
    let (handle, thread) = started(counting());
    let gone = Arc::new(AtomicBool::new(false));
    let second = handle
        .add_model("second", Box::new(Dropped(counting(), Arc::clone(&gone))))
        .unwrap();
    let broken = ScriptedModel::hashing(ModelLimits {
        num_blocks: 0,
        ..LIMITS
    });
    let refused = handle.add_model("broken", Box::new(broken)).unwrap_err();
    assert_eq!(refused.to_string(), "num_blocks must be at least 1");
    handle.shutdown();
    assert!(thread.join(HANG));
    assert!(gone.load(Ordering::Acquire));
    handle.remove_model(second).wait();
    let refused = handle.add_model("late", Box::new(counting())).unwrap_err();
    assert!(matches!(refused, AddModelError::Closed));
}
