//! Whether what is refused for its deadline would have been late: adversarial mixes on a made-up clock, in which each
//! refused request is run once more without the refusal, all else alike.

use std::sync::Arc;

use super::{
    CancelFlag, Event, Priority, SequenceError, Tenant, TenantWeights,
    sampler::uniform,
    scheduler::Budget,
    testing::Recorder,
    world::{Ask, COSTS, LIMITS, Slowness, World, generation, verdict},
};
use crate::backend::ModelLimits;

/// Numbers for one mix; the same seed gives the same mix.
struct Dice(u64, u64);

impl Dice {
    fn share(&mut self) -> f64 {
        self.1 += 1;
        uniform(self.0, self.1)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.share() * limit as f64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// As likely in each octave.
    fn between(&mut self, low: f64, high: f64) -> f64 {
        low * (high / low).powf(self.share())
    }
}

/// A request, when it comes, and after how many seconds its caller gives it up.
struct Arrival {
    at: f64,
    ask: Ask,
    given_up: Option<f64>,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    InTime,
    Late,
    /// When it arrived.
    Refused,
    /// When its turn came, before its deadline.
    Dropped,
    GivenUp,
}

/// A device and what it is asked.
struct Mix {
    limits: ModelLimits,
    costs: [f64; 4],
    budget: Budget,
    weights: TenantWeights,
    slowness: Slowness,
    arrivals: Vec<Arrival>,
}

fn tenant(name: &str) -> Tenant {
    Tenant::named(name).unwrap()
}

impl Mix {
    fn random(seed: u64) -> Self {
        let mut dice = Dice(seed, 0);
        let costs = [
            dice.between(1e-3, 0.05),
            dice.between(2e-4, 4e-3),
            dice.between(2e-4, 4e-3),
            dice.between(1e-5, 2e-3),
        ];
        let limits = ModelLimits {
            // From barely two of the longest sequences to plenty.
            num_blocks: 80 + dice.below(1000),
            window: dice.chance(20).then(|| 64 + dice.below(200)),
            ..LIMITS
        };
        let noise = 0.3 * dice.share();
        let regimes: Vec<f64> = (0..64).map(|_| dice.between(0.2, 5.0)).collect();
        let regime_seconds = dice.between(2.0, 60.0);
        let steady = dice.chance(30);
        let slowness = move |seconds: f64, number: u64| {
            let regime = regimes[(seconds / regime_seconds) as usize % regimes.len()];
            (if steady { 1.0 } else { regime }) * (1.0 + noise * (uniform(seed, number) - 0.5))
        };
        let arrivals = arrivals(&mut dice, costs[1]);
        Self {
            limits,
            costs,
            budget: Budget::new(2 + dice.below(30), 32 + dice.below(400)),
            weights: TenantWeights::new([(tenant("good"), 1), (tenant("other"), 2)]),
            slowness: Arc::new(slowness),
            arrivals,
        }
    }

    /// What becomes of the requests. The one that is `spared` has no deadline as far as the engine knows; then only
    /// what comes until it is known whether it was in time is run.
    fn run(&self, spared: Option<usize>) -> Vec<Option<Outcome>> {
        let device = (self.limits.clone(), self.costs);
        let mut world = World::blank(device, self.budget, &self.weights, &self.slowness);
        let mut outcomes = vec![None; self.arrivals.len()];
        let mut open: Vec<(usize, f64, Recorder, CancelFlag)> = Vec::new();
        let mut next = 0;
        while next < self.arrivals.len() || !open.is_empty() {
            let now = world.now();
            let tried = (!world.turns.has_work()).then_some(next);
            while let Some(arrival) = self.arrivals.get(next).filter(|arrival| arrival.at <= now) {
                let timeout = arrival.ask.timeout.filter(|_| spared != Some(next));
                // What the pool cannot hold is refused for that.
                if let Ok((recorder, cancel)) = world.offer_for(&arrival.ask, timeout) {
                    open.push((next, now, recorder, cancel));
                }
                next += 1;
            }
            world.step();
            let now = world.now();
            open.retain(|(index, since, recorder, cancel)| {
                let arrival = &self.arrivals[*index];
                let late = arrival.ask.timeout.is_some_and(|timeout| now > since + timeout);
                let outcome = match recorder.last() {
                    Some(Event::Finished(_)) if late => Outcome::Late,
                    Some(Event::Finished(_)) => Outcome::InTime,
                    Some(Event::Failed(SequenceError::DeadlineUnattainable { .. })) => Outcome::Refused,
                    Some(Event::Failed(SequenceError::DeadlineExceeded { .. })) if late => Outcome::Late,
                    Some(Event::Failed(SequenceError::DeadlineExceeded { .. })) => Outcome::Dropped,
                    Some(Event::Failed(SequenceError::Cancelled)) => Outcome::GivenUp,
                    Some(Event::Failed(error)) => panic!("{error}"),
                    _ if spared == Some(*index) && late => Outcome::Late,
                    _ => {
                        if arrival.given_up.is_some_and(|after| now > since + after) {
                            cancel.cancel();
                        }
                        return true;
                    }
                };
                outcomes[*index] = Some(outcome);
                assert!(
                    outcome != Outcome::Refused || tried != Some(*index),
                    "an engine without work tries"
                );
                false
            });
            if spared.is_some_and(|spared| outcomes[spared].is_some()) {
                break;
            }
        }
        outcomes
    }
}

/// Bursts and pauses of several callers. One is patient and asks for little; others come with long prompts, long
/// answers, names made up for each call, and give up in between.
fn arrivals(dice: &mut Dice, token: f64) -> Vec<Arrival> {
    let (mut arrivals, mut at) = (Vec::new(), 0.0);
    while arrivals.len() < 120 {
        at += token * dice.between(1.0, 4000.0);
        let caller = dice.below(5);
        let (cached, priority) = (dice.below(300), Priority::ALL[dice.below(3)]);
        let (longest, answers, hurry) = (20 + dice.below(400), 1 + dice.below(40), dice.between(0.3, 30.0));
        let count = if dice.chance(30) {
            1 + dice.below(30)
        } else {
            1 + dice.below(4)
        };
        for number in 0..count {
            let name = match caller {
                0 | 1 => "good".to_owned(),
                2 => "other".to_owned(),
                3 => "evil".to_owned(),
                _ => format!("evil-{}-{number}", arrivals.len()),
            };
            let own = 1 + dice.below(longest);
            let prompt = (cached + own).min(540);
            let work = token * prompt as f64 * 1.5;
            let gives_up = dice.chance(if caller < 2 { 2 } else { 25 });
            arrivals.push(Arrival {
                at,
                ask: Ask {
                    priority,
                    tenant: tenant(&name),
                    // Some beginnings are those of other callers, which makes no difference to anybody.
                    shared: (1 + dice.below(3) as u64, cached),
                    timeout: dice.chance(80).then(|| work * hurry * dice.between(0.5, 2.0)),
                    ..generation(prompt, 1 + dice.below(answers))
                },
                given_up: gives_up.then(|| work * dice.between(0.1, 10.0)),
            });
        }
    }
    arrivals
}

#[test]
fn of_refused_requests_at_least_99_in_100_would_have_been_late() {
    let (mut refused, mut dropped, mut wrong, mut in_time) = (0, 0, Vec::new(), 0);
    for seed in 0..300 {
        let mix = Mix::random(seed);
        let outcomes = mix.run(None);
        let answered = |outcome: &&Option<Outcome>| **outcome == Some(Outcome::InTime);
        in_time += outcomes.iter().filter(answered).count();
        let ended = |(index, outcome): (usize, &Option<Outcome>)| {
            matches!(outcome, Some(Outcome::Refused | Outcome::Dropped)).then_some(index)
        };
        let ended: Vec<usize> = outcomes.iter().enumerate().filter_map(ended).collect();
        // Spread over the mix: each is another run.
        for index in ended.iter().step_by(ended.len().div_ceil(8).max(1)) {
            match outcomes[*index] {
                Some(Outcome::Refused) => refused += 1,
                _ => dropped += 1,
            }
            if mix.run(Some(*index))[*index] == Some(Outcome::InTime) {
                wrong.push((seed, *index, outcomes[*index]));
            }
        }
    }
    assert!(
        refused > 500 && in_time > 2000,
        "{refused} refused, {in_time} in time"
    );
    assert!(
        wrong.len() * 100 <= refused + dropped,
        "{wrong:?} of {refused} and {dropped}"
    );
}

/// So many verdicts that have been asked for, and how many of them were refused.
fn refusals(recorders: &[Recorder]) -> usize {
    let refused = |recorder: &&Recorder| {
        matches!(
            recorder.last(),
            Some(Event::Failed(SequenceError::DeadlineUnattainable { .. }))
        )
    };
    recorders.iter().filter(refused).count()
}

#[test]
fn what_is_hopeless_is_refused() {
    let mut world = World::new(&[COSTS], Budget::new(8, 256), &TenantWeights::default());
    for _ in 0..40 {
        world.submit(&verdict(0));
        world.step();
    }
    while world.turns.has_work() {
        world.step();
    }
    // Two hundred verdicts of about 0.19 s each at once: those that get through in 8 s are about forty.
    let ask = Ask {
        timeout: Some(8.0),
        ..verdict(0)
    };
    let recorders: Vec<Recorder> = (0..200).map(|_| world.submit(&ask)).collect();
    world.step();
    let refused = refusals(&recorders);
    assert!((150..170).contains(&refused), "{refused}");
    while world.turns.has_work() {
        world.step();
    }
    let answered = recorders
        .iter()
        .filter(|recorder| recorder.summary().is_some())
        .count();
    assert!(answered >= 30, "{answered}");
}

/// Of twice as many requests as the device can answer in time, how many are, of those that it could answer.
fn answered_under_overload(ask: &Ask, seconds_each: f64) -> f64 {
    let mut world = World::new(&[COSTS], Budget::new(8, 256), &TenantWeights::default());
    let (mut open, mut arrival, mut in_time) = (Vec::new(), 0.0, 0);
    let timeout = ask.timeout.unwrap();
    let mut settle = |world: &World, open: &mut Vec<(f64, Recorder)>| {
        let now = world.now();
        open.retain(|(due, recorder): &(f64, Recorder)| match recorder.last() {
            Some(Event::Finished(_)) => {
                in_time += usize::from(now <= *due);
                false
            }
            Some(Event::Failed(_)) => false,
            _ => true,
        });
    };
    for sent in 0..1500u64 {
        while world.now() < arrival {
            world.step();
            settle(&world, &mut open);
        }
        arrival -= (1.0 - uniform(6, sent)).ln() * seconds_each / 2.0;
        open.push((world.now() + timeout, world.submit(ask)));
    }
    while !open.is_empty() {
        world.step();
        settle(&world, &mut open);
    }
    in_time as f64 * seconds_each / world.now()
}

#[test]
fn under_overload_verdicts_that_can_be_answered_are() {
    let ask = Ask {
        timeout: Some(8.0),
        ..verdict(0)
    };
    let answered = answered_under_overload(&ask, 0.19);
    assert!(answered > 0.7, "{answered}");
}
