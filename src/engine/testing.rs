//! Helpers of the engine's tests.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tracing::Span;

use super::{
    cancellation::CancelFlag,
    error::SequenceError,
    event::{Event, EventSink, SequenceSummary},
    request::{ModelIndex, OutputSpec, Priority, Sampling, SequenceRequest},
    scheduler::{Budget, Pace},
    scripted::ScriptedModel,
    step::ModelEngine,
    tenant::{Tenant, TenantWeights},
};
use crate::backend::{CostPrior, ModelLimits};

/// A time limit that only a hang exceeds.
pub(crate) const HANG: Duration = Duration::from_secs(60);

/// Collects a sequence's events.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Vec<Event>>>);

impl Recorder {
    /// A sink that records events and stops listening after `limit` of them.
    pub(crate) fn sink(&self, limit: usize) -> EventSink {
        let events = Arc::clone(&self.0);
        Box::new(move |event| {
            let mut events = events.lock().unwrap();
            events.push(event);
            events.len() < limit
        })
    }

    /// All events so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    /// The last event so far.
    pub(crate) fn last(&self) -> Option<Event> {
        self.0.lock().unwrap().last().cloned()
    }

    /// Number of terminal events so far. Fails the test if an event followed one.
    pub(crate) fn terminal_events(&self) -> usize {
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

    /// Probe and token events, which must not depend on the other sequences of a batch.
    pub(crate) fn output(&self) -> Vec<Event> {
        let output = |event: &Event| matches!(event, Event::Probe(_) | Event::Token(_));
        self.events().into_iter().filter(output).collect()
    }

    /// Ids of the generated tokens.
    pub(crate) fn tokens(&self) -> Vec<u32> {
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

    /// The summary, if the sequence has finished.
    pub(crate) fn summary(&self) -> Option<SequenceSummary> {
        match self.events().pop() {
            Some(Event::Finished(summary)) => Some(summary),
            _ => None,
        }
    }

    /// The error, if the sequence has failed.
    pub(crate) fn error(&self) -> Option<SequenceError> {
        match self.events().pop() {
            Some(Event::Failed(error)) => Some(error),
            _ => None,
        }
    }
}

/// Greedy decoding of `max_new_tokens` tokens.
pub(crate) fn greedy(max_new_tokens: usize) -> OutputSpec {
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

/// An interactive request for the first model, and the recorder of its events.
pub(crate) fn request(prompt: &[u32], output: OutputSpec) -> (SequenceRequest, Recorder) {
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
        keeper: None,
        span: Span::none(),
    };
    (request, recorder)
}

/// How long a step takes in tests that advance the time themselves.
pub(crate) const STEP: Duration = Duration::from_millis(5);

/// An engine for a scripted model with at most this many sequences and tokens in a step.
pub(crate) fn engine(limits: ModelLimits, sequences: usize, tokens: usize) -> ModelEngine {
    engine_of(ScriptedModel::hashing(limits), sequences, tokens)
}

/// Like [`engine`], for a given model.
pub(crate) fn engine_of(model: ScriptedModel, sequences: usize, tokens: usize) -> ModelEngine {
    ModelEngine::new(
        "scripted".into(),
        Box::new(model),
        Budget::new(sequences, tokens),
        CostPrior::SMALL_MACHINE,
        TenantWeights::default(),
    )
}

/// Takes a step and returns its numbers of sequences and tokens.
pub(crate) fn step(engine: &mut ModelEngine, now: Instant) -> (usize, usize) {
    if !engine.begin(now, Pace::Unbounded) {
        return (0, 0);
    }
    let size = (engine.batch().sequences.len(), engine.batch().tokens.len());
    let outcome = engine.launch().and_then(|()| engine.wait());
    assert!(outcome.is_ok(), "{outcome:?}");
    engine.complete(outcome, now + STEP);
    size
}

/// Takes steps until no sequence is open, and returns the time then.
pub(crate) fn run_until_idle(engine: &mut ModelEngine, mut now: Instant) -> Instant {
    for _ in 0..100_000 {
        if !engine.has_work() {
            return now;
        }
        step(engine, now);
        now += STEP;
    }
    panic!("work is left after 100,000 steps");
}
