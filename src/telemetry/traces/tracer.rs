//! Decides which calls are traced, and takes their spans.

use std::time::SystemTime;

use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{SpanId, SpanKind, Status, TraceId},
};
use opentelemetry_sdk::trace::{
    Sampler, SamplingDecision, ShouldSample as _, SpanData, SpanEvents, SpanLinks,
};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::export::count;
use crate::trace_context::TraceContext;

/// Takes the spans of calls that are traced. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Recorder>);

/// Where spans go, and which.
#[derive(Debug, Clone)]
struct Recorder {
    queue: mpsc::Sender<SpanData>,
    sampler: Sampler,
    scope: InstrumentationScope,
}

/// A span that has ended.
pub(crate) struct FinishedSpan {
    pub(crate) context: TraceContext,
    /// The span that it is a part of, if any, and where that is.
    pub(crate) parent: Option<Parent>,
    pub(crate) kind: SpanKind,
    pub(crate) name: &'static str,
    pub(crate) began: SystemTime,
    pub(crate) ended: SystemTime,
    pub(crate) attributes: Vec<KeyValue>,
    pub(crate) status: Status,
}

/// The span that another one is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parent {
    /// A span of this process.
    Here(SpanId),
    /// A span of the caller.
    Remote(SpanId),
}

impl Tracer {
    /// A tracer that traces nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// A tracer that puts spans into a queue. `ratio` is the share of the traces that are recorded where the caller has not
    /// decided.
    pub(super) fn recording(queue: mpsc::Sender<SpanData>, ratio: f64) -> Self {
        Self(Some(Recorder {
            queue,
            sampler: Sampler::TraceIdRatioBased(ratio),
            scope: InstrumentationScope::builder("babelward")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
        }))
    }

    /// The span of a call: in its caller's trace, or in one of its own. It is sampled if the caller's span is, or, where
    /// there is none, by the id of the trace. `None` for a call in nobody's trace while nothing is traced.
    pub(crate) fn begin(&self, caller: Option<&TraceContext>) -> Option<TraceContext> {
        let span = match (caller, &self.0) {
            (Some(caller), _) => caller.new_span(),
            (None, Some(_)) => TraceContext::new_trace(),
            (None, None) => return None,
        };
        let recorder = self.0.as_ref();
        let is_sampled = recorder.is_some_and(|recorder| match caller {
            Some(caller) => caller.is_sampled(),
            None => recorder.chooses(span.trace_id()),
        });
        Some(span.with_sampled(is_sampled))
    }

    /// Takes a span, or drops it when there are too many.
    pub(crate) fn record(&self, span: FinishedSpan) {
        let Some(recorder) = &self.0 else {
            return;
        };
        let (parent, is_remote) = match span.parent {
            None => (SpanId::INVALID, false),
            Some(Parent::Here(id)) => (id, false),
            Some(Parent::Remote(id)) => (id, true),
        };
        let data = SpanData {
            span_context: span.context.into(),
            parent_span_id: parent,
            parent_span_is_remote: is_remote,
            span_kind: span.kind,
            name: span.name.into(),
            start_time: span.began,
            end_time: span.ended,
            attributes: span.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: span.status,
            instrumentation_scope: recorder.scope.clone(),
        };
        match recorder.queue.try_send(data) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => count("queue_full", 1),
            // The server has drained, and its last spans are on their way.
            Err(TrySendError::Closed(_)) => count("too_late", 1),
        }
    }
}

impl Recorder {
    /// Whether a trace that begins here is among those that are recorded.
    fn chooses(&self, trace: TraceId) -> bool {
        let result = self
            .sampler
            .should_sample(None, trace, "", &SpanKind::Server, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn caller(sampled: bool) -> TraceContext {
        TraceContext::parse(PARENT, None).unwrap().with_sampled(sampled)
    }

    fn recording(ratio: f64) -> (Tracer, mpsc::Receiver<SpanData>) {
        let (queue, spans) = mpsc::channel(2);
        (Tracer::recording(queue, ratio), spans)
    }

    #[test]
    fn the_caller_decides_and_the_ratio_where_there_is_none() {
        for ratio in [0.0, 1.0] {
            let (tracer, _spans) = recording(ratio);
            for sampled in [false, true] {
                let span = tracer.begin(Some(&caller(sampled))).unwrap();
                assert_eq!(span.is_sampled(), sampled);
                assert_eq!(span.trace_id(), caller(true).trace_id());
            }
            assert_eq!(tracer.begin(None).unwrap().is_sampled(), ratio == 1.0);
        }
        let (tracer, _spans) = recording(0.25);
        let sampled = (0..4000).filter(|_| tracer.begin(None).unwrap().is_sampled());
        // Six standard deviations on either side of 1000.
        assert!((836..1164).contains(&sampled.count()));
    }

    #[test]
    fn what_is_not_traced_stays_in_its_callers_trace() {
        let tracer = Tracer::off();
        assert_eq!(tracer.begin(None), None);
        let span = tracer.begin(Some(&caller(true))).unwrap();
        assert_eq!(span.trace_id(), caller(true).trace_id());
        assert!(!span.is_sampled(), "nobody records it");
    }

    #[test]
    fn a_full_queue_drops_spans_and_waits_for_nobody() {
        let (tracer, mut spans) = recording(1.0);
        for _ in 0..5 {
            tracer.record(FinishedSpan {
                context: caller(true),
                parent: None,
                kind: SpanKind::Internal,
                name: "queue",
                began: SystemTime::UNIX_EPOCH,
                ended: SystemTime::UNIX_EPOCH,
                attributes: Vec::new(),
                status: Status::Unset,
            });
        }
        assert!(spans.try_recv().is_ok());
        assert!(spans.try_recv().is_ok());
        assert!(spans.try_recv().is_err());
    }
}
