//! The engine's thread: takes turns between its models, survives panics, ends on request.

use std::{
    any::Any,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{
    arrivals::Arrivals,
    config::Clock,
    error::SequenceError,
    inbox::{Inbox, Signal},
    scheduler::TimeLedger,
    stats::{ModelStats, record_restart, record_state},
    step::ModelEngine,
};

/// Runs until [`Inbox::shutdown`], or until no handle is left and no sequence is open.
pub(crate) fn run(name: &str, inbox: &Arc<Inbox>, mut turns: ModelTurns) {
    // Declared first, so that it is dropped last: when a caller sees the end, the models are gone and all events sent.
    let _ended = EndedOnDrop(inbox);
    let mut arrivals = Arrivals::default();
    loop {
        let signal = inbox.take(&mut arrivals, turns.has_work());
        turns.accept(&mut arrivals, inbox);
        if signal == Signal::Shutdown {
            turns.fail_all(&SequenceError::ShuttingDown);
            return;
        }
        let stepped = catch_unwind(AssertUnwindSafe(|| turns.step(inbox)));
        if let Err(panic) = stepped {
            tracing::error!(
                engine = name,
                reason = panic_message(&*panic),
                "the engine panicked and is restarting"
            );
            record_restart(name);
            // Counted before the events are sent, so that a caller who hears of the panic sees it counted.
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

/// The models by index, and the one whose turn is next.
pub(crate) struct ModelTurns {
    engines: BTreeMap<usize, Box<ModelEngine>>,
    next: usize,
    ledger: TimeLedger,
    clock: Clock,
}

impl ModelTurns {
    /// Idle models; the first has the first turn.
    pub(crate) fn new(engines: Vec<ModelEngine>, ledger: TimeLedger, clock: Clock) -> Self {
        Self {
            engines: engines.into_iter().map(Box::new).enumerate().collect(),
            next: 0,
            ledger,
            clock,
        }
    }

    /// Whether any model has an open sequence.
    pub(crate) fn has_work(&self) -> bool {
        self.engines.values().any(|engine| engine.has_work())
    }

    /// Adds models, then accepts sequences, then hands removed models back, whose open sequences fail.
    pub(crate) fn accept(&mut self, arrivals: &mut Arrivals, inbox: &Inbox) {
        let added = arrivals.models.drain(..);
        self.engines
            .extend(added.map(|model| (model.index, model.engine)));
        for submission in arrivals.sequences.drain(..) {
            // The inbox has checked that the model exists.
            if let Some(engine) = self.engines.get_mut(&submission.request.model.0) {
                engine.submit(submission, self.clock.now());
            }
        }
        for removed in arrivals.removals.drain(..) {
            let Some(mut engine) = self.engines.remove(&removed.index) else {
                continue;
            };
            engine.fail_all(&SequenceError::ModelRemoved, self.clock.now());
            record_state(engine.name(), &ModelStats::default());
            inbox.removed(removed.index);
            // When nobody waits for the model, it is dropped here.
            let _ = removed.receiver.send(engine);
        }
    }

    /// Takes one step of the next model that has work. While urgent work is open in some model, models without urgent
    /// work take steps only while the ledger has time for them.
    pub(crate) fn step(&mut self, inbox: &Inbox) {
        let urgent = self.engines.values().any(|engine| engine.has_urgent());
        let others_may_run = !urgent || self.ledger.non_urgent_may_run();
        let may_run = |engine: &ModelEngine| engine.has_work() && (others_may_run || engine.has_urgent());
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
        publish_counts(inbox, index, engine);
    }

    fn restart(&mut self, inbox: &Inbox) {
        for (index, engine) in &mut self.engines {
            engine.restart(self.clock.now());
            publish_counts(inbox, *index, engine);
        }
    }

    fn fail_all(&mut self, error: &SequenceError) {
        for engine in self.engines.values_mut() {
            engine.fail_all(error, self.clock.now());
        }
    }
}

fn publish_counts(inbox: &Inbox, index: usize, engine: &ModelEngine) {
    inbox.set_kv_counts(index, engine.kv_counts());
    if let Some(stats) = inbox.stats(index) {
        record_state(engine.name(), &stats);
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown")
}
