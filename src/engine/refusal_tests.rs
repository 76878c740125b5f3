//! Whether requests that are refused for their deadlines would have been late: adversarial mixes on a simulated engine, in
//! which refused requests are run once more without the refusal and everything else unchanged.

use std::sync::Arc;

use super::{
    Event, Priority, SequenceError, SubmitError, Tenant, TenantWeights,
    inbox::{Inbox, QueueBounds},
    sampler::uniform,
    scheduler::Budget,
    simulated_engine::{
        COSTS, ClientRequest, LIMITS, SimulatedEngine, Slowness, Submitted, generation, verdict,
    },
    testing::Recorder,
};
use crate::backend::ModelLimits;

/// Numbers for one mix; the same seed gives the same mix.
struct Dice(u64, u64);

impl Dice {
    fn fraction(&mut self) -> f64 {
        self.1 += 1;
        uniform(self.0, self.1)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.fraction() * limit as f64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// A number that is equally likely in each octave of the range.
    fn between(&mut self, low: f64, high: f64) -> f64 {
        low * (high / low).powf(self.fraction())
    }
}

/// A request that arrives at a given time.
struct Arrival {
    /// Seconds since the start.
    at: f64,
    request: ClientRequest,
    /// Seconds after which its caller cancels it.
    given_up: Option<f64>,
}

/// How a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    InTime,
    Late,
    /// It was refused on arrival.
    Refused,
    /// It was ended before its deadline, when its turn came.
    Dropped,
    GivenUp,
}

/// A simulated engine and the requests that arrive at it.
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
            // From barely enough for two of the longest sequences to plenty.
            num_blocks: 80 + dice.below(1000),
            window: dice.chance(20).then(|| 64 + dice.below(200)),
            ..LIMITS
        };
        let noise = 0.3 * dice.fraction();
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

    /// How each request ends. The engine is not told the deadline of the request that is `spared`, and the run ends as soon
    /// as that request's outcome is known.
    fn run(&self, spared: Option<usize>) -> Vec<Option<Outcome>> {
        let mut engine = SimulatedEngine::without_logits(
            self.limits.clone(),
            self.costs,
            self.budget,
            &self.weights,
            &self.slowness,
        );
        let mut outcomes = vec![None; self.arrivals.len()];
        let mut open: Vec<(usize, f64, Submitted)> = Vec::new();
        let mut next = 0;
        while next < self.arrivals.len() || !open.is_empty() {
            let now = engine.now();
            let tried = (!engine.turns.has_work()).then_some(next);
            while let Some(arrival) = self.arrivals.get(next).filter(|arrival| arrival.at <= now) {
                let timeout = arrival.request.timeout.filter(|_| spared != Some(next));
                // A request that the pool cannot hold is refused for that reason.
                if let Ok(submitted) = engine.try_submit_with(&arrival.request, timeout) {
                    open.push((next, now, submitted));
                }
                next += 1;
            }
            engine.step();
            let now = engine.now();
            open.retain(|(index, since, submitted)| {
                let arrival = &self.arrivals[*index];
                let late = arrival
                    .request
                    .timeout
                    .is_some_and(|timeout| now > since + timeout);
                let outcome = match submitted.recorder.last() {
                    Some(Event::Finished(_)) if late => Outcome::Late,
                    Some(Event::Finished(_)) => Outcome::InTime,
                    Some(Event::Failed(SequenceError::DeadlineUnattainable(_))) => Outcome::Refused,
                    Some(Event::Failed(SequenceError::DeadlineExceeded { .. })) if late => Outcome::Late,
                    Some(Event::Failed(SequenceError::DeadlineExceeded { .. })) => Outcome::Dropped,
                    Some(Event::Failed(SequenceError::Cancelled)) => Outcome::GivenUp,
                    Some(Event::Failed(error)) => panic!("{error}"),
                    _ if spared == Some(*index) && late => Outcome::Late,
                    _ => {
                        if arrival.given_up.is_some_and(|after| now > since + after) {
                            submitted.cancel.cancel();
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

/// Bursts and pauses of several callers. One is patient and requests little; others have long prompts and long answers,
/// invent a name for each call, and cancel some of their requests.
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
                request: ClientRequest {
                    priority,
                    tenant: tenant(&name),
                    // Some beginnings are those of other callers, which must make no difference to anybody.
                    shared_seed: 1 + dice.below(3) as u64,
                    shared_tokens: cached,
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
        let was_ended = |index: &usize| {
            let outcome = outcomes[*index];
            matches!(outcome, Some(Outcome::Refused | Outcome::Dropped))
        };
        let ended: Vec<usize> = (0..outcomes.len()).filter(was_ended).collect();
        // Each check is another run, so only some are checked, spread over the mix.
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

/// How many of these requests were refused for their deadlines.
fn refusals(recorders: &[Recorder]) -> usize {
    let refused = |recorder: &&Recorder| {
        matches!(
            recorder.last(),
            Some(Event::Failed(SequenceError::DeadlineUnattainable(_)))
        )
    };
    recorders.iter().filter(refused).count()
}

#[test]
fn requests_that_cannot_meet_their_deadlines_are_refused() {
    let mut engine = SimulatedEngine::new(&[COSTS], Budget::new(8, 256), &TenantWeights::default());
    for _ in 0..40 {
        engine.submit(&verdict(0));
        engine.step();
    }
    while engine.turns.has_work() {
        engine.step();
    }
    // Two hundred verdicts of about 0.19 s each arrive at once, of which about forty can be answered in 8 s.
    let request = ClientRequest {
        timeout: Some(8.0),
        ..verdict(0)
    };
    let recorders: Vec<Recorder> = (0..200).map(|_| engine.submit(&request)).collect();
    engine.step();
    let refused = refusals(&recorders);
    assert!((150..170).contains(&refused), "{refused}");
    while engine.turns.has_work() {
        engine.step();
    }
    let answered = recorders
        .iter()
        .filter(|recorder| recorder.summary().is_some())
        .count();
    assert!(answered >= 30, "{answered}");
}

/// Submits twice as many requests as the device can answer. Returns the part of its capacity that is spent on requests
/// which are answered in time.
fn answered_under_overload(request: &ClientRequest, seconds_each: f64) -> f64 {
    let mut engine = SimulatedEngine::new(&[COSTS], Budget::new(8, 256), &TenantWeights::default());
    let (mut open, mut arrival, mut in_time) = (Vec::new(), 0.0, 0);
    let timeout = request.timeout.unwrap();
    let mut settle = |engine: &SimulatedEngine, open: &mut Vec<(f64, Recorder)>| {
        let now = engine.now();
        open.retain(|entry: &(f64, Recorder)| match entry.1.last() {
            Some(Event::Finished(_)) => {
                in_time += usize::from(now <= entry.0);
                false
            }
            Some(Event::Failed(_)) => false,
            _ => true,
        });
    };
    for sent in 0..1500u64 {
        while engine.now() < arrival {
            engine.step();
            settle(&engine, &mut open);
        }
        arrival -= (1.0 - uniform(6, sent)).ln() * seconds_each / 2.0;
        open.push((engine.now() + timeout, engine.submit(request)));
    }
    while !open.is_empty() {
        engine.step();
        settle(&engine, &mut open);
    }
    in_time as f64 * seconds_each / engine.now()
}

#[test]
fn under_overload_verdicts_that_can_be_answered_are() {
    let request = ClientRequest {
        timeout: Some(8.0),
        ..verdict(0)
    };
    let answered = answered_under_overload(&request, 0.19);
    assert!(answered > 0.7, "{answered}");
}

/// What came of verdicts that arrive at twice the rate at which they can be given, at a machine whose speed changes.
#[derive(Debug, Default)]
struct Overload {
    in_time: usize,
    late: usize,
    refused: usize,
    seconds: f64,
}

fn overloaded(expects_verdicts: bool, seconds_each: f64) -> Overload {
    // Other work on the machine: now and then a step takes up to half as long again.
    let slowness: Slowness = Arc::new(|_, number| 1.0 + 0.5 * uniform(9, number).powi(4));
    let weights = TenantWeights::default();
    let mut engine = SimulatedEngine::without_logits(LIMITS, COSTS, Budget::new(8, 256), &weights, &slowness);
    if expects_verdicts {
        let bounds = QueueBounds {
            items: 100_000,
            tokens: 100_000_000,
        };
        engine.inbox = Arc::new(Inbox::new(vec![LIMITS], bounds, &weights).expecting_verdicts());
    }
    let request = ClientRequest {
        timeout: Some(2.0),
        ..verdict(0)
    };
    let (mut open, mut arrival, mut found): (Vec<(f64, Recorder)>, _, _) =
        (Vec::new(), 0.0, Overload::default());
    let settle = |engine: &SimulatedEngine, open: &mut Vec<(f64, Recorder)>, found: &mut Overload| {
        let now = engine.now();
        open.retain(|(deadline, recorder)| {
            match recorder.last() {
                Some(Event::Finished(_)) if now <= *deadline => found.in_time += 1,
                Some(Event::Failed(SequenceError::DeadlineUnattainable(_))) => found.refused += 1,
                Some(Event::Finished(_) | Event::Failed(_)) => found.late += 1,
                _ => return true,
            }
            false
        });
    };
    for sent in 0..3000u64 {
        while engine.now() < arrival {
            engine.step();
            settle(&engine, &mut open, &mut found);
        }
        // The first ones are alone, so that the engine knows what they cost.
        let gap = if sent < 50 { 1.5 } else { 0.5 };
        arrival -= (1.0 - uniform(6, sent)).ln() * seconds_each * gap;
        match engine.try_submit(&request) {
            Ok(recorder) => open.push((engine.now() + 2.0, recorder)),
            Err(SubmitError::DeadlineUnattainable(_)) => found.refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    while !open.is_empty() {
        engine.step();
        settle(&engine, &mut open, &mut found);
    }
    found.seconds = engine.now();
    found
}

#[test]
fn of_the_verdicts_that_are_accepted_under_overload_99_in_100_are_in_time() {
    let expecting = overloaded(true, 0.19);
    let accepted = expecting.in_time + expecting.late;
    assert!(expecting.late * 100 <= accepted, "{expecting:?}");
    // The device is not left idle for that.
    let used = expecting.in_time as f64 * 0.19 / expecting.seconds;
    assert!(used > 0.8, "{used} {expecting:?}");
    // Without it, many are accepted that are late.
    let certain = overloaded(false, 0.19);
    assert!(certain.late * 20 > certain.in_time + certain.late, "{certain:?}");
}
