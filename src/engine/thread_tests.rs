//! The engine through its handle: events, the bounds of the queue, cancellation, draining, and the end of the thread.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use super::{
    Clock, Driver, EngineConfig, EngineHandle, EngineThread, Event, FinishReason, ModelIndex, Probe,
    ProbePositions, SequenceError, SubmitError, TenantWeights,
    scripted::ScriptedModel,
    start,
    testing::{HANG, greedy, request},
};
use crate::backend::{CostPrior, Execution, ForwardBatch, LanguageModel, ModelLimits, StepError, StepOutput};

pub(super) const LIMITS: ModelLimits = ModelLimits {
    vocab_size: 32,
    context_length: 64,
    block_size: 4,
    num_blocks: 64,
    window: None,
};

/// A first prompt token that makes the script panic.
pub(super) const PANIC: u32 = 31;
/// A first prompt token that makes the script write NaN.
pub(super) const NAN: u32 = 30;
/// A first prompt token that makes the script write positive infinity.
pub(super) const INFINITY: u32 = 29;
/// A prompt token that makes the model return an error.
pub(super) const FAULT: u32 = 28;

/// Counts upwards from the last prompt token: 5 is followed by 6, and so on.
pub(super) fn counting() -> ScriptedModel {
    ScriptedModel::new(LIMITS, |context, row| {
        let last = context[context.len() - 1];
        row[(last + 1) as usize % row.len()] = 10.0;
        match context[0] {
            PANIC => panic!("the script was told to"),
            NAN => row[3] = f32::NAN,
            INFINITY => row[3] = f32::INFINITY,
            _ => {}
        }
    })
}

/// A model that waits for permission before each forward pass, and fails on some tokens.
pub(super) struct Gated {
    pub(super) model: ScriptedModel,
    pub(super) entered: Sender<usize>,
    pub(super) gate: Receiver<()>,
}

impl LanguageModel for Gated {
    fn limits(&self) -> &ModelLimits {
        self.model.limits()
    }

    fn submit(&mut self, batch: &ForwardBatch, output: StepOutput) -> Result<(), StepError> {
        let _ = self.entered.send(batch.sequences.len());
        // After the test has dropped its end, every pass goes ahead.
        let _ = self.gate.recv();
        if batch.tokens.contains(&FAULT) {
            return Err(StepError::Device("out of order".to_owned()));
        }
        self.model.submit(batch, output)
    }

    fn wait(&mut self) -> Result<StepOutput, StepError> {
        self.model.wait()
    }
}

/// The test's ends of a [`Gated`] model.
pub(super) struct Gate {
    pub(super) entered: Receiver<usize>,
    pub(super) open: Sender<()>,
}

pub(super) fn gated() -> (Gated, Gate) {
    let ((entered, test_entered), (open, gate)) = (channel(), channel());
    (
        Gated {
            model: counting(),
            entered,
            gate,
        },
        Gate {
            entered: test_entered,
            open,
        },
    )
}

pub(super) fn config() -> EngineConfig {
    EngineConfig {
        name: "engine-test".to_owned(),
        model_names: vec!["scripted".to_owned()],
        max_batch_sequences: 4,
        max_batch_tokens: 32,
        queue_items: 100,
        queue_tokens: 1000,
        step_target: None,
        cost_prior: CostPrior::SMALL_MACHINE,
        execution: Execution::Synchronous,
        tenant_weights: TenantWeights::default(),
        clock: Clock::default(),
        driver: Driver::default(),
    }
}

pub(super) fn started(model: impl LanguageModel + 'static) -> (EngineHandle, EngineThread) {
    start(config(), vec![Box::new(model)]).unwrap()
}

#[test]
fn events_come_in_order_and_the_pool_is_free_again() {
    let (handle, thread) = started(counting());
    let (mut asked, recorder) = request(&[3, 4, 5], greedy(10));
    asked.output.eos = Arc::new([9]);
    asked.output.logprobs = Some(2);
    asked.output.probe = Some(Probe {
        positions: ProbePositions::AfterPrompt,
        tokens: vec![6, 7, 99],
        finish_on: vec![1],
    });
    handle.submit(asked).unwrap();
    assert!(handle.wait_idle(HANG));
    let events = recorder.events();
    assert!(matches!(events[0], Event::Started { cached_tokens: 0, .. }));
    let Event::Probe(probe) = &events[1] else {
        panic!("{events:?}")
    };
    assert_eq!(probe.greedy, 6);
    // 31 logits of 0 and one of 10.
    let expected = -(1.0 + 31.0 * (-10f64).exp()).ln();
    assert!((probe.logprobs[0] - expected).abs() < 1e-12);
    assert!((probe.logprobs[1] - (expected - 10.0)).abs() < 1e-12);
    assert_eq!(probe.logprobs[2], f64::NEG_INFINITY);
    assert_eq!(recorder.tokens(), [6, 7, 8]);
    let Event::Token(token) = &events[2] else {
        panic!("{events:?}")
    };
    let logprobs = token.logprobs.as_ref().unwrap();
    assert_eq!(logprobs.chosen, probe.logprobs[0]);
    assert_eq!(logprobs.top, [(6, probe.logprobs[0]), (0, probe.logprobs[1])]);
    let summary = recorder.summary().unwrap();
    assert_eq!(summary.reason, FinishReason::Eos);
    assert_eq!(
        (
            summary.prompt_tokens,
            summary.completion_tokens,
            summary.forward_passes
        ),
        (3, 3, 4)
    );
    let stats = handle.stats(ModelIndex(0));
    assert_eq!(
        (stats.queued, stats.running, stats.free_blocks),
        (0, 0, stats.total_blocks)
    );
    handle.shutdown();
    assert!(thread.join(HANG));
}

#[test]
fn a_probe_of_every_token_comes_before_each_of_them() {
    let (handle, thread) = started(counting());
    let (mut asked, recorder) = request(&[3, 4, 5], greedy(10));
    asked.output.eos = Arc::new([9]);
    asked.output.probe = Some(Probe {
        positions: ProbePositions::EveryToken,
        tokens: vec![7],
        // Not the token after the prompt, so that it ends nothing.
        finish_on: vec![8],
    });
    handle.submit(asked).unwrap();
    assert!(handle.wait_idle(HANG));
    let events = recorder.events();
    let found: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Probe(probe) => Some((probe.greedy, probe.logprobs[0] > -1.0)),
            Event::Token(token) => Some((token.id, token.id == 7)),
            _ => None,
        })
        .collect();
    let expected = [
        (6, false),
        (6, false),
        (7, true),
        (7, true),
        (8, false),
        (8, false),
        (9, false),
    ];
    assert_eq!(found, expected, "the last one is that of the end");
    handle.shutdown();
    assert!(thread.join(HANG));
}

#[test]
fn each_way_to_finish() {
    let (handle, _thread) = started(counting());
    let finish_on = |tokens: &[u32]| {
        Some(Probe {
            positions: ProbePositions::AfterPrompt,
            tokens: vec![1],
            finish_on: tokens.to_vec(),
        })
    };
    let cases = [
        // (prompt, max_new_tokens, probe, reason, tokens, passes)
        (vec![1, 2], 3, None, FinishReason::MaxTokens, vec![3, 4, 5], 3),
        (vec![1, 2], 0, None, FinishReason::MaxTokens, vec![], 1),
        (vec![1, 2], 0, finish_on(&[]), FinishReason::MaxTokens, vec![], 1),
        (vec![1, 2], 5, finish_on(&[3]), FinishReason::Probe, vec![3], 1),
        (vec![1, 2], 0, finish_on(&[3]), FinishReason::Probe, vec![], 1),
        (
            vec![1, 2],
            2,
            finish_on(&[4]),
            FinishReason::MaxTokens,
            vec![3, 4],
            2,
        ),
        (
            vec![1; 62],
            9,
            None,
            FinishReason::ContextWindow,
            vec![2, 3],
            2 + 1,
        ),
        (vec![1; 64], 0, None, FinishReason::MaxTokens, vec![], 2),
    ];
    for (prompt, max_new_tokens, probe, reason, tokens, passes) in cases {
        let (mut asked, recorder) = request(&prompt, greedy(max_new_tokens));
        asked.output.probe = probe;
        handle.submit(asked).unwrap();
        assert!(handle.wait_idle(HANG));
        let summary = recorder.summary().unwrap();
        assert_eq!(
            (summary.reason, recorder.tokens()),
            (reason, tokens),
            "{prompt:?} {max_new_tokens}"
        );
        if summary.cached_tokens == 0 {
            assert_eq!(summary.forward_passes, passes, "{prompt:?} {max_new_tokens}");
        }
    }
}

#[test]
fn bad_requests_are_refused_with_the_numbers() {
    let (handle, _thread) = started(counting());
    let refused = |prompt: &[u32], max_new_tokens: usize| {
        handle
            .submit(request(prompt, greedy(max_new_tokens)).0)
            .unwrap_err()
    };
    assert_eq!(refused(&[], 1), SubmitError::EmptyPrompt);
    assert_eq!(
        refused(&[1; 64], 1),
        SubmitError::PromptTooLong {
            tokens: 64,
            limit: 63
        }
    );
    assert_eq!(
        refused(&[1; 65], 0),
        SubmitError::PromptTooLong {
            tokens: 65,
            limit: 64
        }
    );
    assert_eq!(
        refused(&[1, 2, 32], 1),
        SubmitError::TokenOutOfRange {
            token: 32,
            position: 2,
            vocab_size: 32
        }
    );
    let (mut late, _) = request(&[1], greedy(1));
    late.deadline = Some(Instant::now());
    assert_eq!(handle.submit(late), Err(SubmitError::DeadlineExceeded));
    let (mut nowhere, _) = request(&[1], greedy(1));
    nowhere.model = ModelIndex(1);
    assert_eq!(handle.submit(nowhere), Err(SubmitError::EngineGone));
    assert_eq!(handle.stats(ModelIndex(1)).total_blocks, 0);

    let small = ScriptedModel::hashing(ModelLimits {
        num_blocks: 4,
        ..LIMITS
    });
    let (handle, _thread) = started(small);
    let answer = handle.submit(request(&[1; 10], greedy(20)).0);
    assert_eq!(
        answer,
        Err(SubmitError::CannotFit {
            needed: 8,
            available: 4
        })
    );
    assert_eq!(handle.submit(request(&[1; 10], greedy(7)).0), Ok(()));
}

#[test]
fn limits_of_zero_are_refused() {
    let broken = EngineConfig {
        max_batch_tokens: 0,
        ..config()
    };
    let error = start(broken, vec![]).err().unwrap();
    assert_eq!(error.to_string(), "max_batch_tokens must be at least 1");
    let model = ScriptedModel::hashing(ModelLimits {
        block_size: 0,
        ..LIMITS
    });
    let error = start(config(), vec![Box::new(model)]).err().unwrap();
    assert_eq!(error.to_string(), "block_size must be at least 1");
}

#[test]
fn a_full_queue_says_when_to_try_again_and_has_room_again_later() {
    let (model, gate) = gated();
    let bounds = EngineConfig {
        queue_items: 2,
        queue_tokens: 10,
        max_batch_sequences: 1,
        ..config()
    };
    let (handle, _thread) = start(bounds, vec![Box::new(model)]).unwrap();
    handle.submit(request(&[1, 2], greedy(1)).0).unwrap();
    gate.entered.recv_timeout(HANG).unwrap();

    // Nothing waits, so that even a prompt beyond the bound is accepted.
    let (long, long_events) = request(&[1; 30], greedy(1));
    handle.submit(long).unwrap();
    let refused = handle.submit(request(&[1], greedy(1)).0).unwrap_err();
    assert!(matches!(refused, SubmitError::QueueFull { retry_after } if retry_after > Duration::ZERO));
    gate.open.send(()).unwrap();
    gate.entered.recv_timeout(HANG).unwrap();
    assert_eq!(handle.stats(ModelIndex(0)).running, 1);

    let (first, first_events) = request(&[1; 5], greedy(1));
    handle.submit(first).unwrap();
    let full = |answer| matches!(answer, Err(SubmitError::QueueFull { .. }));
    assert!(full(handle.submit(request(&[1; 6], greedy(1)).0)), "in tokens");
    handle.submit(request(&[1; 5], greedy(1)).0).unwrap();
    assert!(full(handle.submit(request(&[1; 1], greedy(1)).0)), "in items");
    assert_eq!(handle.stats(ModelIndex(0)).queued, 2);

    drop(gate);
    assert!(handle.wait_idle(HANG));
    assert_eq!(
        (long_events.terminal_events(), first_events.terminal_events()),
        (1, 1)
    );
    assert_eq!(handle.stats(ModelIndex(0)).queued, 0);
    handle.submit(request(&[1; 6], greedy(1)).0).unwrap();
}

#[test]
fn a_cancelled_sequence_takes_no_further_step_running_or_queued() {
    let (model, gate) = gated();
    let bounds = EngineConfig {
        max_batch_sequences: 1,
        ..config()
    };
    let (handle, _thread) = start(bounds, vec![Box::new(model)]).unwrap();
    let (running, running_events) = request(&[1, 2], greedy(20));
    let (queued, queued_events) = request(&[3, 2], greedy(20));
    let cancels = [running.cancel.clone(), queued.cancel.clone()];
    handle.submit(running).unwrap();
    gate.entered.recv_timeout(HANG).unwrap();
    handle.submit(queued).unwrap();
    cancels.iter().for_each(super::CancelFlag::cancel);
    drop(gate);
    assert!(handle.wait_idle(HANG));
    assert_eq!(running_events.error(), Some(SequenceError::Cancelled));
    assert_eq!(running_events.tokens(), [3], "the pass that was under way");
    assert_eq!(queued_events.events(), [Event::Failed(SequenceError::Cancelled)]);
    let stats = handle.stats(ModelIndex(0));
    assert_eq!((stats.queued, stats.free_blocks), (0, stats.total_blocks));
}

#[test]
fn a_sequence_that_is_cut_ends_where_it_is_with_a_summary() {
    let (model, gate) = gated();
    let bounds = EngineConfig {
        max_batch_sequences: 1,
        ..config()
    };
    let (handle, _thread) = start(bounds, vec![Box::new(model)]).unwrap();
    let (running, running_events) = request(&[1, 2], greedy(20));
    let (queued, queued_events) = request(&[3, 2], greedy(20));
    let (both, both_events) = request(&[4, 2], greedy(20));
    let flags = [&running, &queued, &both].map(|request| request.cancel.clone());
    handle.submit(running).unwrap();
    gate.entered.recv_timeout(HANG).unwrap();
    handle.submit(queued).unwrap();
    handle.submit(both).unwrap();
    flags.iter().for_each(super::CancelFlag::cut);
    flags[2].cancel();
    flags[2].cut();
    drop(gate);
    assert!(handle.wait_idle(HANG));
    let summary = running_events.summary().unwrap();
    assert_eq!(running_events.tokens(), [3], "the pass that was under way");
    assert_eq!(
        (summary.reason, summary.completion_tokens, summary.forward_passes),
        (FinishReason::Cut, 1, 1)
    );
    let summary = queued_events.summary().unwrap();
    assert_eq!(
        (summary.reason, summary.completion_tokens, summary.forward_passes),
        (FinishReason::Cut, 0, 0)
    );
    assert_eq!(both_events.error(), Some(SequenceError::Cancelled));
    let stats = handle.stats(ModelIndex(0));
    assert_eq!((stats.queued, stats.free_blocks), (0, stats.total_blocks));
}

#[test]
fn draining_finishes_what_is_open_and_takes_nothing_new() {
    let (model, gate) = gated();
    let (handle, thread) = started(model);
    let (open, open_events) = request(&[1, 2], greedy(3));
    handle.submit(open).unwrap();
    gate.entered.recv_timeout(HANG).unwrap();
    handle.drain();
    assert_eq!(
        handle.submit(request(&[1], greedy(1)).0),
        Err(SubmitError::Draining)
    );
    assert!(!handle.wait_idle(Duration::ZERO));
    drop(gate);
    assert!(handle.wait_idle(HANG));
    assert_eq!(open_events.tokens(), [3, 4, 5]);
    assert!(handle.is_alive());
    handle.shutdown();
    assert!(thread.join(HANG));
    assert_eq!(
        handle.submit(request(&[1], greedy(1)).0),
        Err(SubmitError::EngineGone)
    );
}

#[test]
fn shutting_down_fails_what_is_open_and_ends_the_thread() {
    let (model, gate) = gated();
    let bounds = EngineConfig {
        max_batch_sequences: 1,
        ..config()
    };
    let (handle, thread) = start(bounds, vec![Box::new(model)]).unwrap();
    let (running, running_events) = request(&[1, 2], greedy(9));
    let (queued, queued_events) = request(&[1, 3], greedy(9));
    handle.submit(running).unwrap();
    handle.submit(queued).unwrap();
    gate.entered.recv_timeout(HANG).unwrap();
    handle.shutdown();
    drop(gate);
    assert!(thread.join(HANG));
    for recorder in [running_events, queued_events] {
        assert_eq!(recorder.error(), Some(SequenceError::ShuttingDown));
        assert_eq!(recorder.terminal_events(), 1);
    }
}

#[test]
fn joining_waits_no_longer_than_its_limit() {
    let (model, gate) = gated();
    let (handle, thread) = started(model);
    handle.submit(request(&[1, 2], greedy(1)).0).unwrap();
    gate.entered.recv_timeout(HANG).unwrap();
    handle.shutdown();
    assert!(!thread.join(Duration::ZERO));
    drop(gate);
    assert!(handle.wait_idle(HANG));
    assert!(!handle.is_alive());
}

#[test]
fn the_thread_ends_when_no_handle_is_left_and_all_is_answered() {
    let (handle, thread) = started(counting());
    let (open, open_events) = request(&[1, 2], greedy(20));
    handle.submit(open).unwrap();
    drop(handle);
    assert!(thread.join(HANG));
    assert_eq!(open_events.tokens().len(), 20);
}

#[test]
fn models_take_turns() {
    let turns = Arc::new(Mutex::new(Vec::new()));
    let model = |index: usize| {
        let turns = Arc::clone(&turns);
        let model = ScriptedModel::with_next_token(LIMITS, move |_| {
            turns.lock().unwrap().push(index);
            1
        });
        Box::new(model) as Box<dyn LanguageModel>
    };
    // The first model holds the thread until both have work.
    let (gate_model, gate) = gated();
    let (handle, _thread) = start(config(), vec![Box::new(gate_model), model(1), model(2)]).unwrap();
    handle.submit(request(&[1], greedy(1)).0).unwrap();
    gate.entered.recv_timeout(HANG).unwrap();
    for index in [1, 2] {
        let (mut request, _) = request(&[1, 2], greedy(5));
        request.model = ModelIndex(index);
        handle.submit(request).unwrap();
    }
    drop(gate);
    assert!(handle.wait_idle(HANG));
    assert_eq!(*turns.lock().unwrap(), [1, 2, 1, 2, 1, 2, 1, 2, 1, 2]);
}

/// Many threads submit at once, and each gets the answer that it would get alone.
#[test]
fn concurrent_callers_get_their_own_answers() {
    let (handle, thread) = started(counting());
    std::thread::scope(|scope| {
        for caller in 0..8u32 {
            let handle = handle.clone();
            scope.spawn(move || {
                for i in 0..50u32 {
                    let first = (caller * 50 + i) % 20;
                    let (asked, recorder) = request(&[caller, i % 20, first], greedy(5));
                    let cancel = asked.cancel.clone();
                    match handle.submit(asked) {
                        Ok(()) if i.is_multiple_of(3) => cancel.cancel(),
                        Ok(()) => {}
                        Err(error) => assert!(matches!(error, SubmitError::QueueFull { .. }), "{error}"),
                    }
                    let expected: Vec<u32> = (1..6).map(|n| first + n).collect();
                    assert!(expected.starts_with(&recorder.tokens()));
                    if i.is_multiple_of(10) {
                        assert!(handle.wait_idle(HANG));
                        if recorder.summary().is_some() {
                            assert_eq!(recorder.tokens(), expected);
                        }
                    }
                }
            });
        }
    });
    assert!(handle.wait_idle(HANG));
    let stats = handle.stats(ModelIndex(0));
    assert_eq!(
        (stats.queued, stats.running, stats.free_blocks),
        (0, 0, stats.total_blocks)
    );
    handle.shutdown();
    assert!(thread.join(HANG));
}
