//! Clients, a network and servers in one process and on a simulated clock: the real client, services, registry and engine
//! over connections that break, stall and lose what is sent, with servers that are killed and restarted and clocks that jump.
//!
//! Each seed is one scenario. What is not the real thing: the network and the time, the model, whose answers are written in
//! its prompts, and the engine's thread. The simulation takes the engine's turns itself, because a thread of its own would
//! run on another clock.
//!
//! A failure prints its seed. `BABELWARD_SIMULATION_SEED=N` runs that one seed and prints what happened when, and
//! `BABELWARD_SIMULATION_SEEDS=N` runs that many. A seed decides everything but the order of what happens within the same
//! millisecond, because texts become tokens on threads of the runtime.

mod heartbeats;
mod network;
mod scenario;
mod server;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use self::scenario::{Outcome, simulate};

/// Scenarios in a run of the test suite.
const SEEDS: u64 = 200;

const THREADS: usize = 2;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().expect("a number"))
}

/// The seeds to run.
fn seeds() -> std::ops::Range<u64> {
    if let Some(seed) = variable("BABELWARD_SIMULATION_SEED") {
        return seed..seed + 1;
    }
    0..variable("BABELWARD_SIMULATION_SEEDS").unwrap_or(SEEDS)
}

fn run(seed: u64) -> Outcome {
    let outcome = catch_unwind(AssertUnwindSafe(|| simulate(seed)));
    outcome.unwrap_or_else(|panic| {
        eprintln!("seed {seed} failed; BABELWARD_SIMULATION_SEED={seed} runs it alone");
        std::panic::resume_unwind(panic)
    })
}

#[test]
fn whatever_breaks_every_item_is_answered_once_or_fails_with_an_error_that_says_so() {
    let seeds = seeds();
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new(Outcome::default());
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(seed) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| seeds.contains(seed))
                {
                    let outcome = run(seed);
                    if seeds.end - seeds.start == 1 {
                        outcome.print();
                    }
                    total.lock().unwrap().add(&outcome);
                }
            });
        }
    });
    let total = total.into_inner().unwrap();
    println!("{} seeds: {}", seeds.end - seeds.start, total.summary());
    if seeds.end - seeds.start >= SEEDS {
        total.assert_covered();
    }
}
