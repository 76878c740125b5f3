//! The engine's thread: takes turns between its models, survives panics, ends on request.

use std::{
    any::Any,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{
    Clock, ModelStats, SequenceError,
    inbox::{Inbox, Signal},
    scheduler::Ledger,
    slots::Arrivals,
    stats::{record_restart, record_state},
    step::ModelEngine,
};

/// Runs until [`Inbox::shutdown`], or until nobody can submit any more and nothing is open.
pub fn run(name: &str, inbox: &Arc<Inbox>, mut turns: Turns) {
    // Declared first, so dropped last: whoever waits for the end finds the models gone and all events sent.
    let _ended = EndedOnDrop(inbox);
    let mut arrivals = Arrivals::default();
    loop {
        let signal = inbox.take(&mut arrivals, turns.has_work());
        turns.take_in(&mut arrivals, inbox);
        if signal == Signal::Shutdown {
            turns.fail_all(&SequenceError::ShuttingDown);
            return;
        }
        let stepped = catch_unwind(AssertUnwindSafe(|| turns.step(inbox)));
        if let Err(panic) = stepped {
            tracing::error!(
                engine = name,
                reason = panic_message(&*panic),
                "the engine panicked and restarts"
            );
            record_restart(name);
            // Before the events: whoever hears of the panic sees it counted.
            inbox.count_restart();
            turns.restart(inbox);
        }
    }
}

struct EndedOnDrop<'a>(&'a Arc<Inbox>);

impl Drop for EndedOnDrop<'_> {
    fn drop(&mut self) {
        self.0.ended();
    }
}

/// The models by their places, and whose turn it is.
pub struct Turns {
    engines: BTreeMap<usize, Box<ModelEngine>>,
    next: usize,
    ledger: Ledger,
    clock: Clock,
}

impl Turns {
    /// Idle models, the first of which is next.
    pub fn new(engines: Vec<ModelEngine>, ledger: Ledger, clock: Clock) -> Self {
        Self {
            engines: engines.into_iter().map(Box::new).enumerate().collect(),
            next: 0,
            ledger,
            clock,
        }
    }

    /// Whether there is anything to do.
    pub fn has_work(&self) -> bool {
        self.engines.values().any(|engine| engine.has_work())
    }

    /// Takes in models, then sequences, then gives models back: what is open there fails.
    pub fn take_in(&mut self, arrivals: &mut Arrivals, inbox: &Inbox) {
        self.engines.extend(arrivals.models.drain(..));
        for submission in arrivals.sequences.drain(..) {
            // The inbox has checked the place.
            if let Some(engine) = self.engines.get_mut(&submission.request.model.0) {
                engine.submit(submission, self.clock.now());
            }
        }
        for (place, back) in arrivals.departures.drain(..) {
            let Some(mut engine) = self.engines.remove(&place) else {
                continue;
            };
            engine.fail_all(&SequenceError::ModelRemoved, self.clock.now());
            record_state(engine.name(), &ModelStats::default());
            inbox.removed(place);
            // When nobody waits for it, it ends here.
            let _ = back.send(engine);
        }
    }

    /// One step of the next model that has work. While urgent work is open in some model, the others wait for
    /// their share.
    pub fn step(&mut self, inbox: &Inbox) {
        let urgent = self.engines.values().any(|engine| engine.has_urgent());
        let rest_may_run = !urgent || self.ledger.rest_may_run();
        let may_run = |engine: &ModelEngine| engine.has_work() && (rest_may_run || engine.has_urgent());
        let (later, earlier) = (self.engines.range(self.next..), self.engines.range(..self.next));
        let next = later.chain(earlier).find(|(_, engine)| may_run(engine));
        let Some(index) = next.map(|(index, _)| *index) else {
            return;
        };
        self.next = index + 1;
        let Some(engine) = self.engines.get_mut(&index) else {
            return;
        };
        if engine.begin(self.clock.now(), self.ledger.pace(urgent)) {
            let outcome = engine.forward();
            if let Err(error) = &outcome {
                tracing::error!(model = %engine.name(), %error, "a forward pass failed");
            }
            engine.complete(outcome, self.clock.now());
        }
        engine.settle(&mut self.ledger, self.clock.now());
        publish(inbox, index, engine);
    }

    fn restart(&mut self, inbox: &Inbox) {
        for (index, engine) in &mut self.engines {
            engine.restart(self.clock.now());
            publish(inbox, *index, engine);
        }
    }

    fn fail_all(&mut self, error: &SequenceError) {
        for engine in self.engines.values_mut() {
            engine.fail_all(error, self.clock.now());
        }
    }
}

fn publish(inbox: &Inbox, index: usize, engine: &ModelEngine) {
    inbox.publish(index, engine.kv_counts());
    if let Some(stats) = inbox.stats(index) {
        record_state(engine.name(), &stats);
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown")
}
