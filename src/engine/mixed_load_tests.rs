//! Verdicts beside generations, and tenants beside each other, on a simulated engine. The costs of a measured machine are
//! planted, and the engine has to learn them.

use std::sync::Arc;

use proptest::prelude::*;

use super::{
    Event, Priority, Tenant, TenantWeights,
    inbox::{Inbox, QueueBounds},
    sampler::uniform,
    scheduler::Budget,
    simulated_engine::{COSTS, ClientRequest, ClosedLoop, LIMITS, SimulatedEngine, generation, verdict},
    step_time::{StepCosts, StepShape},
    testing::Recorder,
};

/// Latencies in seconds, sorted, of `count` verdicts that arrive at random, `per_second` on average, whatever the engine
/// does.
fn verdicts(
    engine: &mut SimulatedEngine,
    model: usize,
    load: &mut ClosedLoop,
    per_second: f64,
    count: usize,
) -> Vec<f64> {
    let mut arrival = engine.now() + 2.0;
    let mut open: Vec<(f64, Recorder)> = Vec::new();
    let (mut latencies, mut sent) = (Vec::new(), 0);
    while latencies.len() < count {
        load.resubmit(engine);
        while sent < count && arrival <= engine.now() {
            open.push((arrival, engine.submit(&verdict(model))));
            sent += 1;
            arrival -= (1.0 - uniform(5, sent as u64)).ln() / per_second;
        }
        engine.step();
        let now = engine.now();
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

/// Makes an engine of models with these costs.
type NewEngine = fn(&[[f64; 4]], Budget, &TenantWeights) -> SimulatedEngine;

/// The p99 latencies of verdicts without and beside generations, and those generations.
fn beside_generations(new: NewEngine, costs: &[[f64; 4]], generations: usize) -> (f64, f64, ClosedLoop) {
    let guard = costs.len() - 1;
    let engine = || new(costs, Budget::new(64, 512), &TenantWeights::default());
    let idle = verdicts(&mut engine(), guard, &mut ClosedLoop::new(Vec::new()), 1.0, 300);
    // Prompts and answers of many lengths, so that prefill chunks and decodes mix at all times.
    let requests = (0..generations).map(|i| ClientRequest {
        model: i % guard.max(1),
        ..generation(20 + 37 * (i % 11), 40 + 3 * (i % 50))
    });
    let mut load = ClosedLoop::new(requests.collect());
    let loaded = verdicts(&mut engine(), guard, &mut load, 1.0, 300);
    (p99(&idle), p99(&loaded), load)
}

#[test]
fn verdicts_beside_generations_that_saturate_the_same_model_take_at_most_three_times_as_long() {
    for generations in [32, 100] {
        let (idle, loaded, load) = beside_generations(SimulatedEngine::new, &[COSTS], generations);
        assert!(
            loaded <= 3.0 * idle,
            "{generations}: {loaded} against {idle} idle"
        );
        assert!(
            load.latencies.len() > 2 * generations,
            "generations went on: {}",
            load.latencies.len()
        );
    }
}

#[test]
fn verdicts_of_one_model_beside_generations_of_another_take_at_most_three_times_as_long() {
    let target = [20e-3, 2e-3, 3e-3, 1e-3];
    let devices: [NewEngine; 2] = [SimulatedEngine::new, SimulatedEngine::asynchronous];
    for new in devices {
        // On the second device, steps of both targets may be under way when a verdict is asked for.
        for costs in [&[target, COSTS][..], &[target, target, COSTS]] {
            let (idle, loaded, load) = beside_generations(new, costs, 32);
            assert!(loaded <= 3.0 * idle, "{loaded} against {idle} idle");
            assert!(
                load.latencies.len() > 32,
                "generations went on: {}",
                load.latencies.len()
            );
        }
    }
}

/// Verdicts that are always asked for in a flood.
const FLOOD: usize = 40;

/// Requests more verdicts than the device can answer, for ever, so that the generations get a fifth of the time. Returns
/// how long the generations took and how much work they are, in seconds.
fn under_a_flood(
    new: NewEngine,
    costs: &[[f64; 4]],
    budget: Budget,
    requests: &[ClientRequest],
) -> (f64, f64) {
    let mut engine = new(costs, budget, &listed(&["t0", "t1", "t2"]));
    let guard = costs.len() - 1;
    let mut flood = ClosedLoop::new(vec![verdict(guard); FLOOD]);
    for _ in 0..200 {
        flood.resubmit(&mut engine);
        engine.step();
    }
    let began = engine.now();
    let generations: Vec<Recorder> = requests.iter().map(|request| engine.submit(request)).collect();
    let work: f64 = requests
        .iter()
        .map(|request| {
            let costs = StepCosts::planted(costs[request.model]);
            let decode = StepShape::of(1, request.prompt + request.answer, true);
            // At worst, each token is computed in a step of its own.
            costs.part(StepShape::of(request.prompt, 0, true))
                + costs.step(decode) * (request.prompt + request.answer) as f64
        })
        .sum();
    // A verdict that has begun keeps its place until it ends, so where there is one place, each generation may wait for all
    // verdicts that were asked for before it.
    let costs = StepCosts::planted(costs[guard]);
    let ahead = verdict(guard);
    let steps = ahead.prompt.div_ceil(budget.tokens);
    let verdict_time = costs.part(StepShape::of(ahead.prompt, 0, true))
        + costs.step(StepShape::of(1, ahead.prompt, true)) * steps as f64;
    let most = 6.0 * work + 60.0 + verdict_time * ((FLOOD + 2) * requests.len()) as f64;
    while generations.iter().any(|recorder| recorder.terminal_events() == 0) {
        flood.resubmit(&mut engine);
        engine.step();
        assert!(
            engine.now() - began < most,
            "a generation starves: {} of {work} seconds of work",
            engine.now() - began
        );
    }
    for (recorder, request) in generations.iter().zip(requests) {
        assert_eq!(recorder.tokens().len(), request.answer);
    }
    assert!(!flood.latencies.is_empty());
    (engine.now() - began, work)
}

#[test]
fn a_flood_of_verdicts_leaves_a_fifth_of_the_time() {
    let requests: Vec<ClientRequest> = (0..8).map(|_| generation(100, 50)).collect();
    let devices: [NewEngine; 2] = [SimulatedEngine::new, SimulatedEngine::asynchronous];
    for new in devices {
        under_a_flood(new, &[COSTS], Budget::new(64, 512), &requests);
        under_a_flood(new, &[COSTS, COSTS], Budget::new(64, 512), &requests);
        // One place and slow steps of one token: what a generation waits for is mostly the verdict that has the place.
        let slow = [0.29, 1e-6, 1e-6, 1e-4];
        under_a_flood(new, &[slow], Budget::new(1, 1), &[generation(1, 1)]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever the costs, the limits and the generations, each generation ends in time.
    #[test]
    fn no_generation_starves(
        base in 1e-4f64..0.3,
        token in 1e-6f64..5e-3,
        row in 1e-6f64..5e-3,
        sequences in 1usize..24,
        tokens in 1usize..200,
        two_models in any::<bool>(),
        asynchronous in any::<bool>(),
        requests in prop::collection::vec((1usize..150, 1usize..20, any::<bool>(), 0usize..3), 1..12),
    ) {
        let costs = [[base, token, row, 1e-4], [5e-3, 1e-3, 1e-3, 1e-4]];
        let costs = if two_models { &costs[..] } else { &costs[..1] };
        let requests: Vec<ClientRequest> = requests
            .into_iter()
            .map(|(prompt, answer, batch, tenant)| ClientRequest {
                priority: if batch { Priority::Batch } else { Priority::Interactive },
                tenant: Tenant::named(&format!("t{tenant}")).unwrap(),
                ..generation(prompt, answer)
            })
            .collect();
        let new: NewEngine = if asynchronous { SimulatedEngine::asynchronous } else { SimulatedEngine::new };
        under_a_flood(new, costs, Budget::new(sequences, tokens), &requests);
    }
}

/// Tenants with accounts of their own, of weight 1.
fn listed(names: &[&str]) -> TenantWeights {
    TenantWeights::new(names.iter().map(|name| (Tenant::named(name).unwrap(), 1)))
}

/// Tokens that have been written so far for these requests.
fn written(load: &[(Recorder, f64)]) -> usize {
    load.iter().map(|(recorder, _)| recorder.tokens().len()).sum()
}

#[test]
fn a_tenant_that_floods_a_hundredfold_gets_its_share_and_no_more() {
    for (weight, share) in [(1, 0.5), (3, 0.75)] {
        let tenant = |name: &str| Tenant::named(name).unwrap();
        let weights = TenantWeights::new([(tenant("modest"), weight), (tenant("flood"), 1)]);
        let mut engine = SimulatedEngine::new(&[COSTS], Budget::new(16, 256), &weights);
        let request = |name: &str| ClientRequest {
            tenant: tenant(name),
            ..generation(60, 20)
        };
        // The flood is a hundred times as large; the modest tenant requests enough to be served all the time.
        let flood: Vec<_> = (0..4000)
            .map(|_| (engine.submit(&request("flood")), engine.now()))
            .collect();
        let mut modest = ClosedLoop::new(vec![request("modest"); 40]);
        for _ in 0..400 {
            modest.resubmit(&mut engine);
            engine.step();
        }
        let before = (written(&flood), modest.latencies.len());
        for _ in 0..4000 {
            modest.resubmit(&mut engine);
            engine.step();
        }
        let (flooded, served) = (
            written(&flood) - before.0,
            (modest.latencies.len() - before.1) * 20,
        );
        let found = served as f64 / (served + flooded) as f64;
        assert!((found - share).abs() < 0.06, "{found} is not about {share}");
    }
}

#[test]
fn the_other_tenants_wait_is_bounded_whatever_one_tenant_has_queued() {
    let wait = |flood: usize| {
        let mut engine = SimulatedEngine::new(&[COSTS], Budget::new(16, 256), &listed(&["modest", "flood"]));
        let request = |name: &str| ClientRequest {
            tenant: Tenant::named(name).unwrap(),
            ..generation(60, 20)
        };
        for _ in 0..flood {
            engine.submit(&request("flood"));
        }
        for _ in 0..300 {
            engine.step();
        }
        let recorder = engine.submit(&request("modest"));
        let began = engine.now();
        while recorder.terminal_events() == 0 {
            engine.step();
        }
        let events = recorder.events();
        let Some(Event::Started { queue, .. }) = events.first() else {
            panic!("{events:?}")
        };
        assert!(engine.now() > began);
        queue.as_secs_f64()
    };
    let (short, long) = (wait(200), wait(20_000));
    assert!(
        long <= 1.5 * short + 0.5,
        "{long} behind 20,000, {short} behind 200"
    );
}

/// A queue that one tenant has filled still accepts requests of tenants that have little in it.
#[test]
fn a_full_queue_has_room_for_tenants_that_have_little_in_it() {
    let names: Vec<String> = (0..6).map(|n| format!("modest-{n}")).collect();
    let weights = listed(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut engine = SimulatedEngine::new(&[COSTS], Budget::new(16, 256), &weights);
    engine.inbox = Arc::new(Inbox::new(
        vec![LIMITS],
        QueueBounds {
            items: 64,
            tokens: 64_000,
        },
        &weights,
    ));
    let request = |name: &str| ClientRequest {
        tenant: Tenant::named(name).unwrap(),
        ..generation(60, 20)
    };
    let mut accepted = |name: &str| {
        (0..100)
            .take_while(|_| engine.try_submit(&request(name)).is_ok())
            .count()
    };
    assert_eq!(accepted("flood"), 64);
    // A sixteenth of 64 each, until a quarter of 64 is used up.
    let modest: Vec<usize> = (0..6).map(|n| accepted(&format!("modest-{n}"))).collect();
    assert_eq!(modest, [4, 4, 4, 4, 0, 0]);
    assert_eq!(accepted("flood"), 0);
}
