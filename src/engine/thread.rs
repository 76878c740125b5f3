//! The engine's thread: takes turns between its models, stops a model whose step panics, ends on request.
//!
//! On a device that computes by itself, steps of up to [`MOST_UNDER_WAY`] models are under way at a time. They are waited
//! for in the order in which they were submitted. While the device computes, the thread takes arrivals, plans the next
//! step, and turns the results of the step before into tokens and events.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{
    arrivals::Arrivals,
    config::Clock,
    error::SequenceError,
    inbox::{Inbox, Signal},
    scheduler::{DeviceWork, TimeLedger},
    stats::{ModelStats, record_loss, record_state, record_stopped},
    step::ModelEngine,
};
use crate::{
    backend::{Execution, StepError},
    panics::{self, Panicked},
};

/// Most steps under way on a device that computes by itself: one that it computes, and one that is ready for it when that
/// ends. More would only make an urgent sequence that arrives wait for more steps.
const MOST_UNDER_WAY: usize = 2;

/// Runs until [`Inbox::shutdown`], or until no handle is left and no sequence is open.
pub(crate) fn run(name: &str, inbox: &Arc<Inbox>, mut turns: ModelTurns) {
    // Declared first, so that it is dropped last: when a caller sees the end, the models are gone and all events sent.
    let _ended = EndedOnDrop(inbox);
    while turn(name, inbox, &mut turns) {}
}

/// Takes what has arrived, and then a turn. Waits for arrivals while there is nothing to do. Returns `false` when the thread
/// has to end.
pub(crate) fn turn(name: &str, inbox: &Inbox, turns: &mut ModelTurns) -> bool {
    let mut arrivals = Arrivals::default();
    let signal = inbox.take(&mut arrivals, turns.has_work());
    if signal == Signal::Shutdown || !arrivals.removals.is_empty() {
        survive_panics(inbox, turns, ModelTurns::finish_steps);
    }
    turns.accept(&mut arrivals, inbox);
    if signal == Signal::Shutdown {
        turns.fail_all(&SequenceError::ShuttingDown);
        return false;
    }
    let was_lost = inbox.loss().is_some();
    survive_panics(inbox, turns, ModelTurns::step);
    if !was_lost && inbox.loss().is_some() {
        record_loss(name);
    }
    true
}

/// Lets the turns do something. A panic stops the model whose step it was.
fn survive_panics(inbox: &Inbox, turns: &mut ModelTurns, action: impl FnOnce(&mut ModelTurns, &Inbox)) {
    if let Err(panicked) = panics::catch(|| action(turns, inbox)) {
        turns.stop_after(&panicked, inbox);
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
    execution: Execution,
    /// The models whose steps are under way, in the order in which the steps were submitted.
    under_way: VecDeque<usize>,
    /// The model whose step the thread is working on, which is the one to stop when it panics.
    acting: Option<usize>,
    clock: Clock,
}

impl ModelTurns {
    /// Idle models of a device; the first has the first turn.
    pub(crate) fn new(
        engines: Vec<ModelEngine>,
        ledger: TimeLedger,
        execution: Execution,
        clock: Clock,
    ) -> Self {
        Self {
            engines: engines.into_iter().map(Box::new).enumerate().collect(),
            next: 0,
            ledger,
            execution,
            under_way: VecDeque::new(),
            acting: None,
            clock,
        }
    }

    /// The model with this index.
    #[cfg(test)]
    pub(crate) fn engine(&self, index: usize) -> &ModelEngine {
        &self.engines[&index]
    }

    /// Whether any model has an open sequence.
    pub(crate) fn has_work(&self) -> bool {
        !self.under_way.is_empty() || self.engines.values().any(|engine| engine.has_work())
    }

    /// Adds models, then accepts sequences, then hands removed models back, whose open sequences fail. Sequences may arrive
    /// while a step of their model is under way, but no model is removed then.
    pub(crate) fn accept(&mut self, arrivals: &mut Arrivals, inbox: &Inbox) {
        for added in arrivals.models.drain(..) {
            record_stopped(added.engine.name(), false);
            self.engines.insert(added.index, added.engine);
        }
        for submission in arrivals.sequences.drain(..) {
            let index = submission.request.model.0;
            // The inbox has checked that the model exists.
            let Some(engine) = self.engines.get_mut(&index) else {
                continue;
            };
            let now = self.clock.now();
            engine.submit(submission, now);
            engine.note_scheduling(self.clock.now().saturating_duration_since(now));
            if inbox.is_stopped(index) {
                // It was queued just before the model was stopped.
                engine.fail_all(&SequenceError::ModelPanicked, self.clock.now());
            }
        }
        if let Some(reason) = inbox.loss() {
            // They were queued just before the device was lost.
            self.fail_all(&SequenceError::DeviceLost(Arc::clone(reason)));
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

    /// Takes the next turn. Where the submitting thread computes, that is a whole step of one model. Where the device
    /// computes by itself, a turn submits a step, or waits for the oldest one when none can be submitted.
    pub(crate) fn step(&mut self, inbox: &Inbox) {
        let submitted = self.under_way.len() < self.most_under_way() && self.submit_next(inbox);
        match (self.execution, submitted) {
            (Execution::Asynchronous, true) => {}
            (Execution::Synchronous, _) | (Execution::Asynchronous, false) => self.finish_oldest(inbox),
        }
    }

    /// Waits for all steps under way and applies their results.
    pub(crate) fn finish_steps(&mut self, inbox: &Inbox) {
        while !self.under_way.is_empty() {
            self.finish_oldest(inbox);
        }
    }

    /// Most steps that may be under way at a time.
    fn most_under_way(&self) -> usize {
        match self.execution {
            Execution::Synchronous => 1,
            Execution::Asynchronous => MOST_UNDER_WAY,
        }
    }

    /// What is open and under way.
    fn work(&self) -> DeviceWork {
        let engines = || self.engines.values();
        let under_way = self.under_way.iter().filter_map(|index| self.engines.get(index));
        DeviceWork {
            urgent: engines().any(|engine| engine.has_urgent()),
            credit_in_use: under_way.map(|engine| engine.credit_in_use()).sum(),
            overlapping: engines()
                .filter(|engine| engine.has_work())
                .take(self.most_under_way())
                .count(),
        }
    }

    /// Submits a step of the next model that has work and no step under way. While urgent work is open in some model,
    /// models without urgent work take steps only while the ledger has time for them. Returns whether a step is under way
    /// for it.
    fn submit_next(&mut self, inbox: &Inbox) -> bool {
        let work = self.work();
        let others_may_run = self.ledger.non_urgent_may_run(work);
        let may_run = |engine: &ModelEngine| {
            engine.has_work() && !engine.is_under_way() && (others_may_run || engine.has_urgent())
        };
        let (later, earlier) = (self.engines.range(self.next..), self.engines.range(..self.next));
        let next = later.chain(earlier).find(|(_, engine)| may_run(engine));
        let Some(index) = next.map(|(index, _)| *index) else {
            return false;
        };
        self.next = index + 1;
        self.acting = Some(index);
        let Some(engine) = self.engines.get_mut(&index) else {
            return false;
        };
        let now = self.clock.now();
        let has_batch = engine.begin(now, self.ledger.pace(work));
        engine.note_scheduling(self.clock.now().saturating_duration_since(now));
        if !has_batch {
            engine.settle(&mut self.ledger, self.clock.now());
            publish_counts(inbox, index, engine);
            self.acting = None;
            return false;
        }
        let submitted = engine.launch();
        let is_under_way = submitted.is_ok();
        match submitted {
            Ok(()) => self.under_way.push_back(index),
            Err(error) => self.end_step(index, Err(error), inbox),
        }
        self.acting = None;
        is_under_way
    }

    /// Waits for the step that was submitted first, and applies its results.
    fn finish_oldest(&mut self, inbox: &Inbox) {
        let Some(index) = self.under_way.pop_front() else {
            return;
        };
        self.acting = Some(index);
        if let Some(engine) = self.engines.get_mut(&index) {
            let outcome = engine.wait();
            self.end_step(index, outcome, inbox);
        }
        self.acting = None;
    }

    /// Applies the outcome of a step, accounts for it, and ends the work of the device if it is lost.
    fn end_step(&mut self, index: usize, outcome: Result<(), StepError>, inbox: &Inbox) {
        let Some(engine) = self.engines.get_mut(&index) else {
            return;
        };
        if let Err(error) = &outcome {
            tracing::error!(model = %engine.name(), %error, "a forward pass failed");
        }
        if let Err(StepError::DeviceLost(reason)) = &outcome {
            tracing::error!(%reason, "no model of this device can answer any more; restart the server");
            // Before the events are sent, so that a caller who hears of it is refused from then on.
            inbox.device_lost(reason.as_str().into());
        }
        engine.complete(outcome, self.clock.now());
        engine.settle(&mut self.ledger, self.clock.now());
        publish_counts(inbox, index, engine);
        self.fail_lost(inbox);
    }

    /// Fails all open sequences of all models if the device is lost. The steps that are still under way are waited for
    /// first, and end with the same fault.
    fn fail_lost(&mut self, inbox: &Inbox) {
        let Some(reason) = inbox.loss() else { return };
        self.under_way.clear();
        self.fail_all(&SequenceError::DeviceLost(Arc::clone(reason)));
        for (index, engine) in &self.engines {
            publish_counts(inbox, *index, engine);
        }
    }

    /// Stops the model whose step panicked: its sequences fail, and it accepts no more. Nothing that it has computed is
    /// used again, because nobody knows what it was in the middle of.
    fn stop_after(&mut self, panicked: &Panicked, inbox: &Inbox) {
        let stopped = match self.acting.take() {
            Some(index) => vec![index],
            // Outside of the models' steps there is only what they all depend on.
            None => self.engines.keys().copied().collect(),
        };
        for index in stopped {
            let Some(engine) = self.engines.get_mut(&index) else {
                continue;
            };
            tracing::error!(
                model = %engine.name(),
                location = panicked.location,
                reason = panicked.reason,
                "a step panicked, and the model is stopped until it is loaded again"
            );
            record_stopped(engine.name(), true);
            // Before the events are sent, so that a caller who hears of it is refused from then on.
            inbox.stop_model(index);
            self.under_way.retain(|other| *other != index);
            engine.fail_all(&SequenceError::ModelPanicked, self.clock.now());
            publish_counts(inbox, index, engine);
        }
        self.fail_lost(inbox);
    }

    fn fail_all(&mut self, error: &SequenceError) {
        for engine in self.engines.values_mut() {
            engine.fail_all(error, self.clock.now());
        }
    }
}

fn publish_counts(inbox: &Inbox, index: usize, engine: &ModelEngine) {
    inbox.set_counts(index, engine.kv_counts(), engine.tokens());
    if let Some(stats) = inbox.stats(index) {
        record_state(engine.name(), &stats);
    }
}
