//! Tenants with many running slots, many blocks, or many names, beside others that request little, on a simulated engine.

use std::sync::Arc;

use proptest::prelude::*;

use super::{
    Event, Priority, Tenant, TenantWeights,
    scheduler::{Budget, TIME_SLICE},
    simulated_engine::{
        COSTS, ClientRequest, ClosedLoop, LIMITS, SimulatedEngine, Slowness, generation, verdict,
    },
    testing::Recorder,
};
use crate::backend::ModelLimits;

fn tenant(name: &str) -> Tenant {
    Tenant::named(name).unwrap()
}

fn listed(names: &[&str]) -> TenantWeights {
    TenantWeights::new(names.iter().map(|name| (tenant(name), 1)))
}

fn of(name: &str, request: ClientRequest) -> ClientRequest {
    ClientRequest {
        tenant: tenant(name),
        ..request
    }
}

/// An engine whose pool has this many blocks.
fn with_blocks(num_blocks: usize, budget: Budget, weights: &TenantWeights) -> SimulatedEngine {
    let limits = ModelLimits { num_blocks, ..LIMITS };
    let steady: Slowness = Arc::new(|_, _| 1.0);
    SimulatedEngine::without_logits(limits, COSTS, budget, weights, &steady)
}

fn run_until(engine: &mut SimulatedEngine, limit: f64, what: &str, mut done: impl FnMut() -> bool) {
    let began = engine.now();
    while !done() {
        engine.step();
        assert!(engine.now() - began < limit, "{what} takes more than {limit} s");
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
fn a_tenant_with_long_answers_in_all_slots_gives_some_back_and_loses_no_token() {
    for (budget, weights, listed_share) in [
        (Budget::new(64, 512), listed(&["many", "few"]), 2),
        (Budget::new(64, 512), listed(&["many"]), 2),
    ] {
        let mut engine = SimulatedEngine::new(&[COSTS], budget, &weights);
        let many: Vec<Recorder> = (0..64)
            .map(|_| engine.submit(&of("many", generation(40, 500))))
            .collect();
        for _ in 0..60 {
            engine.step();
        }
        let few: Vec<Recorder> = (0..3)
            .map(|_| engine.submit(&of("few", generation(40, 20))))
            .collect();
        run_until(&mut engine, 30.0, "the other tenant", || {
            few.iter().all(has_ended)
        });
        let waits: Vec<f64> = few.iter().map(queued_seconds).collect();
        // By then the running sequences have had their slots for a time slice, and only a few steps are left.
        let bound = f64::from(listed_share) * TIME_SLICE.as_secs_f64();
        assert!(waits.iter().all(|wait| *wait < bound), "{waits:?}");
        run_until(&mut engine, 1000.0, "the rest", || many.iter().all(has_ended));
        assert!(many.iter().all(|recorder| recorder.tokens().len() == 500));
    }
}

#[test]
fn a_tenant_whose_answers_fill_the_pool_gives_blocks_back() {
    let mut engine = with_blocks(120, Budget::new(32, 256), &listed(&["many", "few"]));
    let many: Vec<Recorder> = (0..40)
        .map(|_| engine.submit(&of("many", generation(60, 500))))
        .collect();
    for _ in 0..400 {
        engine.step();
    }
    let few = engine.submit(&of("few", generation(300, 200)));
    run_until(&mut engine, 60.0, "the other tenant", || has_ended(&few));
    assert_eq!(few.tokens().len(), 200);
    assert!(
        queued_seconds(&few) < 3.0 * TIME_SLICE.as_secs_f64(),
        "{}",
        queued_seconds(&few)
    );
    run_until(&mut engine, 3000.0, "the rest", || many.iter().all(has_ended));
    assert!(many.iter().all(|recorder| recorder.tokens().len() == 500));
}

#[test]
fn more_tenants_than_slots_take_turns_and_all_get_through() {
    let names: Vec<String> = (0..20).map(|number| format!("t{number}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let seconds = |weights: &TenantWeights| {
        let mut engine = SimulatedEngine::new(&[COSTS], Budget::new(8, 256), weights);
        let recorders: Vec<Recorder> = all
            .iter()
            .map(|name| engine.submit(&of(name, generation(40, 400))))
            .collect();
        run_until(&mut engine, 1000.0, "all", || recorders.iter().all(has_ended));
        assert!(recorders.iter().all(|recorder| recorder.tokens().len() == 400));
        let longest = recorders.iter().map(queued_seconds).fold(0.0, f64::max);
        (longest, engine.now())
    };
    let ((_, alone), (longest, shared)) = (seconds(&TenantWeights::default()), seconds(&listed(&all)));
    // There are seven slots, so the last of twenty tenants gets one after two time slices.
    assert!(longest < 4.0 * TIME_SLICE.as_secs_f64(), "{longest}");
    assert!(
        shared < 1.25 * alone,
        "{shared} s in turns, {alone} s one after the other"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Whatever tenants request, and however few slots and blocks there are, all of it is answered in not much more than
    /// the time that it takes, and later requests do not wait for the end of earlier ones.
    #[test]
    fn nobody_starves_and_nothing_is_computed_over_and_over(
        sequences in 2usize..12,
        tokens in 32usize..200,
        blocks in 45usize..200,
        requests in prop::collection::vec((0usize..5, 1usize..200, 1usize..300, 0usize..3), 2..30),
    ) {
        let weights = TenantWeights::new([(tenant("t0"), 1), (tenant("t1"), 1), (tenant("t2"), 3)]);
        let mut engine = with_blocks(blocks, Budget::new(sequences, tokens), &weights);
        let requests: Vec<ClientRequest> = requests
            .into_iter()
            .map(|(name, prompt, answer, class)| ClientRequest {
                priority: Priority::ALL[class],
                ..of(&format!("t{name}"), generation(prompt, answer))
            })
            .collect();
        let mut recorders: Vec<Recorder> = Vec::new();
        for request in &requests {
            recorders.push(engine.submit(request));
            for _ in 0..5 {
                engine.step();
            }
        }
        // Three times what it takes when each token is computed in a step of its own.
        let each = |request: &ClientRequest| (request.prompt + request.answer) as f64 * (COSTS[0] + COSTS[1] + COSTS[2] + 1e-3);
        let limit = 3.0 * requests.iter().map(each).sum::<f64>() + 60.0;
        run_until(&mut engine, limit, "all", || recorders.iter().all(has_ended));
        for (recorder, request) in recorders.iter().zip(&requests) {
            prop_assert_eq!(recorder.tokens().len(), request.answer);
        }
    }
}

/// The longest latency, in seconds, of forty requests of one caller, one after the other, beside an attacker that keeps 64
/// requests open, each under a new name.
fn longest_beside_new_names(wanted: &ClientRequest, attack: &ClientRequest) -> f64 {
    let mut engine = SimulatedEngine::new(&[COSTS], Budget::new(64, 512), &listed(&["good"]));
    let (mut names, mut open): (usize, Vec<Recorder>) = (0, Vec::new());
    let mut longest = 0.0f64;
    for _ in 0..40 {
        let recorder = engine.submit(&of("good", wanted.clone()));
        let began = engine.now();
        while !has_ended(&recorder) {
            open.retain(|recorder| !has_ended(recorder));
            while open.len() < 64 && attack.prompt > 0 {
                names += 1;
                open.push(engine.submit(&of(&format!("evil-{names}"), attack.clone())));
            }
            engine.step();
        }
        longest = longest.max(engine.now() - began);
    }
    longest
}

#[test]
fn a_new_name_for_every_call_gains_an_attacker_nothing() {
    let nothing = generation(0, 1);
    let long_verdict = ClientRequest {
        prompt: 550,
        answer: 30,
        ..verdict(0)
    };
    for (wanted, attack) in [
        (verdict(0), long_verdict),
        (generation(40, 1), generation(550, 40)),
    ] {
        let alone = longest_beside_new_names(&wanted, &nothing);
        let attacked = longest_beside_new_names(&wanted, &attack);
        assert!(
            alone < 0.25 && attacked < 4.0,
            "{alone} alone, {attacked} attacked"
        );
    }
}

/// A flood of one tenant's urgent sequences does not keep the slots from another tenant's verdict.
#[test]
fn urgent_slots_are_given_back_too() {
    let mut engine = SimulatedEngine::new(&[COSTS], Budget::new(16, 512), &listed(&["many", "few"]));
    let long = ClientRequest {
        priority: Priority::Urgent,
        ..of("many", generation(40, 500))
    };
    let mut many = ClosedLoop::new(vec![long; 30]);
    for _ in 0..100 {
        many.resubmit(&mut engine);
        engine.step();
    }
    let few = engine.submit(&of("few", verdict(0)));
    run_until(&mut engine, 10.0, "the other tenant's verdict", || {
        has_ended(&few)
    });
    assert!(queued_seconds(&few) < 2.0 * TIME_SLICE.as_secs_f64());
}
