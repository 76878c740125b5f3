//! Verdicts beside generations, tenants beside each other, on a made-up clock that moves as the batches' shapes
//! say. The measured machine's costs are planted; the engine has to find them out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{
    Clock, Event, ModelIndex, Priority, SequenceError, SubmitError, Tenant, TenantWeights,
    forecast::{Costs, Shape},
    inbox::{Inbox, QueueBounds},
    sampler::uniform,
    scheduler::{Budget, Ledger},
    scripted::ScriptedModel,
    slots::Arrivals,
    step::ModelEngine,
    testing::{Recorder, greedy, request},
    thread::Turns,
};
use crate::model::{ForwardBatch, LanguageModel, ModelError, ModelLimits};

const LIMITS: ModelLimits = ModelLimits {
    vocab_size: 61,
    context_length: 600,
    block_size: 16,
    num_blocks: 4096,
    window: None,
};

/// SmolLM2-135M on two cores, about.
const COSTS: [f64; 4] = [5e-3, 1.3e-3, 1.6e-3, 1e-3];
const TARGET: Duration = Duration::from_millis(100);

/// A model whose forward passes move the clock.
struct Timed {
    model: ScriptedModel,
    costs: Costs,
    nanoseconds: Arc<AtomicU64>,
}

impl LanguageModel for Timed {
    fn limits(&self) -> &ModelLimits {
        self.model.limits()
    }

    fn forward(&mut self, batch: &ForwardBatch, logits: &mut Vec<f32>) -> Result<(), ModelError> {
        let shapes = batch
            .sequences
            .iter()
            .map(|entry| Shape::of(entry.new_tokens, entry.context, entry.wants_logits));
        let seconds = self.costs.step(shapes.fold(Shape::default(), Shape::plus));
        let time = Duration::from_secs_f64(seconds).as_nanos() as u64;
        self.nanoseconds.fetch_add(time, Ordering::Relaxed);
        self.model.forward(batch, logits)
    }
}

/// A device with its clock.
struct World {
    inbox: Arc<Inbox>,
    turns: Turns,
    start: Instant,
    nanoseconds: Arc<AtomicU64>,
    prompts: u64,
}

impl World {
    fn new(costs: &[[f64; 4]], budget: Budget, weights: &TenantWeights) -> Self {
        let nanoseconds = Arc::new(AtomicU64::new(0));
        let start = Instant::now();
        let engines = costs.iter().map(|costs| {
            let model = Timed {
                model: ScriptedModel::hashing(LIMITS),
                costs: Costs::planted(*costs),
                nanoseconds: Arc::clone(&nanoseconds),
            };
            ModelEngine::new("timed".into(), Box::new(model), budget, weights.clone())
        });
        let bounds = QueueBounds {
            items: 100_000,
            tokens: 100_000_000,
        };
        let clock = {
            let nanoseconds = Arc::clone(&nanoseconds);
            move || start + Duration::from_nanos(nanoseconds.load(Ordering::Relaxed))
        };
        Self {
            inbox: Arc::new(Inbox::new(
                costs.iter().map(|_| LIMITS).collect(),
                bounds,
                weights,
            )),
            turns: Turns::new(engines.collect(), Ledger::new(Some(TARGET)), Clock::new(clock)),
            start,
            nanoseconds,
            prompts: 0,
        }
    }

    fn now(&self) -> f64 {
        self.nanoseconds.load(Ordering::Relaxed) as f64 * 1e-9
    }

    fn offer(&mut self, ask: &Ask) -> Result<Recorder, SubmitError> {
        self.prompts += 1;
        // No two begin alike, so that nothing is cached.
        let token = |i: usize| (uniform(self.prompts, i as u64) * 61.0) as u32;
        let prompt: Vec<u32> = (0..ask.prompt).map(token).collect();
        let (mut request, recorder) = request(&prompt, greedy(ask.answer));
        request.model = ModelIndex(ask.model);
        request.priority = ask.priority;
        request.tenant = ask.tenant.clone();
        let now = self.instant();
        request.deadline = ask.timeout.map(|timeout| now + Duration::from_secs_f64(timeout));
        self.inbox.submit(request, now).map(|()| recorder)
    }

    fn submit(&mut self, ask: &Ask) -> Recorder {
        self.offer(ask).unwrap()
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed))
    }

    /// A step, or, with nothing to do, a millisecond.
    fn step(&mut self) {
        let mut arrivals = Arrivals::default();
        // "Busy" as far as the inbox is concerned: it is not to wait.
        self.inbox.take(&mut arrivals, true);
        self.turns.take_in(&mut arrivals, &self.inbox);
        if self.turns.has_work() {
            self.turns.step(&self.inbox);
        } else {
            self.nanoseconds.fetch_add(1_000_000, Ordering::Relaxed);
        }
    }
}

/// What a client asks for.
#[derive(Debug, Clone)]
struct Ask {
    model: usize,
    priority: Priority,
    tenant: Tenant,
    prompt: usize,
    answer: usize,
    timeout: Option<f64>,
}

fn verdict(model: usize) -> Ask {
    Ask {
        model,
        priority: Priority::Urgent,
        tenant: Tenant::default(),
        prompt: 140,
        answer: 1,
        timeout: None,
    }
}

fn generation(prompt: usize, answer: usize) -> Ask {
    Ask {
        model: 0,
        priority: Priority::Interactive,
        tenant: Tenant::default(),
        prompt,
        answer,
        timeout: None,
    }
}

/// Some client's open request.
struct Open {
    ask: Ask,
    recorder: Recorder,
    submitted: f64,
}

/// Clients that keep a number of generations open all the time.
struct Closed {
    asks: Vec<Ask>,
    open: Vec<Open>,
    /// Seconds that finished ones took.
    took: Vec<f64>,
}

impl Closed {
    fn new(asks: Vec<Ask>) -> Self {
        Self {
            asks,
            open: Vec::new(),
            took: Vec::new(),
        }
    }

    fn turn(&mut self, world: &mut World) {
        let now = world.now();
        for open in std::mem::take(&mut self.open) {
            if open.recorder.terminal_events() == 0 {
                self.open.push(open);
            } else {
                assert_eq!(open.recorder.tokens().len(), open.ask.answer);
                self.took.push(now - open.submitted);
                self.asks.push(open.ask);
            }
        }
        for ask in std::mem::take(&mut self.asks) {
            let recorder = world.submit(&ask);
            let submitted = world.now();
            self.open.push(Open {
                ask,
                recorder,
                submitted,
            });
        }
    }
}

/// Verdicts that arrive at random whatever the server does: `per_second` of them on average, `count` in all.
/// Returns their latencies, sorted.
fn verdicts(world: &mut World, model: usize, load: &mut Closed, per_second: f64, count: usize) -> Vec<f64> {
    let mut arrival = world.now() + 2.0;
    let mut open: Vec<(f64, Recorder)> = Vec::new();
    let (mut latencies, mut sent) = (Vec::new(), 0);
    while latencies.len() < count {
        load.turn(world);
        while sent < count && arrival <= world.now() {
            open.push((arrival, world.submit(&verdict(model))));
            sent += 1;
            arrival -= (1.0 - uniform(5, sent as u64)).ln() / per_second;
        }
        world.step();
        let now = world.now();
        open.retain(|(arrival, recorder)| {
            let done = recorder.terminal_events() == 1;
            if done {
                latencies.push(now - arrival);
            }
            !done
        });
    }
    latencies.sort_by(f64::total_cmp);
    latencies
}

fn p99(sorted: &[f64]) -> f64 {
    sorted[(sorted.len() * 99).div_ceil(100) - 1]
}

/// Idle and loaded p99 of verdicts, and the generations that finished meanwhile.
fn beside_generations(costs: &[[f64; 4]], generations: usize) -> (f64, f64, Closed) {
    let guard = costs.len() - 1;
    let world = || World::new(costs, Budget::new(64, 512), &TenantWeights::default());
    let idle = verdicts(&mut world(), guard, &mut Closed::new(Vec::new()), 1.0, 300);
    // Prompts of all lengths, so that chunks of prompts and answers mix at all times.
    let asks = (0..generations).map(|i| generation(20 + 37 * (i % 11), 40 + 3 * (i % 50)));
    let mut load = Closed::new(asks.collect());
    let loaded = verdicts(&mut world(), guard, &mut load, 1.0, 300);
    (p99(&idle), p99(&loaded), load)
}

#[test]
fn verdicts_beside_generations_that_saturate_the_same_model_take_at_most_three_times_as_long() {
    for generations in [32, 100] {
        let (idle, loaded, load) = beside_generations(&[COSTS], generations);
        assert!(
            loaded <= 3.0 * idle,
            "{generations}: {loaded} against {idle} idle"
        );
        assert!(
            load.took.len() > 2 * generations,
            "generations went on: {}",
            load.took.len()
        );
    }
}

#[test]
fn verdicts_of_one_model_beside_generations_of_another_take_at_most_three_times_as_long() {
    let target = [20e-3, 2e-3, 3e-3, 1e-3];
    let (idle, loaded, load) = beside_generations(&[target, COSTS], 32);
    assert!(loaded <= 3.0 * idle, "{loaded} against {idle} idle");
    assert!(load.took.len() > 32, "generations went on: {}", load.took.len());
}

/// More verdicts than the device can give, for ever: the generations have a fifth of the time.
fn under_a_flood(costs: &[[f64; 4]], budget: Budget, asks: &[Ask]) -> (f64, f64) {
    let mut world = World::new(costs, budget, &TenantWeights::default());
    let guard = costs.len() - 1;
    let mut flood = Closed::new(vec![verdict(guard); 40]);
    for _ in 0..200 {
        flood.turn(&mut world);
        world.step();
    }
    let began = world.now();
    let generations: Vec<Recorder> = asks.iter().map(|ask| world.submit(ask)).collect();
    let work: f64 = asks
        .iter()
        .map(|ask| {
            let costs = Costs::planted(costs[ask.model]);
            let decode = Shape::of(1, ask.prompt + ask.answer, true);
            // Each token in a step of its own is as bad as it can be.
            costs.part(Shape::of(ask.prompt, 0, true)) + costs.step(decode) * (ask.prompt + ask.answer) as f64
        })
        .sum();
    while generations.iter().any(|recorder| recorder.terminal_events() == 0) {
        flood.turn(&mut world);
        world.step();
        assert!(
            world.now() - began < 6.0 * work + 60.0,
            "a generation starves: {} of {work} seconds of work",
            world.now() - began
        );
    }
    for (recorder, ask) in generations.iter().zip(asks) {
        assert_eq!(recorder.tokens().len(), ask.answer);
    }
    assert!(!flood.took.is_empty());
    (world.now() - began, work)
}

#[test]
fn a_flood_of_verdicts_leaves_a_fifth_of_the_time() {
    let asks: Vec<Ask> = (0..8).map(|_| generation(100, 50)).collect();
    under_a_flood(&[COSTS], Budget::new(64, 512), &asks);
    under_a_flood(&[COSTS, COSTS], Budget::new(64, 512), &asks);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever the machine costs, the limits are, and the generations are like: each of them ends in time.
    #[test]
    fn no_generation_starves(
        base in 1e-4f64..0.3,
        token in 1e-6f64..5e-3,
        row in 1e-6f64..5e-3,
        sequences in 1usize..24,
        tokens in 1usize..200,
        two_models in any::<bool>(),
        asks in prop::collection::vec((1usize..150, 1usize..20, any::<bool>(), 0usize..3), 1..12),
    ) {
        let costs = [[base, token, row, 1e-4], [5e-3, 1e-3, 1e-3, 1e-4]];
        let costs = if two_models { &costs[..] } else { &costs[..1] };
        let asks: Vec<Ask> = asks
            .into_iter()
            .map(|(prompt, answer, batch, tenant)| Ask {
                priority: if batch { Priority::Batch } else { Priority::Interactive },
                tenant: Tenant::named(&format!("t{tenant}")).unwrap(),
                ..generation(prompt, answer)
            })
            .collect();
        under_a_flood(costs, Budget::new(sequences, tokens), &asks);
    }
}

/// Tokens that were written for these until now.
fn written(load: &[(Recorder, f64)]) -> usize {
    load.iter().map(|(recorder, _)| recorder.tokens().len()).sum()
}

#[test]
fn a_tenant_that_floods_a_hundredfold_gets_its_share_and_no_more() {
    for (weight, share) in [(1, 0.5), (3, 0.75)] {
        let tenant = |name: &str| Tenant::named(name).unwrap();
        let weights = TenantWeights::new([(tenant("modest"), weight)]);
        let mut world = World::new(&[COSTS], Budget::new(16, 256), &weights);
        let ask = |name: &str| Ask {
            tenant: tenant(name),
            ..generation(60, 20)
        };
        // A hundred times as many at once; the modest one asks for enough to be served all the time.
        let flood: Vec<_> = (0..4000)
            .map(|_| (world.submit(&ask("flood")), world.now()))
            .collect();
        let mut modest = Closed::new(vec![ask("modest"); 40]);
        for _ in 0..400 {
            modest.turn(&mut world);
            world.step();
        }
        let before = (written(&flood), modest.took.len());
        for _ in 0..4000 {
            modest.turn(&mut world);
            world.step();
        }
        let (flooded, served) = (written(&flood) - before.0, (modest.took.len() - before.1) * 20);
        let found = served as f64 / (served + flooded) as f64;
        assert!((found - share).abs() < 0.06, "{found} is not about {share}");
    }
}

#[test]
fn the_other_tenants_wait_is_bounded_whatever_one_tenant_has_queued() {
    let wait = |flood: usize| {
        let mut world = World::new(&[COSTS], Budget::new(16, 256), &TenantWeights::default());
        let ask = |name: &str| Ask {
            tenant: Tenant::named(name).unwrap(),
            ..generation(60, 20)
        };
        for _ in 0..flood {
            world.submit(&ask("flood"));
        }
        for _ in 0..300 {
            world.step();
        }
        let recorder = world.submit(&ask("modest"));
        let began = world.now();
        while recorder.terminal_events() == 0 {
            world.step();
        }
        let events = recorder.events();
        let Some(Event::Started { queue, .. }) = events.first() else {
            panic!("{events:?}")
        };
        assert!(world.now() > began);
        queue.as_secs_f64()
    };
    let (short, long) = (wait(200), wait(20_000));
    assert!(
        long <= 1.5 * short + 0.5,
        "{long} behind 20,000, {short} behind 200"
    );
}

/// Twice as much as the device can do, each with a deadline: it is busy all the time, and most of what it accepts
/// is in time. The rest is told at once.
#[test]
fn of_what_is_accepted_under_overload_most_is_in_time() {
    let mut world = World::new(&[COSTS], Budget::new(8, 256), &TenantWeights::default());
    let ask = Ask {
        timeout: Some(8.0),
        ..generation(60, 20)
    };
    let (mut open, mut refused, mut arrival) = (Vec::new(), 0, 0.0);
    for sent in 0..1500u64 {
        while world.now() < arrival {
            world.step();
        }
        // About 0.13 s of work each.
        arrival -= (1.0 - uniform(6, sent)).ln() * 0.065;
        match world.offer(&ask) {
            Ok(recorder) => open.push(recorder),
            Err(SubmitError::DeadlineUnattainable {
                predicted, remaining, ..
            }) => {
                assert!(predicted > remaining);
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    while open.iter().any(|recorder| recorder.terminal_events() == 0) {
        world.step();
    }
    let late: Vec<_> = open.iter().filter_map(Recorder::error).collect();
    assert!(
        late.iter()
            .all(|error| matches!(error, SequenceError::DeadlineExceeded { .. }))
    );
    assert!(refused > 300, "{refused}");
    // The device can answer about 750 of them.
    assert!(open.len() > 600, "{} accepted", open.len());
    assert!(
        late.len() * 5 <= open.len(),
        "{} of {} late",
        late.len(),
        open.len()
    );
}

/// Another tenant's full queue does not shut a modest one out.
#[test]
fn a_full_queue_has_room_for_tenants_that_have_little_in_it() {
    let mut world = World::new(&[COSTS], Budget::new(16, 256), &TenantWeights::default());
    world.inbox = Arc::new(Inbox::new(
        vec![LIMITS],
        QueueBounds {
            items: 64,
            tokens: 64_000,
        },
        &TenantWeights::default(),
    ));
    let ask = |name: &str| Ask {
        tenant: Tenant::named(name).unwrap(),
        ..generation(60, 20)
    };
    let mut accepted = |name: &str| (0..100).take_while(|_| world.offer(&ask(name)).is_ok()).count();
    assert_eq!(accepted("flood"), 64);
    // A sixteenth of 64 each, until a quarter of 64 is used up.
    let modest: Vec<usize> = (0..6).map(|n| accepted(&format!("modest-{n}"))).collect();
    assert_eq!(modest, [4, 4, 4, 4, 0, 0]);
    assert_eq!(accepted("flood"), 0);
}
