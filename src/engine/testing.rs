//! Helpers of the engine's tests.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::{
    CancelFlag, Event, ModelIndex, OutputSpec, Priority, Sampling, SequenceError, SequenceRequest,
    SequenceSummary, Tenant, TenantWeights,
    scheduler::{Budget, Pace},
    scripted::ScriptedModel,
    step::ModelEngine,
};
use crate::backend::{CostPrior, ModelLimits};

/// Long enough that only a hang exceeds it.
pub const HANG: Duration = Duration::from_secs(60);

/// Collects a sequence's events.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Mutex<Vec<Event>>>);

impl Recorder {
    /// A sink that stops listening after `limit` events.
    pub fn sink(&self, limit: usize) -> super::EventSink {
        let events = Arc::clone(&self.0);
        Box::new(move |event| {
            let mut events = events.lock().unwrap();
            events.push(event);
            events.len() < limit
        })
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    /// The last event so far.
    pub fn last(&self) -> Option<Event> {
        self.0.lock().unwrap().last().cloned()
    }

    /// How many terminal events there were; also checks that nothing came after one.
    pub fn terminal_events(&self) -> usize {
        let events = self.events();
        let terminal = |event: &&Event| matches!(event, Event::Finished(_) | Event::Failed(_));
        let count = events.iter().filter(terminal).count();
        assert_eq!(
            count,
            usize::from(events.last().as_ref().is_some_and(terminal)),
            "{events:?}"
        );
        count
    }

    /// Probe and token events: what must not depend on company.
    pub fn output(&self) -> Vec<Event> {
        let output = |event: &Event| matches!(event, Event::Probe(_) | Event::Token(_));
        self.events().into_iter().filter(output).collect()
    }

    /// Ids of the generated tokens.
    pub fn tokens(&self) -> Vec<u32> {
        let events = self.events();
        events
            .iter()
            .filter_map(|e| {
                if let Event::Token(token) = e {
                    Some(token.id)
                } else {
                    None
                }
            })
            .collect()
    }

    /// The summary, when it finished.
    pub fn summary(&self) -> Option<SequenceSummary> {
        match self.events().pop() {
            Some(Event::Finished(summary)) => Some(summary),
            _ => None,
        }
    }

    /// The error, when it failed.
    pub fn error(&self) -> Option<SequenceError> {
        match self.events().pop() {
            Some(Event::Failed(error)) => Some(error),
            _ => None,
        }
    }
}

/// Greedy decoding of `max_new_tokens` tokens.
pub fn greedy(max_new_tokens: usize) -> OutputSpec {
    OutputSpec {
        max_new_tokens,
        eos: Arc::new([]),
        sampling: Sampling::greedy(),
        logprobs: None,
        probe: None,
        score: false,
        stop: None,
        pin_prompt: false,
    }
}

/// An interactive request of the first model, and its events.
pub fn request(prompt: &[u32], output: OutputSpec) -> (SequenceRequest, Recorder) {
    let recorder = Recorder::default();
    let request = SequenceRequest {
        model: ModelIndex(0),
        adapter: None,
        prompt: prompt.to_vec(),
        output,
        priority: Priority::Interactive,
        tenant: Tenant::default(),
        deadline: None,
        cancel: CancelFlag::default(),
        events: recorder.sink(usize::MAX),
    };
    (request, recorder)
}

/// How long a step takes on the made-up clock.
pub const STEP: Duration = Duration::from_millis(5);

/// One scripted model with at most so many sequences and tokens in a step.
pub fn engine(limits: ModelLimits, sequences: usize, tokens: usize) -> ModelEngine {
    engine_of(ScriptedModel::hashing(limits), sequences, tokens)
}

/// The same of a model of the caller's.
pub fn engine_of(model: ScriptedModel, sequences: usize, tokens: usize) -> ModelEngine {
    ModelEngine::new(
        "scripted".into(),
        Box::new(model),
        Budget::new(sequences, tokens),
        CostPrior::SMALL_MACHINE,
        TenantWeights::default(),
    )
}

/// A step; returns its sequences and tokens.
pub fn step(engine: &mut ModelEngine, now: Instant) -> (usize, usize) {
    if !engine.begin(now, Pace::Unbounded) {
        return (0, 0);
    }
    let size = (engine.batch().sequences.len(), engine.batch().tokens.len());
    let outcome = engine.forward();
    assert!(outcome.is_ok(), "{outcome:?}");
    engine.complete(outcome, now + STEP);
    size
}

/// Runs to the end; returns the time then.
pub fn run_until_idle(engine: &mut ModelEngine, mut now: Instant) -> Instant {
    for _ in 0..100_000 {
        if !engine.has_work() {
            return now;
        }
        step(engine, now);
        now += STEP;
    }
    panic!("work is left after 100,000 steps");
}
