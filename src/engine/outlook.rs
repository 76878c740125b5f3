//! What a request that arrives now has to wait for, and whether its deadline leaves any hope.
//!
//! Work that waits is counted in predicted seconds. Under fair queueing, a newcomer waits for what its own tenant
//! has waiting in its class, and for as much of each other tenant's, up to what that one has. Running sequences
//! are left out: while they finish and others take their places, the queue shrinks by the device's seconds.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    Priority, SubmitError, Tenant, TenantWeights,
    forecast::{Costs, Shape, Speed},
};

/// Weight of the newest sequence in the running means.
const NEWEST: f64 = 0.1;
/// Bounds of the time to try again after.
const RETRY: (f64, f64) = (0.1, 60.0);

/// What sequences of a class turn out to be, as running means; nothing until there were some.
#[derive(Debug, Clone, Copy, Default)]
struct Habit {
    /// Share of the prompt that is not found in the cache.
    computed: f64,
    /// Tokens of the answer.
    answer: f64,
}

/// A tenant's waiting sequences of one class.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    sequences: usize,
    /// Predicted seconds.
    work: f64,
}

/// One model's waiting work.
#[derive(Debug)]
pub struct Outlook {
    /// Absent until the engine has seen enough steps: nobody is refused for a guess.
    speed: Option<Speed>,
    habits: [Habit; Priority::ALL.len()],
    waiting: BTreeMap<(Priority, Tenant), Line>,
    weights: TenantWeights,
}

/// What a request looks like before it is queued.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// Its class.
    pub priority: Priority,
    /// Its tenant.
    pub tenant: &'a Tenant,
    /// Tokens of its prompt.
    pub prompt: usize,
    /// How many of them a token after the prompt sees.
    pub seen: usize,
    /// Most tokens of its answer.
    pub max_new_tokens: usize,
    /// When it must be answered.
    pub deadline: Option<Instant>,
}

impl Outlook {
    /// Nothing waits, and nothing is known.
    pub fn new(weights: TenantWeights) -> Self {
        Self {
            speed: None,
            habits: Default::default(),
            waiting: BTreeMap::new(),
            weights,
        }
    }

    /// What the engine knows now.
    pub fn update(&mut self, speed: Option<Speed>) {
        self.speed = speed;
    }

    /// A sequence started and found so many of its prompt's tokens in the cache.
    pub fn started(&mut self, priority: Priority, prompt: usize, cached: usize) {
        let computed = (prompt - cached.min(prompt)) as f64 / prompt.max(1) as f64;
        let habit = &mut self.habits[priority.index()];
        habit.computed += NEWEST * (computed - habit.computed);
    }

    /// A sequence finished with so many tokens.
    pub fn finished(&mut self, priority: Priority, answer: usize) {
        let habit = &mut self.habits[priority.index()];
        habit.answer += NEWEST * (answer as f64 - habit.answer);
    }

    /// Predicted seconds of the device, with a share of what steps cost whatever is in them; zero while nothing
    /// is known.
    pub fn work(&self, arrival: &Arrival<'_>) -> f64 {
        let Some(speed) = self.speed else { return 0.0 };
        let answer = self.usual_answer(arrival);
        let parts =
            self.prefill(&speed.costs, arrival) + answer * speed.costs.part(Shape::of(1, arrival.seen, true));
        parts * speed.overhead
    }

    /// Refuses what cannot be answered in time even if nothing overtakes it and its answer is no longer than
    /// usual.
    ///
    /// # Errors
    /// [`SubmitError::DeadlineUnattainable`].
    pub fn check(&self, arrival: &Arrival<'_>, now: Instant) -> Result<(), SubmitError> {
        let (Some(speed), Some(deadline)) = (self.speed, arrival.deadline) else {
            return Ok(());
        };
        // The first token comes with the prompt's last one.
        let decodes = (self.usual_answer(arrival) - 1.0).max(0.0);
        let own = speed.costs.base() + self.prefill(&speed.costs, arrival) + decodes * speed.step;
        let wait = self.wait(arrival.priority, arrival.tenant);
        let remaining = deadline.saturating_duration_since(now);
        if wait + own <= remaining.as_secs_f64() {
            return Ok(());
        }
        let alone = own <= remaining.as_secs_f64();
        Err(SubmitError::DeadlineUnattainable {
            predicted: seconds(wait + own),
            wait: seconds(wait),
            remaining,
            retry_after: alone.then(|| seconds(wait.clamp(RETRY.0, RETRY.1))),
        })
    }

    fn usual_answer(&self, arrival: &Arrival<'_>) -> f64 {
        let usual = self.habits[arrival.priority.index()].answer;
        usual.min(arrival.max_new_tokens as f64)
    }

    fn prefill(&self, costs: &Costs, arrival: &Arrival<'_>) -> f64 {
        let computed = self.habits[arrival.priority.index()].computed;
        let tokens = (arrival.prompt as f64 * computed).round() as usize;
        costs.part(Shape::of(
            tokens,
            (arrival.prompt - tokens.min(arrival.prompt)).min(arrival.seen),
            true,
        ))
    }

    /// Seconds until a sequence that arrives now would start.
    fn wait(&self, priority: Priority, tenant: &Tenant) -> f64 {
        let line = self.waiting.get(&(priority, tenant.clone()));
        let own = line.map_or(0.0, |line| line.work);
        let weight = f64::from(self.weights.of(tenant));
        let others = self
            .waiting
            .iter()
            .filter(|((class, other), _)| *class == priority && other != tenant);
        let ahead =
            |other: &Tenant, line: &Line| line.work.min(own * f64::from(self.weights.of(other)) / weight);
        own + others.map(|((_, other), line)| ahead(other, line)).sum::<f64>()
    }

    /// A sequence waits.
    pub fn enter(&mut self, priority: Priority, tenant: &Tenant, work: f64) {
        let line = self.waiting.entry((priority, tenant.clone())).or_default();
        line.sequences += 1;
        line.work += work;
    }

    /// It waits no more.
    pub fn leave(&mut self, priority: Priority, tenant: &Tenant, work: f64) {
        let key = (priority, tenant.clone());
        if let Some(line) = self.waiting.get_mut(&key) {
            line.sequences = line.sequences.saturating_sub(1);
            line.work = (line.work - work).max(0.0);
            if line.sequences == 0 {
                self.waiting.remove(&key);
            }
        }
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEED: Speed = Speed {
        costs: Costs::planted([0.01, 0.001, 0.002, 0.0]),
        step: 0.05,
        overhead: 1.25,
    };

    fn tenant(name: &str) -> Tenant {
        Tenant::named(name).unwrap()
    }

    fn arrival(tenant: &Tenant, timeout: Option<(Instant, f64)>) -> Arrival<'_> {
        Arrival {
            priority: Priority::Interactive,
            tenant,
            prompt: 100,
            seen: 100,
            max_new_tokens: 50,
            deadline: timeout.map(|(now, timeout)| now + Duration::from_secs_f64(timeout)),
        }
    }

    /// Prompts of which nothing is cached, and answers of ten tokens.
    fn informed(weights: TenantWeights) -> Outlook {
        let mut outlook = Outlook::new(weights);
        outlook.update(Some(SPEED));
        for _ in 0..400 {
            outlook.started(Priority::Interactive, 100, 0);
            outlook.finished(Priority::Interactive, 10);
        }
        outlook
    }

    #[test]
    fn nobody_is_refused_before_there_are_steps_to_predict_from() {
        let mut outlook = Outlook::new(TenantWeights::default());
        let (now, own) = (Instant::now(), tenant("a"));
        outlook.enter(Priority::Interactive, &own, 1000.0);
        assert_eq!(outlook.check(&arrival(&own, Some((now, 1e-6))), now), Ok(()));
        outlook.update(Some(SPEED));
        assert!(outlook.check(&arrival(&own, Some((now, 1e-6))), now).is_err());
        assert_eq!(outlook.check(&arrival(&own, None), now), Ok(()));
    }

    #[test]
    fn work_is_what_is_computed_and_what_is_usually_written() {
        let outlook = informed(TenantWeights::default());
        let own = tenant("a");
        // 100 tokens, a row for the first token, and ten decodes of a token and a row.
        let expected = 1.25 * (0.1 + 0.002 + 10.0 * 0.003);
        assert!((outlook.work(&arrival(&own, None)) - expected).abs() < 1e-3);
        let short = Arrival {
            max_new_tokens: 2,
            ..arrival(&own, None)
        };
        assert!((outlook.work(&short) - 1.25 * 0.108).abs() < 1e-3);
    }

    #[test]
    fn others_are_waited_for_up_to_what_the_tenant_itself_has_waiting() {
        let weights = TenantWeights::new([(tenant("heavy"), 4)]);
        let mut outlook = informed(weights);
        let names = ["a", "flood", "heavy"].map(tenant);
        for (name, work) in names.iter().zip([2.0, 100.0, 3.0]) {
            outlook.enter(Priority::Interactive, name, work);
            outlook.enter(Priority::Batch, name, 1000.0);
        }
        let wait = |name: &Tenant| outlook.wait(Priority::Interactive, name);
        assert_eq!(wait(&names[0]), 2.0 + 2.0 + 3.0);
        assert_eq!(wait(&names[1]), 100.0 + 2.0 + 3.0);
        assert_eq!(wait(&names[2]), 3.0 + 0.75 + 0.75);
        assert_eq!(wait(&tenant("new")), 0.0);
        outlook.leave(Priority::Interactive, &names[0], 2.0);
        assert_eq!(outlook.wait(Priority::Interactive, &names[0]), 0.0);
    }

    #[test]
    fn a_refusal_says_what_was_predicted_and_when_to_come_back_if_that_helps() {
        let mut outlook = informed(TenantWeights::default());
        let (now, own) = (Instant::now(), tenant("a"));
        outlook.enter(Priority::Interactive, &own, 10.0);
        let refused = |timeout| outlook.check(&arrival(&own, Some((now, timeout))), now);
        // 10 s of waiting; of its own a step, 100 tokens, a row, and nine decodes in steps as long as now.
        assert_eq!(refused(10.57), Ok(()));
        let Err(SubmitError::DeadlineUnattainable {
            predicted,
            wait,
            remaining,
            retry_after,
        }) = refused(5.0)
        else {
            panic!()
        };
        assert_eq!((wait.as_secs_f64(), remaining.as_secs_f64()), (10.0, 5.0));
        assert!((predicted.as_secs_f64() - 10.562).abs() < 1e-3);
        assert_eq!(retry_after, Some(Duration::from_secs(10)));
        let hopeless = refused(0.01);
        assert!(
            matches!(
                hopeless,
                Err(SubmitError::DeadlineUnattainable {
                    retry_after: None,
                    ..
                })
            ),
            "{hopeless:?}"
        );
    }
}
