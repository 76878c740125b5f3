//! Tenants that hold many places, many blocks, or many names, beside others that ask for little; on a made-up clock.

use std::sync::Arc;

use proptest::prelude::*;

use super::{
    Event, Priority, Tenant, TenantWeights,
    scheduler::{Budget, TURN},
    testing::Recorder,
    world::{Ask, COSTS, Closed, LIMITS, Slowness, World, generation, verdict},
};
use crate::backend::ModelLimits;

fn tenant(name: &str) -> Tenant {
    Tenant::named(name).unwrap()
}

fn listed(names: &[&str]) -> TenantWeights {
    TenantWeights::new(names.iter().map(|name| (tenant(name), 1)))
}

fn of(name: &str, ask: Ask) -> Ask {
    Ask {
        tenant: tenant(name),
        ..ask
    }
}

/// A world whose pool has so many blocks.
fn with_blocks(num_blocks: usize, budget: Budget, weights: &TenantWeights) -> World {
    let limits = ModelLimits { num_blocks, ..LIMITS };
    let steady: Slowness = Arc::new(|_, _| 1.0);
    World::blank((limits, COSTS), budget, weights, &steady)
}

fn run_until(world: &mut World, limit: f64, what: &str, mut done: impl FnMut() -> bool) {
    let began = world.now();
    while !done() {
        world.step();
        assert!(world.now() - began < limit, "{what} takes more than {limit} s");
    }
}

fn has_ended(recorder: &Recorder) -> bool {
    matches!(recorder.last(), Some(Event::Finished(_) | Event::Failed(_)))
}

fn queued_seconds(recorder: &Recorder) -> f64 {
    match recorder.events().first() {
        Some(Event::Started { queue, .. }) => queue.as_secs_f64(),
        event => panic!("{event:?}"),
    }
}

#[test]
fn a_tenant_with_long_answers_in_all_places_gives_some_back_and_loses_no_token() {
    for (budget, weights, listed_share) in [
        (Budget::new(64, 512), listed(&["many", "few"]), 2),
        (Budget::new(64, 512), listed(&["many"]), 2),
    ] {
        let mut world = World::new(&[COSTS], budget, &weights);
        let many: Vec<Recorder> = (0..64)
            .map(|_| world.submit(&of("many", generation(40, 500))))
            .collect();
        for _ in 0..60 {
            world.step();
        }
        let few: Vec<Recorder> = (0..3)
            .map(|_| world.submit(&of("few", generation(40, 20))))
            .collect();
        run_until(&mut world, 30.0, "the other tenant", || few.iter().all(has_ended));
        let waits: Vec<f64> = few.iter().map(queued_seconds).collect();
        // Sequences before it have had a place for a turn by then; what is left is a few steps.
        let bound = f64::from(listed_share) * TURN.as_secs_f64();
        assert!(waits.iter().all(|wait| *wait < bound), "{waits:?}");
        run_until(&mut world, 1000.0, "the rest", || many.iter().all(has_ended));
        assert!(many.iter().all(|recorder| recorder.tokens().len() == 500));
    }
}

#[test]
fn a_tenant_whose_answers_fill_the_pool_gives_blocks_back() {
    let mut world = with_blocks(120, Budget::new(32, 256), &listed(&["many", "few"]));
    let many: Vec<Recorder> = (0..40)
        .map(|_| world.submit(&of("many", generation(60, 500))))
        .collect();
    for _ in 0..400 {
        world.step();
    }
    let few = world.submit(&of("few", generation(300, 200)));
    run_until(&mut world, 60.0, "the other tenant", || has_ended(&few));
    assert_eq!(few.tokens().len(), 200);
    assert!(
        queued_seconds(&few) < 3.0 * TURN.as_secs_f64(),
        "{}",
        queued_seconds(&few)
    );
    run_until(&mut world, 3000.0, "the rest", || many.iter().all(has_ended));
    assert!(many.iter().all(|recorder| recorder.tokens().len() == 500));
}

#[test]
fn more_tenants_than_places_take_turns_and_all_get_through() {
    let names: Vec<String> = (0..20).map(|number| format!("t{number}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let seconds = |weights: &TenantWeights| {
        let mut world = World::new(&[COSTS], Budget::new(8, 256), weights);
        let recorders: Vec<Recorder> = all
            .iter()
            .map(|name| world.submit(&of(name, generation(40, 400))))
            .collect();
        run_until(&mut world, 1000.0, "all", || recorders.iter().all(has_ended));
        assert!(recorders.iter().all(|recorder| recorder.tokens().len() == 400));
        let longest = recorders.iter().map(queued_seconds).fold(0.0, f64::max);
        (longest, world.now())
    };
    let ((_, alone), (longest, shared)) = (seconds(&TenantWeights::default()), seconds(&listed(&all)));
    // Seven places: the last of twenty has one after two turns, with what it takes to begin.
    assert!(longest < 4.0 * TURN.as_secs_f64(), "{longest}");
    assert!(
        shared < 1.25 * alone,
        "{shared} s in turns, {alone} s one after the other"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Whatever tenants ask for, and however little there is of places and blocks: all of it gets done, in not much
    /// more than the time that it takes, and who comes later does not wait for the end of what was there.
    #[test]
    fn nobody_starves_and_nothing_is_computed_over_and_over(
        sequences in 2usize..12,
        tokens in 32usize..200,
        blocks in 45usize..200,
        asks in prop::collection::vec((0usize..5, 1usize..200, 1usize..300, 0usize..3), 2..30),
    ) {
        let weights = TenantWeights::new([(tenant("t0"), 1), (tenant("t1"), 1), (tenant("t2"), 3)]);
        let mut world = with_blocks(blocks, Budget::new(sequences, tokens), &weights);
        let asks: Vec<Ask> = asks
            .into_iter()
            .map(|(name, prompt, answer, class)| Ask {
                priority: Priority::ALL[class],
                ..of(&format!("t{name}"), generation(prompt, answer))
            })
            .collect();
        let mut recorders: Vec<Recorder> = Vec::new();
        for ask in &asks {
            recorders.push(world.submit(ask));
            for _ in 0..5 {
                world.step();
            }
        }
        // Each token in a step of its own, three times over.
        let each = |ask: &Ask| (ask.prompt + ask.answer) as f64 * (COSTS[0] + COSTS[1] + COSTS[2] + 1e-3);
        let limit = 3.0 * asks.iter().map(each).sum::<f64>() + 60.0;
        run_until(&mut world, limit, "all", || recorders.iter().all(has_ended));
        for (recorder, ask) in recorders.iter().zip(&asks) {
            prop_assert_eq!(recorder.tokens().len(), ask.answer);
        }
    }
}

/// The longest of forty requests of one caller, one after the other, beside an attacker that keeps 64 open, each under
/// a name of its own.
fn longest_beside_new_names(asked: &Ask, attack: &Ask) -> f64 {
    let mut world = World::new(&[COSTS], Budget::new(64, 512), &listed(&["good"]));
    let (mut names, mut open): (usize, Vec<Recorder>) = (0, Vec::new());
    let mut longest = 0.0f64;
    for _ in 0..40 {
        let recorder = world.submit(&of("good", asked.clone()));
        let began = world.now();
        while !has_ended(&recorder) {
            open.retain(|recorder| !has_ended(recorder));
            while open.len() < 64 && attack.prompt > 0 {
                names += 1;
                open.push(world.submit(&of(&format!("evil-{names}"), attack.clone())));
            }
            world.step();
        }
        longest = longest.max(world.now() - began);
    }
    longest
}

#[test]
fn a_new_name_for_every_call_gains_an_attacker_nothing() {
    let nothing = generation(0, 1);
    let long_verdict = Ask {
        prompt: 550,
        answer: 30,
        ..verdict(0)
    };
    for (asked, attack) in [
        (verdict(0), long_verdict),
        (generation(40, 1), generation(550, 40)),
    ] {
        let alone = longest_beside_new_names(&asked, &nothing);
        let attacked = longest_beside_new_names(&asked, &attack);
        assert!(
            alone < 0.25 && attacked < 4.0,
            "{alone} alone, {attacked} attacked"
        );
    }
}

/// What a flood of one tenant's verdicts leaves of another one's places.
#[test]
fn urgent_places_are_given_back_too() {
    let mut world = World::new(&[COSTS], Budget::new(16, 512), &listed(&["many", "few"]));
    let long = Ask {
        priority: Priority::Urgent,
        ..of("many", generation(40, 500))
    };
    let mut many = Closed::new(vec![long; 30]);
    for _ in 0..100 {
        many.turn(&mut world);
        world.step();
    }
    let few = world.submit(&of("few", verdict(0)));
    run_until(&mut world, 10.0, "the other tenant's verdict", || has_ended(&few));
    assert!(queued_seconds(&few) < 2.0 * TURN.as_secs_f64());
}
