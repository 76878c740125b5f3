//! Faults: logits that are not numbers, devices that fail, and panics in the model and in event sinks.

use std::sync::{Arc, Mutex};

use super::{
    EngineConfig, Event, ModelIndex, SequenceError, SubmitError,
    asynchronous_device::TurnByTurn,
    scheduler::Budget,
    start,
    testing::{HANG, greedy, request},
    thread_tests::{FAULT, INFINITY, LIMITS, NAN, PANIC, config, counting, gated, started},
};
use crate::backend::Execution;

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
    assert!(!handle.is_stopped(ModelIndex(0)));
}

#[test]
fn a_panic_stops_its_model_and_leaves_the_others_and_the_engine_alone() {
    let (model, gate) = gated();
    let sound_model = Box::new(counting());
    let config = EngineConfig {
        model_names: vec!["bad".to_owned(), "sound".to_owned()],
        ..config()
    };
    let (handle, thread) = start(config, vec![Box::new(model), sound_model]).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    handle.on_stop(move |model| heard.lock().unwrap().push(model));
    let (first, first_events) = request(&[5, 6], greedy(30));
    handle.submit(first).unwrap();
    gate.entered.recv_timeout(HANG).unwrap();
    let (mut elsewhere, elsewhere_events) = request(&[7, 8], greedy(30));
    elsewhere.model = ModelIndex(1);
    handle.submit(elsewhere).unwrap();
    let (bad, bad_events) = request(&[PANIC, 1], greedy(3));
    handle.submit(bad).unwrap();
    drop(gate);
    assert!(handle.wait_idle(HANG));
    for recorder in [&first_events, &bad_events] {
        assert_eq!(recorder.error(), Some(SequenceError::ModelPanicked));
        assert_eq!(recorder.terminal_events(), 1);
    }
    assert_eq!(elsewhere_events.tokens().len(), 30);
    assert_eq!(*told.lock().unwrap(), [ModelIndex(0)]);
    assert!(handle.is_stopped(ModelIndex(0)) && !handle.is_stopped(ModelIndex(1)));
    assert_eq!(handle.stats(ModelIndex(0)).free_blocks, LIMITS.num_blocks);
    let refused = handle.submit(request(&[1, 2], greedy(1)).0);
    assert_eq!(refused, Err(SubmitError::ModelStopped));

    // Removed and added again, it answers.
    handle.remove_model(ModelIndex(0)).wait();
    let again = handle.add_model("bad", Box::new(counting())).unwrap();
    let (mut next, next_events) = request(&[1, 2], greedy(2));
    next.model = again;
    handle.submit(next).unwrap();
    assert!(handle.wait_idle(HANG));
    assert_eq!(next_events.tokens(), [3, 4]);
    handle.shutdown();
    assert!(thread.join(HANG));
}

/// What was queued while the step that panics was computed was accepted, and fails like the rest.
#[test]
fn what_arrives_during_the_step_that_panics_fails_and_reaches_no_stopped_model() {
    let (model, gate) = gated();
    let (handle, _thread) = started(model);
    handle.submit(request(&[PANIC, 1], greedy(3)).0).unwrap();
    gate.entered.recv_timeout(HANG).unwrap();
    let (late, late_events) = request(&[1, 2], greedy(3));
    handle.submit(late).unwrap();
    let entered = gate.entered;
    drop(gate.open);
    assert!(handle.wait_idle(HANG));
    assert_eq!(late_events.error(), Some(SequenceError::ModelPanicked));
    assert_eq!(
        entered.try_iter().count(),
        0,
        "no step follows the one that panicked"
    );
}

/// A writer whose lines a test can read.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_panic_is_logged_once_with_its_place_and_without_tokens() {
    let lines = Lines::default();
    let writer = lines.clone();
    let log = tracing_subscriber::fmt()
        .json()
        .with_writer(move || writer.clone());
    tracing::subscriber::with_default(log.finish(), || {
        let mut engine = TurnByTurn::new(vec![counting()], Budget::new(4, 32), Execution::Synchronous);
        for _ in 0..3 {
            engine.asks(0, &[PANIC, 27], 3);
        }
        engine.turn();
        engine.run_until_idle();
    });
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let logged: Vec<&str> = text.lines().collect();
    assert_eq!(logged.len(), 1, "{text}");
    let line: serde_json::Value = serde_json::from_str(logged[0]).unwrap();
    let fields = &line["fields"];
    assert_eq!(line["level"], "ERROR");
    assert_eq!(fields["reason"], "the script was told to");
    let place = fields["location"].as_str().unwrap();
    assert!(place.starts_with("src/engine/thread_tests.rs:"), "{place}");
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
    assert!(!handle.is_stopped(ModelIndex(0)));
}
