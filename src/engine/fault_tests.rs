//! Faults: numbers that are none, devices that fail, panics in the model and in listeners.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::{
    Event, ModelIndex, SequenceError,
    scripted::ScriptedModel,
    testing::{HANG, greedy, request},
    thread_tests::{FAULT, INFINITY, LIMITS, NAN, PANIC, counting, gated, started},
};
use crate::backend::{ForwardBatch, LanguageModel, ModelLimits, StepError, StepOutput};

#[test]
fn a_numeric_fault_fails_its_sequence_only_and_is_not_cached() {
    let (model, gate) = gated();
    let (handle, _thread) = started(model);
    handle.submit(request(&[9], greedy(1)).0).unwrap();
    gate.entered.recv_timeout(HANG).unwrap();
    let sound = request(&[1, 2], greedy(3));
    let nan = request(&[&[NAN][..], &[2; 9]].concat(), greedy(3));
    let infinite = request(&[INFINITY, 2], greedy(3));
    let recorders = [sound.1, nan.1, infinite.1];
    for request in [sound.0, nan.0, infinite.0] {
        handle.submit(request).unwrap();
    }
    drop(gate.open);
    assert!(handle.wait_idle(HANG));
    assert_eq!(gate.entered.recv_timeout(HANG), Ok(3), "they share a batch");
    assert_eq!(recorders[0].tokens(), [3, 4, 5]);
    for recorder in &recorders[1..] {
        assert_eq!(recorder.error(), Some(SequenceError::NumericFault));
        assert_eq!(recorder.output(), []);
    }
    let (again, again_events) = request(&[&[NAN][..], &[2; 9]].concat(), greedy(3));
    handle.submit(again).unwrap();
    assert!(handle.wait_idle(HANG));
    assert!(matches!(
        again_events.events()[0],
        Event::Started { cached_tokens: 0, .. }
    ));
}

#[test]
fn a_failed_pass_fails_its_batch_and_the_engine_goes_on() {
    let (model, gate) = gated();
    drop(gate.open);
    let (handle, _thread) = started(model);
    let (faulty, faulty_events) = request(&[1, FAULT], greedy(3));
    handle.submit(faulty).unwrap();
    assert!(handle.wait_idle(HANG));
    assert_eq!(
        faulty_events.error(),
        Some(SequenceError::ModelFailed(
            "device fault: out of order".to_owned()
        ))
    );
    let (sound, sound_events) = request(&[1, 2], greedy(1));
    handle.submit(sound).unwrap();
    assert!(handle.wait_idle(HANG));
    assert_eq!(sound_events.tokens(), [3]);
    assert_eq!(handle.restarts(), 0);
}

#[test]
fn after_a_panic_everything_open_fails_and_pinned_prefixes_come_back() {
    let (model, gate) = gated();
    let (handle, thread) = started(model);
    let policy: Vec<u32> = (0..12).collect();
    let (mut pin, pin_events) = request(&policy, greedy(0));
    pin.output.pin_prompt = true;
    handle.submit(pin).unwrap();
    gate.open.send(()).unwrap();
    assert!(handle.wait_idle(HANG));
    assert!(pin_events.summary().is_some());
    assert_eq!(handle.stats(ModelIndex(0)).pinned_blocks, 3);
    gate.entered.recv_timeout(HANG).unwrap();

    let (neighbour, neighbour_events) = request(&[5, 6], greedy(30));
    handle.submit(neighbour).unwrap();
    gate.entered.recv_timeout(HANG).unwrap();
    let (bad, bad_events) = request(&[PANIC, 1], greedy(3));
    handle.submit(bad).unwrap();
    drop(gate);
    assert!(handle.wait_idle(HANG));
    for recorder in [&neighbour_events, &bad_events] {
        assert_eq!(recorder.error(), Some(SequenceError::EnginePanicked));
        assert_eq!(recorder.terminal_events(), 1);
    }
    assert_eq!(handle.restarts(), 1);
    assert!(handle.is_alive());

    let stats = handle.stats(ModelIndex(0));
    assert_eq!(
        (stats.pinned_blocks, stats.free_blocks),
        (3, stats.total_blocks - 3)
    );
    let (next, next_events) = request(&[&policy[..], &[20]].concat(), greedy(2));
    handle.submit(next).unwrap();
    assert!(handle.wait_idle(HANG));
    assert_eq!(next_events.tokens(), [21, 22]);
    assert_eq!(next_events.summary().unwrap().cached_tokens, 12);
    handle.shutdown();
    assert!(thread.join(HANG));
    assert!(!handle.is_alive());
}

/// The pinned prefix itself brings the model down each time: the engine gives up on it instead of spinning.
#[test]
fn a_pinned_prefix_that_always_panics_is_given_up() {
    let passes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&passes);
    struct Poisoned(ScriptedModel, Arc<AtomicUsize>);
    impl LanguageModel for Poisoned {
        fn limits(&self) -> &ModelLimits {
            self.0.limits()
        }
        fn submit(&mut self, batch: &ForwardBatch, output: StepOutput) -> Result<(), StepError> {
            assert_eq!(
                self.1.fetch_add(1, Ordering::SeqCst),
                0,
                "only the first pass works"
            );
            self.0.submit(batch, output)
        }

        fn wait(&mut self) -> Result<StepOutput, StepError> {
            self.0.wait()
        }
    }
    let (handle, _thread) = started(Poisoned(counting(), counted));
    let (mut pin, pin_events) = request(&[1; 8], greedy(0));
    pin.output.pin_prompt = true;
    handle.submit(pin).unwrap();
    assert!(handle.wait_idle(HANG));
    assert!(pin_events.summary().is_some());
    let (bad, bad_events) = request(&[PANIC], greedy(1));
    handle.submit(bad).unwrap();
    assert!(handle.wait_idle(HANG));
    assert_eq!(bad_events.error(), Some(SequenceError::EnginePanicked));
    assert_eq!((handle.restarts(), passes.load(Ordering::SeqCst)), (4, 5));
    assert_eq!(handle.stats(ModelIndex(0)).free_blocks, LIMITS.num_blocks);
    // Its reservation is gone as well: a sequence may take the whole window.
    handle.submit(request(&[2; 60], greedy(4)).0).unwrap();
}

#[test]
fn a_listener_that_panics_or_leaves_ends_its_own_sequence_only() {
    let (handle, _thread) = started(counting());
    let (mut rude, _) = request(&[1, 2], greedy(20));
    rude.events = Box::new(|_| panic!("the listener was told to"));
    let (mut gone, gone_events) = request(&[2, 2], greedy(20));
    gone.events = gone_events.sink(3);
    let (polite, polite_events) = request(&[3, 2], greedy(5));
    for request in [rude, gone, polite] {
        handle.submit(request).unwrap();
    }
    assert!(handle.wait_idle(HANG));
    assert_eq!(polite_events.tokens().len(), 5);
    assert_eq!(gone_events.events().len(), 3);
    assert_eq!(handle.restarts(), 0);
}
