//! What the scheduler does with chosen schedules: fairness, chunks, shared prefixes, deadlines, too small a pool.

use std::time::{Duration, Instant};

use super::{
    Priority, SequenceError, Stage,
    testing::{STEP, engine, greedy, request, run_until_idle, step},
};
use crate::backend::ModelLimits;

/// A small model with so many KV blocks of four tokens.
fn limits(num_blocks: usize) -> ModelLimits {
    ModelLimits {
        vocab_size: 11,
        context_length: 64,
        block_size: 4,
        num_blocks,
        window: None,
    }
}

/// A batch-class sequence must get through although interactive ones never stop coming and could alone fill
/// every step, every slot and every block.
#[test]
fn batch_class_sequences_do_not_starve() {
    let limits = limits(20);
    let mut engine = engine(limits, 4, 16);
    let mut now = Instant::now();
    let (mut batch, recorder) = request(&[1; 40], greedy(20));
    batch.priority = Priority::Batch;
    let mut batch = Some(batch);
    let mut newest = None;
    for i in 0..8000u32 {
        if i == 200 {
            engine.enqueue(batch.take().unwrap(), now);
        }
        if i.is_multiple_of(2) {
            let prompt: Vec<u32> = (0..24).map(|j| (i / 2 + j * j) % 11).collect();
            let (interactive, recorder) = request(&prompt, greedy(6));
            engine.enqueue(interactive, now);
            newest = Some(recorder);
        }
        step(&mut engine, now);
        now += STEP;
        if recorder.terminal_events() == 1 {
            break;
        }
    }
    assert_eq!(recorder.tokens().len(), 20);
    assert_eq!(
        newest.unwrap().terminal_events(),
        0,
        "there was more interactive work than time"
    );
    let waited = recorder.summary().unwrap().queue;
    assert!(
        waited >= Duration::from_secs(5),
        "interactive sequences go first: {waited:?}"
    );
}

#[test]
fn interactive_sequences_overtake_batch_ones_that_wait() {
    let limits = limits(100);
    let mut engine = engine(limits, 1, 64);
    let now = Instant::now();
    let (mut batch, batch_events) = request(&[1, 2, 3], greedy(3));
    batch.priority = Priority::Batch;
    let (interactive, interactive_events) = request(&[3, 2, 1], greedy(3));
    engine.enqueue(batch, now);
    engine.enqueue(interactive, now + STEP);
    for _ in 0..3 {
        step(&mut engine, now + STEP);
    }
    assert_eq!(interactive_events.terminal_events(), 1);
    assert_eq!(batch_events.events(), []);
    run_until_idle(&mut engine, now + STEP);
    assert_eq!(batch_events.tokens().len(), 3);
}

#[test]
fn decodes_go_on_in_every_step_while_a_long_prompt_is_computed_in_chunks() {
    let limits = ModelLimits {
        context_length: 200,
        ..limits(100)
    };
    let mut engine = engine(limits, 4, 8);
    let now = Instant::now();
    let (short, short_events) = request(&[1, 2], greedy(100));
    engine.enqueue(short, now);
    step(&mut engine, now);
    let (long, long_events) = request(&[3; 100], greedy(1));
    engine.enqueue(long, now);
    for written in 2..16 {
        assert_eq!(step(&mut engine, now), (2, 8));
        assert_eq!(short_events.tokens().len(), written);
    }
    step(&mut engine, now);
    let summary = long_events.summary().unwrap();
    assert_eq!((summary.forward_passes, summary.max_batch_size), (15, 2));
}

#[test]
fn a_prefix_that_is_being_computed_is_waited_for_and_then_found() {
    let limits = limits(100);
    let mut engine = engine(limits, 8, 64);
    let now = Instant::now();
    let recorders: Vec<_> = (0..4)
        .map(|i| {
            let (request, recorder) = request(&[1, 2, 3, 4, 5, 6, 7, 8, i], greedy(2));
            engine.enqueue(request, now);
            recorder
        })
        .collect();
    assert_eq!(step(&mut engine, now), (1, 9));
    assert_eq!(step(&mut engine, now), (4, 4));
    run_until_idle(&mut engine, now);
    let cached: Vec<_> = recorders
        .iter()
        .map(|r| r.summary().unwrap().cached_tokens)
        .collect();
    assert_eq!(cached, [0, 8, 8, 8]);
}

#[test]
fn a_deadline_ends_a_sequence_where_it_is_and_frees_its_blocks() {
    let limits = limits(40);
    // (prompt, steps before the deadline, stage): one slot, chunks of 8 tokens.
    for (prompt, steps, stage) in [
        (20, 0, Stage::Queue),
        (20, 2, Stage::Prefill),
        (20, 5, Stage::Decode),
    ] {
        let mut engine = engine(limits.clone(), 1, 8);
        let now = Instant::now();
        let (mut late, recorder) = request(&vec![1; prompt], greedy(30));
        late.deadline = Some(now + STEP * steps);
        engine.enqueue(late, now);
        run_until_idle(&mut engine, now);
        assert_eq!(recorder.error(), Some(SequenceError::DeadlineExceeded { stage }));
        assert_eq!(recorder.tokens().len(), (steps as usize).saturating_sub(2));
        assert_eq!(engine.kv_counts().available, 40);
    }
}

/// A sequence that has computed for itself what is pinned meanwhile, in a pool that holds only one of the two.
#[test]
fn a_lone_sequence_beside_a_late_pin_gets_through() {
    let limits = limits(6);
    let mut engine = engine(limits, 4, 64);
    let now = Instant::now();
    let prompt = [1, 2, 3, 4, 5, 6, 7, 8];
    let (long, long_events) = request(&[&prompt[..], &[9]].concat(), greedy(16));
    let (mut pin, pin_events) = request(&prompt, greedy(0));
    pin.output.pin_prompt = true;
    engine.enqueue(long, now);
    engine.enqueue(pin, now);
    run_until_idle(&mut engine, now);
    assert!(pin_events.summary().is_some());
    assert_eq!(long_events.tokens().len(), 16);
    assert_eq!(engine.kv_counts().pinned, 2);
    assert_eq!(engine.kv_counts().available, 4);
}

/// Should the books ever be wrong, nothing hangs.
#[test]
fn what_can_never_fit_fails() {
    let limits = limits(3);
    let mut engine = engine(limits, 4, 64);
    let now = Instant::now();
    let (prompt_too_long, first) = request(&[1; 20], greedy(1));
    let (answer_too_long, second) = request(&[2; 10], greedy(20));
    engine.enqueue(prompt_too_long, now);
    engine.enqueue(answer_too_long, now);
    run_until_idle(&mut engine, now);
    for recorder in [first, second] {
        assert!(matches!(recorder.error(), Some(SequenceError::ModelFailed(_))));
        assert_eq!(recorder.terminal_events(), 1);
    }
    assert_eq!(engine.kv_counts().available, 3);
}
