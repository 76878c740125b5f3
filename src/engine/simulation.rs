//! The scheduler, pool and cache of one model under thousands of random arrivals, cancels and deadlines, on a
//! made-up clock. The scripted model notices any mix-up of blocks, and each outcome is compared with the
//! same sequence run alone.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    CancelFlag, Event, FinishReason, ModelIndex, OutputSpec, Priority, Probe, Sampling, SequenceError,
    SequenceRequest, Stage, StopCondition,
    admission::{Book, blocks_needed, validate},
    scheduler::Budget,
    scripted::ScriptedModel,
    step::ModelEngine,
    testing::{Recorder, greedy, request},
};
use crate::model::ModelLimits;

const STEP: Duration = Duration::from_millis(5);

/// Numbers for one schedule; the same seed gives the same schedule.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 += 1;
        (super::sampler::uniform(0xd1ce, self.0) * below as f64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.roll(100) < percent
    }
}

/// A stop condition that depends on the tokens alone.
struct StopAt(u32);

impl StopCondition for StopAt {
    fn push(&mut self, token: u32) -> bool {
        token == self.0
    }
}

/// What a client asks for; can be asked for again, alone.
#[derive(Debug, Clone)]
struct Plan {
    prompt: Vec<u32>,
    max_new_tokens: usize,
    sampling: Sampling,
    probe: Option<Probe>,
    stop: Option<u32>,
    logprobs: Option<usize>,
    pin: bool,
    priority: Priority,
}

impl Plan {
    fn random(dice: &mut Dice, limits: &ModelLimits) -> Self {
        // Few distinct beginnings, so that prefixes are shared.
        let (family, shared, own) = (dice.roll(3) as u32, dice.roll(20), 1 + dice.roll(12));
        let mut prompt: Vec<u32> = (0..shared as u32).map(|i| (family * 5 + i) % 7).collect();
        prompt.extend((0..own).map(|_| dice.roll(limits.vocab_size) as u32));
        let sampling = if dice.chance(50) {
            Sampling::greedy()
        } else {
            Sampling {
                temperature: 0.5 + dice.roll(10) as f64 / 10.0,
                top_k: dice.roll(6),
                top_p: if dice.chance(50) { 0.8 } else { 1.0 },
                repetition_penalty: if dice.chance(50) { 1.2 } else { 1.0 },
                seed: dice.roll(1000) as u64,
            }
        };
        let probe = dice.chance(30).then(|| Probe {
            tokens: vec![1, 2, limits.vocab_size as u32],
            finish_on: (0..dice.roll(limits.vocab_size) as u32).collect(),
        });
        Self {
            prompt,
            max_new_tokens: dice.roll(24),
            sampling,
            probe,
            stop: dice.chance(20).then(|| dice.roll(limits.vocab_size) as u32),
            logprobs: dice.chance(20).then(|| dice.roll(4)),
            pin: dice.chance(3),
            priority: if dice.chance(50) {
                Priority::Interactive
            } else {
                Priority::Batch
            },
        }
    }

    fn request(&self) -> (SequenceRequest, Recorder) {
        let recorder = Recorder::default();
        let output = OutputSpec {
            max_new_tokens: self.max_new_tokens,
            eos: Arc::new([0]),
            sampling: self.sampling.clone(),
            logprobs: self.logprobs,
            probe: self.probe.clone(),
            stop: self
                .stop
                .map(|token| Box::new(StopAt(token)) as Box<dyn StopCondition>),
            pin_prompt: self.pin,
        };
        let request = SequenceRequest {
            model: ModelIndex(0),
            prompt: self.prompt.clone(),
            output,
            priority: self.priority,
            deadline: None,
            cancel: CancelFlag::default(),
            events: recorder.sink(usize::MAX),
        };
        (request, recorder)
    }

    /// Its events when nothing else is there: probe, tokens, and how it ended.
    fn alone(&self, limits: &ModelLimits) -> (Vec<Event>, FinishReason) {
        let limits = ModelLimits {
            num_blocks: 100,
            ..limits.clone()
        };
        let mut engine = engine(limits, 1, 1000);
        let (request, recorder) = self.request();
        let now = Instant::now();
        engine.enqueue(request, now);
        run_until_idle(&mut engine, now);
        (recorder.output(), recorder.summary().unwrap().reason)
    }
}

fn engine(limits: ModelLimits, sequences: usize, tokens: usize) -> ModelEngine {
    let model = ScriptedModel::hashing(limits);
    ModelEngine::new("scripted".into(), Box::new(model), Budget::new(sequences, tokens))
}

/// A step; returns its sequences and tokens.
fn step(engine: &mut ModelEngine, now: Instant) -> (usize, usize) {
    if !engine.begin(now) {
        return (0, 0);
    }
    let size = (engine.batch().sequences.len(), engine.batch().tokens.len());
    let outcome = engine.forward();
    assert!(outcome.is_ok(), "{outcome:?}");
    engine.complete(outcome, now + STEP);
    size
}

/// Runs to the end; returns the time then.
fn run_until_idle(engine: &mut ModelEngine, mut now: Instant) -> Instant {
    for _ in 0..100_000 {
        if !engine.has_work() {
            return now;
        }
        step(engine, now);
        now += STEP;
    }
    panic!("work is left after 100,000 steps");
}

struct Client {
    plan: Plan,
    recorder: Recorder,
    cancel: CancelFlag,
    deadline: Option<Instant>,
    listens_for: usize,
    needed: usize,
}

/// One random schedule on one random engine.
fn simulate(seed: u64) -> Outcomes {
    let mut dice = Dice(seed << 32);
    let limits = ModelLimits {
        vocab_size: 11,
        context_length: 40,
        block_size: 1 + dice.roll(5),
        num_blocks: 0,
    };
    // From barely one sequence to plenty.
    let one = limits.context_length.div_ceil(limits.block_size);
    let limits = ModelLimits {
        num_blocks: one + dice.roll(one),
        ..limits
    };
    let budget = Budget::new(1 + dice.roll(8), 1 + dice.roll(24));
    let mut engine = engine(limits.clone(), budget.sequences, budget.tokens);
    let mut book = Book::default();
    let mut now = Instant::now();
    let mut clients: Vec<Client> = Vec::new();
    let mut outcomes = Outcomes::default();

    for _ in 0..150 {
        while dice.chance(40) && clients.len() < 60 {
            let plan = Plan::random(&mut dice, &limits);
            let (mut request, recorder) = plan.request();
            request.deadline = dice.chance(10).then(|| now + STEP * dice.roll(60) as u32);
            let listens_for = if dice.chance(10) {
                1 + dice.roll(8)
            } else {
                usize::MAX
            };
            request.events = recorder.sink(listens_for);
            let needed = blocks_needed(&request, &limits);
            let size = limits.block_size;
            let full = plan.prompt.len() / size * size;
            let pin = (plan.pin && full > 0).then(|| plan.prompt[..full].into());
            // Not all of the pool, so that pins stay possible. Entries are never struck out: stricter than
            // the real books, which only makes the engine's life easier where pins are concerned.
            if validate(&request, &limits, now).is_err()
                || book.enter(&request.prompt, needed, pin, &limits).is_err()
            {
                outcomes.refused += 1;
                continue;
            }
            let (cancel, deadline) = (request.cancel.clone(), request.deadline);
            clients.push(Client {
                plan,
                recorder,
                cancel,
                deadline,
                listens_for,
                needed,
            });
            engine.enqueue(request, now);
        }
        if !clients.is_empty() && dice.chance(10) {
            clients[dice.roll(clients.len())].cancel.cancel();
        }
        let (sequences, tokens) = step(&mut engine, now);
        assert!(
            sequences <= budget.sequences && tokens <= budget.tokens,
            "a step over budget"
        );
        now += STEP;
    }
    run_until_idle(&mut engine, now);

    let kv = engine.kv_counts();
    assert_eq!(kv.available + kv.pinned, limits.num_blocks, "blocks have leaked");
    for client in &clients {
        outcomes.count(client, &limits);
    }
    outcomes.preemptions = engine.preemptions();
    outcomes
}

#[derive(Debug, Default)]
struct Outcomes {
    refused: usize,
    finished: usize,
    cached: usize,
    cancelled: usize,
    late: HashMap<Stage, usize>,
    deaf: usize,
    preemptions: u64,
}

impl Outcomes {
    fn count(&mut self, client: &Client, limits: &ModelLimits) {
        let recorder = &client.recorder;
        let (output, reason) = client.plan.alone(limits);
        let own = recorder.output();
        assert!(client.needed <= limits.num_blocks);
        assert!(
            output.starts_with(&own),
            "{:?}\n{own:?}\nalone\n{output:?}",
            client.plan
        );
        let events = recorder.events();
        let started = events
            .iter()
            .filter(|event| matches!(event, Event::Started { .. }))
            .count();
        assert!(started <= 1 && (started == 1 || own.is_empty()));
        if events.len() >= client.listens_for {
            assert_eq!(
                events.len(),
                client.listens_for,
                "an event after the sink was closed"
            );
            self.deaf += 1;
            return;
        }
        assert_eq!(recorder.terminal_events(), 1, "{events:?}");
        match (recorder.summary(), recorder.error()) {
            (Some(summary), _) => {
                assert_eq!((&own, summary.reason), (&output, reason));
                assert_eq!(summary.completion_tokens, recorder.tokens().len());
                assert_eq!(summary.prompt_tokens, client.plan.prompt.len());
                assert!(summary.cached_tokens < summary.prompt_tokens);
                self.finished += 1;
                self.cached += usize::from(summary.cached_tokens > 0);
            }
            (_, Some(SequenceError::Cancelled)) => {
                assert!(client.cancel.is_cancelled());
                self.cancelled += 1;
            }
            (_, Some(SequenceError::DeadlineExceeded { stage })) => {
                assert!(client.deadline.is_some());
                assert_eq!(stage == Stage::Queue, started == 0);
                *self.late.entry(stage).or_default() += 1;
            }
            (_, error) => panic!("{error:?}"),
        }
    }
}

#[test]
fn random_schedules_give_each_sequence_what_it_gets_alone_and_leak_nothing() {
    let mut total = Outcomes::default();
    for seed in 0..400 {
        let one = std::panic::catch_unwind(|| simulate(seed));
        let one = one.unwrap_or_else(|_| panic!("schedule {seed} went wrong"));
        total.refused += one.refused;
        total.finished += one.finished;
        total.cached += one.cached;
        total.cancelled += one.cancelled;
        total.deaf += one.deaf;
        total.preemptions += one.preemptions;
        for (stage, count) in one.late {
            *total.late.entry(stage).or_default() += count;
        }
    }
    // The schedules must have met what they are about.
    assert!(total.finished > 5000, "{total:?}");
    assert!(total.cached > 500 && total.preemptions > 500, "{total:?}");
    assert!(
        total.cancelled > 200 && total.deaf > 200 && total.refused > 100,
        "{total:?}"
    );
    for stage in [Stage::Queue, Stage::Prefill, Stage::Decode] {
        assert!(
            total.late.get(&stage).is_some_and(|&count| count > 10),
            "{total:?}"
        );
    }
}

/// A batch-class sequence must get through although interactive ones never stop coming and could alone fill
/// every step, every slot and every block.
#[test]
fn batch_class_sequences_do_not_starve() {
    let limits = ModelLimits {
        vocab_size: 11,
        context_length: 64,
        block_size: 4,
        num_blocks: 20,
    };
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
    let limits = ModelLimits {
        vocab_size: 11,
        context_length: 64,
        block_size: 4,
        num_blocks: 100,
    };
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
        vocab_size: 11,
        context_length: 200,
        block_size: 4,
        num_blocks: 100,
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
    let limits = ModelLimits {
        vocab_size: 11,
        context_length: 64,
        block_size: 4,
        num_blocks: 100,
    };
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
fn the_youngest_batch_sequence_is_preempted_and_nobody_hears_of_it() {
    let limits = ModelLimits {
        vocab_size: 11,
        context_length: 64,
        block_size: 4,
        num_blocks: 8,
    };
    let mut engine = engine(limits.clone(), 8, 64);
    let now = Instant::now();
    let plans = [Priority::Interactive, Priority::Batch, Priority::Batch].map(|priority| Plan {
        prompt: vec![1, 2, 3, priority as u32, 5],
        max_new_tokens: 12,
        sampling: Sampling::greedy(),
        probe: None,
        stop: None,
        logprobs: None,
        pin: false,
        priority,
    });
    let recorders: Vec<_> = plans
        .iter()
        .enumerate()
        .map(|(i, plan)| {
            let (mut request, recorder) = plan.request();
            request.prompt[4] += i as u32;
            request.output.eos = Arc::new([]);
            engine.enqueue(request, now);
            recorder
        })
        .collect();
    run_until_idle(&mut engine, now);
    assert!(engine.preemptions() > 0);
    let decode: Vec<_> = recorders.iter().map(|r| r.summary().unwrap().decode).collect();
    assert_eq!(
        decode[..2],
        [11 * STEP, 11 * STEP],
        "the older two are undisturbed"
    );
    assert!(decode[2] > 11 * STEP, "{decode:?}");
    assert!(recorders.iter().all(|r| r.tokens().len() == 12));
}

#[test]
fn a_deadline_ends_a_sequence_where_it_is_and_frees_its_blocks() {
    let limits = ModelLimits {
        vocab_size: 11,
        context_length: 64,
        block_size: 4,
        num_blocks: 40,
    };
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
    let limits = ModelLimits {
        vocab_size: 11,
        context_length: 64,
        block_size: 4,
        num_blocks: 6,
    };
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
    let limits = ModelLimits {
        vocab_size: 11,
        context_length: 64,
        block_size: 4,
        num_blocks: 3,
    };
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
