//! The scheduler, block pool and prefix cache of one model under thousands of random arrivals, cancellations and deadlines,
//! on a simulated clock. The scripted model detects any mix-up of blocks, and each outcome is compared with that of the
//! same sequence run alone.

use std::{collections::HashMap, ops::Range, sync::Arc, time::Instant};

use tracing::Span;

use super::{
    CancelFlag, Event, FinishReason, ModelIndex, OutputSpec, PrefixKeeper, Priority, Probe, ProbePositions,
    Sampling, SequenceError, SequenceRequest, Stage, StopCondition, Tenant,
    admission::{AdmissionLedger, blocks_needed, validate},
    kept_prefixes::KEPT_SHARE,
    prefix::Prefix,
    scheduler::Budget,
    scripted::ScriptedModel,
    testing::{Recorder, STEP, engine, engine_of, run_until_idle, step},
};
use crate::backend::{AdapterIndex, GeneratedTokens, ModelLimits};

/// Random numbers for one schedule. The same seed gives the same schedule.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, below: usize) -> usize {
        self.0 += 1;
        (super::sampler::uniform(0xd1ce, self.0) * below as f64) as usize
    }

    pub(super) fn chance(&mut self, percent: usize) -> bool {
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

/// One request of a client, which can be run again alone.
#[derive(Debug, Clone)]
pub(super) struct Scenario {
    prompt: Vec<u32>,
    max_new_tokens: usize,
    sampling: Sampling,
    probe: Option<Probe>,
    stop: Option<u32>,
    logprobs: Option<usize>,
    pin: bool,
    priority: Priority,
    adapter: Option<AdapterIndex>,
}

impl Scenario {
    pub(super) fn random(dice: &mut Dice, limits: &ModelLimits) -> Self {
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
            positions: ProbePositions::AfterPrompt,
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
            adapter: dice.chance(30).then(|| AdapterIndex(dice.roll(2))),
        }
    }

    pub(super) fn request(&self) -> (SequenceRequest, Recorder) {
        let recorder = Recorder::default();
        let output = OutputSpec {
            max_new_tokens: self.max_new_tokens,
            eos: Arc::new([0]),
            sampling: self.sampling.clone(),
            logprobs: self.logprobs,
            probe: self.probe.clone(),
            score: false,
            stop: self
                .stop
                .map(|token| Box::new(StopAt(token)) as Box<dyn StopCondition>),
            pin_prompt: self.pin,
        };
        let request = SequenceRequest {
            model: ModelIndex(0),
            adapter: self.adapter,
            prompt: self.prompt.clone(),
            output,
            priority: self.priority,
            tenant: Tenant::default(),
            deadline: None,
            cancel: CancelFlag::default(),
            events: recorder.sink(usize::MAX),
            keeper: None,
            span: Span::none(),
        };
        (request, recorder)
    }

    /// Its probe and token events, and the reason why it ended, when it runs alone and releases no block before its end.
    fn alone(&self, limits: &ModelLimits, generated: GeneratedTokens) -> (Vec<Event>, FinishReason) {
        let limits = ModelLimits {
            num_blocks: 100,
            ..limits.clone()
        };
        let model = ScriptedModel::hashing(limits)
            .with_hidden_window()
            .with_generated(generated);
        let mut engine = engine_of(model, 1, 1000);
        let (request, recorder) = self.request();
        let now = Instant::now();
        engine.enqueue(request, now);
        run_until_idle(&mut engine, now);
        (recorder.output(), recorder.summary().unwrap().reason)
    }
}

pub(super) struct Client {
    pub(super) scenario: Scenario,
    pub(super) recorder: Recorder,
    pub(super) cancel: CancelFlag,
    pub(super) deadline: Option<Instant>,
    pub(super) listens_for: usize,
    pub(super) needed: usize,
}

/// Limits of a small model, whose pool is barely large enough for one sequence, or larger.
pub(super) fn random_limits(dice: &mut Dice) -> ModelLimits {
    let limits = ModelLimits {
        vocab_size: 11,
        context_length: 40,
        block_size: 1 + dice.roll(5),
        num_blocks: 0,
        window: dice.chance(50).then(|| 2 + dice.roll(14)),
    };
    let one = limits
        .context_length
        .div_ceil(limits.block_size)
        .min(limits.most_blocks());
    ModelLimits {
        num_blocks: one + dice.roll(one),
        ..limits
    }
}

/// One random schedule on one random engine.
fn simulate(seed: u64, generated: GeneratedTokens) -> Outcomes {
    let mut dice = Dice(seed << 32);
    let limits = random_limits(&mut dice);
    let budget = Budget::new(1 + dice.roll(8), 1 + dice.roll(24));
    let model = ScriptedModel::hashing(limits.clone()).with_generated(generated);
    let mut engine = engine_of(model, budget.sequences, budget.tokens);
    let mut ledger = AdmissionLedger::default();
    let mut now = Instant::now();
    let mut clients: Vec<Client> = Vec::new();
    let mut outcomes = Outcomes {
        generated,
        ..Outcomes::default()
    };
    // Growing texts, which begin and end at any time. They have dice of their own.
    let mut keeper_dice = Dice((seed << 32) + (1 << 31));
    let mut keepers: Vec<PrefixKeeper> = (0..3).map(|_| PrefixKeeper::default()).collect();

    for _ in 0..150 {
        if keeper_dice.chance(5) {
            keepers[keeper_dice.roll(3)] = PrefixKeeper::default();
        }
        while dice.chance(40) && clients.len() < 60 {
            let scenario = Scenario::random(&mut dice, &limits);
            let (mut request, recorder) = scenario.request();
            request.deadline = dice.chance(10).then(|| now + STEP * dice.roll(60) as u32);
            let listens_for = if dice.chance(10) {
                1 + dice.roll(8)
            } else {
                usize::MAX
            };
            request.events = recorder.sink(listens_for);
            request.keeper = keeper_dice
                .chance(30)
                .then(|| keepers[keeper_dice.roll(3)].clone());
            let needed = blocks_needed(&request, &limits);
            let size = limits.block_size;
            let full = scenario.prompt.len() / size * size;
            let prefix = |len| Prefix {
                adapter: scenario.adapter,
                tokens: &scenario.prompt[..len],
            };
            let pin = (scenario.pin && full > 0).then(|| prefix(full).to_owned());
            // Entries are never removed from this ledger, so it is stricter than the real one, and later pins are refused
            // earlier.
            if validate(&request, &limits, now).is_err()
                || ledger
                    .enter(prefix(scenario.prompt.len()), needed, pin, &limits)
                    .is_err()
            {
                outcomes.refused += 1;
                continue;
            }
            let (cancel, deadline) = (request.cancel.clone(), request.deadline);
            clients.push(Client {
                scenario,
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
        assert!(engine.kept_blocks() <= limits.num_blocks / KEPT_SHARE);
        outcomes.kept += engine.kept_blocks();
        now += STEP;
    }
    keepers.clear();
    run_until_idle(&mut engine, now);
    // What has ended keeps nothing from the next step on.
    step(&mut engine, now);
    assert_eq!(engine.kept_blocks(), 0);

    let kv = engine.kv_counts();
    assert_eq!(kv.available + kv.pinned, limits.num_blocks, "blocks have leaked");
    for client in &clients {
        outcomes.count(client, &limits);
    }
    outcomes.preemptions = engine.preemptions();
    outcomes
}

#[derive(Debug, Default)]
pub(super) struct Outcomes {
    /// How the model computes generated tokens.
    pub(super) generated: GeneratedTokens,
    pub(super) refused: usize,
    pub(super) finished: usize,
    pub(super) cached: usize,
    /// Sequences with more blocks than the pool.
    pub(super) outgrown: usize,
    pub(super) outgrown_cached: usize,
    pub(super) cancelled: usize,
    pub(super) late: HashMap<Stage, usize>,
    pub(super) deaf: usize,
    pub(super) preemptions: u64,
    /// Blocks that were kept for growing texts, in all steps together.
    pub(super) kept: usize,
}

impl Outcomes {
    pub(super) fn count(&mut self, client: &Client, limits: &ModelLimits) {
        let recorder = &client.recorder;
        let (output, reason) = client.scenario.alone(limits, self.generated);
        let own = recorder.output();
        assert!(client.needed.min(limits.most_blocks()) <= limits.num_blocks);
        assert!(
            output.starts_with(&own),
            "{:?}\n{own:?}\nalone\n{output:?}",
            client.scenario
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
                assert_eq!(summary.prompt_tokens, client.scenario.prompt.len());
                assert!(summary.cached_tokens < summary.prompt_tokens);
                self.finished += 1;
                self.cached += usize::from(summary.cached_tokens > 0);
                if client.needed > limits.num_blocks {
                    self.outgrown += 1;
                    self.outgrown_cached += usize::from(summary.cached_tokens > 0);
                }
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

/// All outcomes of the random schedules with these seeds.
fn simulate_all(seeds: Range<u64>, generated: GeneratedTokens) -> Outcomes {
    let mut total = Outcomes::default();
    for seed in seeds {
        let one = std::panic::catch_unwind(|| simulate(seed, generated));
        let one = one.unwrap_or_else(|_| panic!("schedule {seed} went wrong"));
        total.refused += one.refused;
        total.finished += one.finished;
        total.cached += one.cached;
        total.outgrown += one.outgrown;
        total.outgrown_cached += one.outgrown_cached;
        total.cancelled += one.cancelled;
        total.deaf += one.deaf;
        total.preemptions += one.preemptions;
        total.kept += one.kept;
        for (stage, count) in one.late {
            *total.late.entry(stage).or_default() += count;
        }
    }
    total
}

/// Each sequence has one outcome in whatever company and however often it is preempted, also where a token that a sequence has
/// generated is another one than the same token in a prompt.
#[test]
fn random_schedules_of_a_model_with_generated_tokens_apart_give_what_each_gets_alone() {
    let total = simulate_all(400..600, GeneratedTokens::Apart);
    assert!(total.finished > 1000, "{total:?}");
    assert!(total.cached > 100 && total.preemptions > 100, "{total:?}");
    assert!(total.outgrown > 20 && total.outgrown_cached > 5, "{total:?}");
}

#[test]
fn random_schedules_give_each_sequence_what_it_gets_alone_and_leak_nothing() {
    let total = simulate_all(0..400, GeneratedTokens::AsInPrompts);
    // The schedules must have met what they are about.
    assert!(total.finished > 5000, "{total:?}");
    assert!(total.cached > 500 && total.preemptions > 500, "{total:?}");
    assert!(total.kept > 10_000, "{total:?}");
    assert!(total.outgrown > 200 && total.outgrown_cached > 50, "{total:?}");
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

#[test]
fn the_youngest_batch_sequence_is_preempted_without_an_event() {
    let limits = ModelLimits {
        vocab_size: 11,
        context_length: 64,
        block_size: 4,
        num_blocks: 8,
        window: None,
    };
    let mut engine = engine(limits.clone(), 8, 64);
    let now = Instant::now();
    let scenarios = [Priority::Interactive, Priority::Batch, Priority::Batch].map(|priority| Scenario {
        prompt: vec![1, 2, 3, priority as u32, 5],
        max_new_tokens: 12,
        sampling: Sampling::greedy(),
        probe: None,
        stop: None,
        logprobs: None,
        pin: false,
        adapter: None,
        priority,
    });
    let recorders: Vec<_> = scenarios
        .iter()
        .enumerate()
        .map(|(i, scenario)| {
            let (mut request, recorder) = scenario.request();
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
