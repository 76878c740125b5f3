//! Devices that are lost while steps are under way, and sequences wait.

use std::sync::{Arc, Mutex};

use super::{
    AddModelError, Event, SubmitError,
    asynchronous_device::{
        Asked::{Submit, Wait},
        TurnByTurn, lost,
    },
    scheduler::Budget,
    testing::{Recorder, engine as idle_engine, greedy, request},
    thread_tests::{LIMITS, counting},
};
use crate::backend::{Execution, StepError};

fn device_lost() -> StepError {
    StepError::DeviceLost("gone".to_owned())
}

/// Two models with one running slot each.
fn two_models(execution: Execution) -> TurnByTurn {
    TurnByTurn::new(vec![counting(), counting()], Budget::new(1, 32), execution)
}

#[test]
fn a_lost_device_fails_all_sequences_of_all_models_and_refuses_new_ones() {
    for at in [Submit(1), Wait(0)] {
        let mut engine = two_models(Execution::Asynchronous);
        engine.device.fail(at, device_lost());
        let open: Vec<Recorder> = [0, 1, 0, 1].map(|model| engine.asks(model, &[1, 2], 3).0).into();
        let ended_when_told = Arc::new(Mutex::new(Vec::new()));
        let (told, watched) = (Arc::clone(&ended_when_told), open.clone());
        engine.inbox.on_loss(Box::new(move || {
            let ended = watched.iter().map(Recorder::terminal_events).sum::<usize>();
            told.lock().unwrap().push(ended);
        }));
        engine.turn();
        engine.run_until_idle();
        for recorder in &open {
            assert_eq!(
                (recorder.tokens(), recorder.error()),
                (vec![], Some(lost("gone")))
            );
        }
        assert_eq!(
            *ended_when_told.lock().unwrap(),
            [0],
            "the listener hears of it once and first"
        );
        let asked = engine.device.asked();
        let all = match at {
            Submit(_) => vec![Submit(0), Submit(1), Wait(0)],
            _ => vec![Submit(0), Submit(1), Wait(0), Wait(1)],
        };
        assert_eq!(
            asked, all,
            "steps under way are waited for, and there are no more"
        );
        for model in [0, 1] {
            assert_eq!(engine.free_blocks(model), LIMITS.num_blocks);
        }
        let refused = engine.submit(request(&[1], greedy(1)).0);
        assert_eq!(refused, Err(SubmitError::DeviceLost("gone".into())));
        let another = Box::new(idle_engine(LIMITS, 1, 8));
        let refused = engine.inbox.add(LIMITS, another).unwrap_err();
        assert!(matches!(refused, AddModelError::DeviceLost(_)));
        assert_eq!(engine.inbox.loss().unwrap().as_ref(), "gone");
    }
}

/// The first event of a sequence is sent after the thread has taken what had arrived, and before the step.
#[test]
fn what_arrives_during_the_step_that_loses_the_device_fails_too() {
    let mut engine = two_models(Execution::Synchronous);
    engine.device.fail(Wait(0), device_lost());
    let late_events = Arc::new(Mutex::new(None));
    let (slot, inbox, now) = (Arc::clone(&late_events), Arc::clone(&engine.inbox), engine.now());
    let (mut early, early_events) = request(&[5, 6], greedy(3));
    let mut sink = early_events.sink(usize::MAX);
    early.events = Box::new(move |event| {
        if matches!(event, Event::Started { .. }) {
            let (late, recorder) = request(&[7, 8], greedy(3));
            inbox.submit(late, now).unwrap();
            *slot.lock().unwrap() = Some(recorder);
        }
        sink(event)
    });
    engine.submit(early).unwrap();
    engine.turn();
    assert_eq!(early_events.error(), Some(lost("gone")));
    let late = late_events.lock().unwrap().take().unwrap();
    assert_eq!(late.events(), []);
    engine.turn();
    assert_eq!(late.events(), [Event::Failed(lost("gone"))]);
    assert!(!engine.turns.has_work(), "the thread waits for arrivals");
    assert_eq!(engine.device.asked(), [Submit(0), Wait(0)]);
}

#[test]
fn models_of_a_lost_device_can_be_removed_and_the_thread_ends_on_request() {
    let mut engine = two_models(Execution::Asynchronous);
    engine.device.fail(Wait(0), device_lost());
    let (failed, _) = engine.asks(0, &[1, 2], 3);
    engine.turn();
    engine.run_until_idle();
    assert_eq!(failed.error(), Some(lost("gone")));
    let (sender, receiver) = std::sync::mpsc::channel();
    engine.inbox.remove(0, sender);
    assert!(engine.turn());
    drop(receiver.try_recv().unwrap());
    engine.inbox.shutdown();
    assert!(!engine.turn());
}
