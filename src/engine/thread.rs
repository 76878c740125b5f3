//! The engine's thread: takes turns between its models, survives panics, ends on request.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use super::{
    SequenceError,
    inbox::{Inbox, Signal, Submission},
    stats::{record_restart, record_state},
    step::ModelEngine,
};

/// Runs until [`Inbox::shutdown`], or until nobody can submit any more and nothing is open.
pub fn run(name: &str, inbox: &Arc<Inbox>, engines: Vec<ModelEngine>) {
    // Declared first, so dropped last: whoever waits for the end finds the models gone and all events sent.
    let _ended = EndedOnDrop(inbox);
    let mut turns = Turns { engines, next: 0 };
    let mut arrivals = Vec::new();
    loop {
        let signal = inbox.take(&mut arrivals, turns.has_work());
        for submission in arrivals.drain(..) {
            turns.submit(submission);
        }
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

/// The models, and whose turn it is.
struct Turns {
    engines: Vec<ModelEngine>,
    next: usize,
}

impl Turns {
    fn has_work(&self) -> bool {
        self.engines.iter().any(ModelEngine::has_work)
    }

    fn submit(&mut self, submission: Submission) {
        // The inbox has checked the index.
        if let Some(engine) = self.engines.get_mut(submission.request.model.0) {
            engine.submit(submission);
        }
    }

    /// One step of the next model that has work.
    fn step(&mut self, inbox: &Inbox) {
        let count = self.engines.len();
        let order = (0..count).map(|offset| (self.next + offset) % count);
        let Some(index) = order.into_iter().find(|&index| self.engines[index].has_work()) else {
            return;
        };
        self.next = (index + 1) % count;
        let engine = &mut self.engines[index];
        if engine.begin(Instant::now()) {
            let outcome = engine.forward();
            if let Err(error) = &outcome {
                tracing::error!(model = %engine.name(), %error, "a forward pass failed");
            }
            engine.complete(outcome, Instant::now());
        }
        engine.record();
        publish(inbox, index, engine);
    }

    fn restart(&mut self, inbox: &Inbox) {
        for (index, engine) in self.engines.iter_mut().enumerate() {
            engine.restart(Instant::now());
            publish(inbox, index, engine);
        }
    }

    fn fail_all(&mut self, error: &SequenceError) {
        for engine in &mut self.engines {
            engine.fail_all(error, Instant::now());
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
