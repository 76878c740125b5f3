//! Verdicts beside generations, tenants beside each other, on a made-up clock that moves as the batches' shapes
//! say. The measured machine's costs are planted; the engine has to find them out.

use std::sync::Arc;

use proptest::prelude::*;

use super::{
    Event, Priority, Tenant, TenantWeights,
    forecast::{Costs, Shape},
    inbox::{Inbox, QueueBounds},
    sampler::uniform,
    scheduler::Budget,
    testing::Recorder,
    world::{Ask, COSTS, Closed, LIMITS, World, generation, verdict},
};

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
    let mut world = World::new(costs, budget, &listed(&["t0", "t1", "t2"]));
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

/// Tenants with accounts of their own, of weight 1.
fn listed(names: &[&str]) -> TenantWeights {
    TenantWeights::new(names.iter().map(|name| (Tenant::named(name).unwrap(), 1)))
}

/// Tokens that were written for these until now.
fn written(load: &[(Recorder, f64)]) -> usize {
    load.iter().map(|(recorder, _)| recorder.tokens().len()).sum()
}

#[test]
fn a_tenant_that_floods_a_hundredfold_gets_its_share_and_no_more() {
    for (weight, share) in [(1, 0.5), (3, 0.75)] {
        let tenant = |name: &str| Tenant::named(name).unwrap();
        let weights = TenantWeights::new([(tenant("modest"), weight), (tenant("flood"), 1)]);
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
        let mut world = World::new(&[COSTS], Budget::new(16, 256), &listed(&["modest", "flood"]));
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

/// Another tenant's full queue does not shut a modest one out.
#[test]
fn a_full_queue_has_room_for_tenants_that_have_little_in_it() {
    let names: Vec<String> = (0..6).map(|n| format!("modest-{n}")).collect();
    let weights = listed(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut world = World::new(&[COSTS], Budget::new(16, 256), &weights);
    world.inbox = Arc::new(Inbox::new(
        vec![LIMITS],
        QueueBounds {
            items: 64,
            tokens: 64_000,
        },
        &weights,
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
