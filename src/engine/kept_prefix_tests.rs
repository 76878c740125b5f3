//! Prefixes that are kept for growing texts: found again under pressure, given up where memory is short, and never more than
//! their share.

use std::time::Instant;

use super::{
    PrefixKeeper, Tenant,
    kept_prefixes::KEPT_SHARE,
    random_schedule_tests::Dice,
    request::SequenceRequest,
    step::ModelEngine,
    testing::{Recorder, engine, greedy, request, run_until_idle},
};
use crate::backend::ModelLimits;

const BLOCK: usize = 4;

fn limits(num_blocks: usize) -> ModelLimits {
    ModelLimits {
        vocab_size: 11,
        context_length: 400,
        block_size: BLOCK,
        num_blocks,
        window: None,
    }
}

/// Runs a prompt to its end.
fn run(engine: &mut ModelEngine, request: SequenceRequest, now: Instant) -> Instant {
    engine.enqueue(request, now);
    run_until_idle(engine, now)
}

/// A prompt of this tenant that begins as all of its prompts with this seed do.
fn prompt(tenant: &str, seed: u64, tokens: usize) -> (SequenceRequest, Recorder) {
    let mut dice = Dice(seed << 32);
    let tokens: Vec<u32> = (0..tokens).map(|_| dice.roll(11) as u32).collect();
    let (mut request, recorder) = request(&tokens, greedy(1));
    request.tenant = Tenant::named(tenant).unwrap();
    (request, recorder)
}

/// Cached tokens of a text's second look, when others have filled the cache several times since its first.
fn cached_at_second_look(keeper: Option<&PrefixKeeper>) -> usize {
    let mut engine = engine(limits(40), 4, 64);
    let mut now = Instant::now();
    let (mut first, _) = prompt("text", 1, 9 * BLOCK);
    first.keeper = keeper.cloned();
    now = run(&mut engine, first, now);
    for seed in 2..20 {
        now = run(&mut engine, prompt("others", seed, 7 * BLOCK).0, now);
    }
    let (second, recorder) = prompt("text", 1, 11 * BLOCK);
    run(&mut engine, second, now);
    recorder.summary().unwrap().cached_tokens
}

#[test]
fn the_prefix_of_a_growing_text_outlives_the_prompts_of_others() {
    let keeper = PrefixKeeper::default();
    assert_eq!(cached_at_second_look(None), 0, "the others need all the cache");
    assert_eq!(cached_at_second_look(Some(&keeper)), 9 * BLOCK);
}

#[test]
fn a_text_that_has_ended_keeps_nothing() {
    let mut engine = engine(limits(40), 4, 64);
    let (mut first, _) = prompt("text", 1, 9 * BLOCK);
    let keeper = PrefixKeeper::default();
    first.keeper = Some(keeper.clone());
    let now = run(&mut engine, first, Instant::now());
    assert_eq!(engine.kept_blocks(), 9);
    // The next prompt takes the place of the last one.
    let (mut second, _) = prompt("text", 1, 6 * BLOCK);
    second.keeper = Some(keeper.clone());
    let now = run(&mut engine, second, now);
    assert_eq!(engine.kept_blocks(), 6);
    drop(keeper);
    run(&mut engine, prompt("others", 2, BLOCK).0, now);
    assert_eq!(engine.kept_blocks(), 0);
}

#[test]
fn a_prompt_that_needs_all_blocks_gets_those_that_are_kept() {
    let mut engine = engine(limits(20), 4, 64);
    let keepers: Vec<PrefixKeeper> = (0..3).map(|_| PrefixKeeper::default()).collect();
    let mut now = Instant::now();
    for (seed, keeper) in keepers.iter().enumerate() {
        let (mut look, _) = prompt("text", seed as u64, 3 * BLOCK);
        look.keeper = Some(keeper.clone());
        now = run(&mut engine, look, now);
    }
    assert_eq!(engine.kept_blocks(), 9);
    // With its answer, it fills the pool.
    let (large, recorder) = prompt("others", 9, 20 * BLOCK - 1);
    run(&mut engine, large, now);
    assert_eq!(recorder.tokens().len(), 1);
    assert_eq!(engine.kept_blocks(), 0);
}

#[test]
fn all_texts_together_keep_no_more_than_their_share() {
    let blocks = 40;
    let mut engine = engine(limits(blocks), 4, 64);
    let keepers: Vec<PrefixKeeper> = (0..8).map(|_| PrefixKeeper::default()).collect();
    let mut now = Instant::now();
    for (seed, keeper) in keepers.iter().enumerate() {
        let (mut look, _) = prompt("text", seed as u64, 7 * BLOCK);
        look.keeper = Some(keeper.clone());
        now = run(&mut engine, look, now);
        assert!(engine.kept_blocks() <= blocks / KEPT_SHARE);
    }
    // Those that were looked at last: two of 7 blocks.
    assert_eq!(engine.kept_blocks(), 14);
    // A text that is longer than the share keeps its beginning.
    let (mut long, _) = prompt("text", 50, 35 * BLOCK);
    long.keeper = Some(keepers[0].clone());
    run(&mut engine, long, now);
    assert_eq!(engine.kept_blocks(), blocks / KEPT_SHARE);
}
