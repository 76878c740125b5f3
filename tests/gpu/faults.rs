//! Every call to a card may fail: nothing panics, nothing is leaked, and what can go on goes on.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use babelward::{
    backend::{
        Backend as _, BatchSequence, ForwardBatch, LoadedModel, Readout, StepError, StepOutput,
        cuda::{
            CudaBackend,
            driver::{Consequence, DriverError},
        },
    },
    model::spec::TokenKind,
};

use crate::{
    card::{CardState, EmulatedCard},
    common::golden,
    models::{ENOUGH, options},
    queue::Timing,
    watched::{WatchedCard, Watcher},
};

/// When calls fail.
struct Plan {
    /// Calls so far.
    calls: AtomicUsize,
    /// The call that fails, counted from 0.
    failing: AtomicUsize,
    consequence: Consequence,
}

impl Watcher for Plan {
    fn call(&self) -> Result<(), DriverError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let failing = self.failing.load(Ordering::SeqCst);
        let fails = match self.consequence {
            Consequence::Lasting => call >= failing,
            Consequence::ThisCall | Consequence::OutOfMemory => call == failing,
        };
        match fails {
            true => Err(DriverError {
                call: "planted",
                reason: format!("call {call} fails"),
                consequence: self.consequence,
            }),
            false => Ok(()),
        }
    }
}

/// A backend whose calls fail as planned.
fn backend(consequence: Consequence) -> (CudaBackend, Arc<Plan>, Arc<CardState>) {
    backend_with(ENOUGH, consequence)
}

/// The same of a card with so many bytes of memory.
fn backend_with(bytes: usize, consequence: Consequence) -> (CudaBackend, Arc<Plan>, Arc<CardState>) {
    let plan = Arc::new(Plan {
        calls: AtomicUsize::new(0),
        failing: AtomicUsize::new(usize::MAX),
        consequence,
    });
    let card = EmulatedCard::new(Timing::Late, bytes);
    let state = Arc::clone(&card.state);
    let card = WatchedCard {
        card,
        watcher: Arc::clone(&plan),
    };
    (CudaBackend::new(0, Arc::new(card)).unwrap(), plan, state)
}

fn load(backend: &CudaBackend) -> Result<LoadedModel, babelward::model::LoadError> {
    // The smallest checkpoint with head norms, windows, post norms and a cap.
    backend.load(&golden("models").join("gemma3-pictures"), &[], &options())
}

/// A prompt of three tokens, or the token after it.
fn batch(decode: bool) -> ForwardBatch {
    let (tokens, context) = match decode {
        true => (vec![4], 3),
        false => (vec![1, 2, 3], 0),
    };
    ForwardBatch {
        sequences: vec![BatchSequence {
            new_tokens: tokens.len(),
            context,
            kind: TokenKind::Prompt,
            block_table: vec![1],
            adapter: None,
            readout: Readout::Logits,
        }],
        tokens,
    }
}

fn bits(output: &StepOutput) -> Vec<u32> {
    output.logits.iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn a_load_whose_call_fails_is_an_error_and_leaves_nothing_behind() {
    for consequence in [
        Consequence::ThisCall,
        Consequence::OutOfMemory,
        Consequence::Lasting,
    ] {
        let (backend, plan, state) = backend(consequence);
        drop(load(&backend).unwrap());
        let calls = plan.calls.load(Ordering::SeqCst);
        assert!(calls > 100, "{calls} calls");
        assert_eq!(state.allocations(), (0, 0));
        for call in 0..calls {
            plan.calls.store(0, Ordering::SeqCst);
            plan.failing.store(call, Ordering::SeqCst);
            let error = load(&backend)
                .map(drop)
                .expect_err("a call has failed")
                .to_string();
            // Where all later calls fail too, the error may be that of any of them.
            let expected = match consequence {
                Consequence::Lasting => " fails".to_owned(),
                Consequence::ThisCall | Consequence::OutOfMemory => format!("call {call} fails"),
            };
            assert!(error.contains(&expected), "{error}");
            assert_eq!(state.allocations(), (0, 0), "call {call}");
        }
    }
}

#[test]
fn a_step_whose_call_fails_is_an_error_and_the_next_one_succeeds() {
    let (backend, plan, state) = backend(Consequence::ThisCall);
    let mut expected = Vec::new();
    let mut counts = Vec::new();
    let mut model = load(&backend).unwrap().model;
    // The decode step is recorded at first, and carried out by its recording later.
    let steps = [batch(false), batch(true), batch(true)];
    for step in &steps {
        plan.calls.store(0, Ordering::SeqCst);
        expected.push(bits(&model.forward(step, StepOutput::default()).unwrap()));
        counts.push(plan.calls.load(Ordering::SeqCst));
    }
    assert_eq!(expected[1], expected[2]);
    assert!(counts[2] < counts[1] / 2, "{counts:?}");
    for (index, (step, calls)) in steps.iter().zip(counts).enumerate() {
        for call in 0..calls {
            let mut fresh = load(&backend).unwrap().model;
            for before in &steps[..index] {
                fresh.forward(before, StepOutput::default()).unwrap();
            }
            plan.calls.store(0, Ordering::SeqCst);
            plan.failing.store(call, Ordering::SeqCst);
            let failed = fresh.forward(step, StepOutput::default());
            let Err(StepError::Device(reason)) = failed else {
                panic!("step {index}, call {call}: {failed:?}");
            };
            assert!(reason.contains(&format!("call {call} fails")), "{reason}");
            plan.failing.store(usize::MAX, Ordering::SeqCst);
            for again in &steps[..index] {
                fresh.forward(again, StepOutput::default()).unwrap();
            }
            let output = fresh.forward(step, StepOutput::default()).unwrap();
            assert_eq!(bits(&output), expected[index], "step {index} after call {call}");
        }
    }
    drop(model);
    assert_eq!(state.allocations(), (0, 0));
}

#[test]
fn a_measurement_of_limits_whose_call_fails_is_an_error_and_leaves_nothing_behind() {
    // Copies are as long as the card is large.
    let (backend, plan, state) = backend_with(64 << 20, Consequence::ThisCall);
    let path = golden("tiny-chat");
    for call in (0..140).step_by(9) {
        plan.calls.store(0, Ordering::SeqCst);
        plan.failing.store(call, Ordering::SeqCst);
        let error = backend.ceilings(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("call {call} fails")), "{error}");
        assert_eq!(state.allocations(), (0, 0), "call {call}");
    }
}

#[test]
fn a_card_that_is_gone_is_told_from_a_call_that_failed() {
    let (backend, plan, state) = backend(Consequence::Lasting);
    let mut model = load(&backend).unwrap().model;
    plan.failing.store(0, Ordering::SeqCst);
    for _ in 0..2 {
        let lost = model.forward(&batch(false), StepOutput::default());
        assert!(matches!(lost, Err(StepError::DeviceLost(_))), "{lost:?}");
    }
    drop(model);
    assert_eq!(state.allocations(), (0, 0));
}

#[test]
fn a_model_that_is_dropped_while_a_step_is_under_way_waits_for_it() {
    let (backend, _, state) = backend(Consequence::ThisCall);
    let mut model = load(&backend).unwrap().model;
    model.submit(&batch(false), StepOutput::default()).unwrap();
    drop(model);
    assert_eq!(state.allocations(), (0, 0));
}
