//! Models that compute generated tokens otherwise than the same tokens in a prompt.

use std::time::Instant;

use super::{
    scripted::ScriptedModel,
    step::ModelEngine,
    testing::{STEP, engine_of, greedy, request, run_until_idle, step},
};
use crate::{
    backend::{GeneratedTokens, ModelLimits},
    model::spec::TokenKind,
};

const LIMITS: ModelLimits = ModelLimits {
    vocab_size: 11,
    context_length: 64,
    block_size: 4,
    num_blocks: 16,
    window: None,
};

fn engine(limits: ModelLimits, generated: GeneratedTokens, tokens: usize) -> ModelEngine {
    engine_of(
        ScriptedModel::hashing(limits).with_generated(generated),
        8,
        tokens,
    )
}

/// The next turn of a conversation begins with the prompt and the answer of the one before.
#[test]
fn a_prompt_finds_what_was_a_prompt_before_and_what_was_generated_only_where_that_is_the_same() {
    for (generated, cached) in [(GeneratedTokens::AsInPrompts, 16), (GeneratedTokens::Apart, 8)] {
        let mut engine = engine(LIMITS, generated, 64);
        let mut now = Instant::now();
        // Two full blocks of prompt, and one that is half prompt and half answer.
        let mut text: Vec<u32> = (1..=10).collect();
        let (first, answer) = request(&text, greedy(7));
        engine.enqueue(first, now);
        now = run_until_idle(&mut engine, now);
        text.extend(answer.tokens());
        assert_eq!(text.len(), 17);
        text.push(3);
        let (second, found) = request(&text, greedy(1));
        engine.enqueue(second, now);
        now = run_until_idle(&mut engine, now);
        assert_eq!(found.summary().unwrap().cached_tokens, cached, "{generated:?}");
        // What the next turn has computed as a prompt is found whole.
        let (third, found_again) = request(&text, greedy(1));
        engine.enqueue(third, now);
        run_until_idle(&mut engine, now);
        assert_eq!(found_again.summary().unwrap().cached_tokens, 16, "{generated:?}");
        assert_eq!(found_again.output(), found.output());
    }
}

/// A sequence that is preempted while it decodes computes its prompt and its answer again, each in steps of its own.
#[test]
fn no_part_of_a_step_has_tokens_of_both_kinds() {
    let limits = ModelLimits {
        num_blocks: 8,
        ..LIMITS
    };
    let mut engine = engine(limits, GeneratedTokens::Apart, 64);
    let mut now = Instant::now();
    let recorders: Vec<_> = (0..3)
        .map(|number| {
            let (request, recorder) = request(&[1, 2, 3, 4, 5 + number], greedy(12));
            engine.enqueue(request, now);
            recorder
        })
        .collect();
    let mut recomputed_answers = 0;
    while engine.has_work() {
        step(&mut engine, now);
        now += STEP;
        for part in &engine.batch().sequences {
            let end = part.context + part.new_tokens;
            assert!(part.context >= 5 || end <= 5, "{part:?}");
            assert_eq!(part.kind == TokenKind::Prompt, part.context < 5);
            recomputed_answers += usize::from(part.context >= 5 && part.new_tokens > 1);
        }
    }
    assert!(engine.preemptions() > 0 && recomputed_answers > 0);
    assert!(recorders.iter().all(|recorder| recorder.tokens().len() == 12));
}

/// Generated blocks are not cached, so those that have left the window are free at once.
#[test]
fn a_long_answer_holds_no_more_than_its_window() {
    let limits = ModelLimits {
        window: Some(8),
        num_blocks: 6,
        ..LIMITS
    };
    assert!(limits.most_blocks() <= limits.num_blocks);
    let mut engine = engine(limits, GeneratedTokens::Apart, 64);
    let (request, recorder) = request(&[1, 2, 3, 4, 5], greedy(50));
    let now = Instant::now();
    engine.enqueue(request, now);
    run_until_idle(&mut engine, now);
    assert_eq!(recorder.tokens().len(), 50);
    assert_eq!(engine.preemptions(), 0);
    assert_eq!(engine.kv_counts().available, 6);
}
