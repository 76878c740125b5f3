//! Counts each call and each item exactly once, in the metrics and in the access log, and counts the calls in flight.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use opentelemetry::KeyValue;
use tokio::sync::watch;
use tonic::Code;
use tracing::Span;

use super::{
    access::{CallEnding, Tally, known_model},
    call_trace::{CallTrace, SpanEnding, count},
    clock::now,
    deadline::Deadline,
    error::ServiceError,
    gen_ai::{self, EndedRequest},
    method::Method,
    origin::CallOrigin,
    status::{Reason, stage_name},
};
use crate::{
    engine::{Stage, Tenant},
    registry::Registry,
    status_code::code_name,
    telemetry::Tracer,
};

/// What a record counts.
enum Kind {
    Call {
        tenant: Tenant,
        origin: CallOrigin,
        /// Dropped with the record. A drain waits for it.
        in_flight: Option<InFlight>,
    },
    /// A call of somebody who is not known.
    Stranger,
    Item {
        /// The record of its call, which is therefore counted after it.
        of: Arc<Record>,
        /// Its number among the call's items, from 0. The item's id is not logged, because it is the caller's text.
        number: u64,
    },
}

/// Counts and logs a call, or an item of a stream or batch, exactly once: with the code that it was finished with, or as
/// cancelled when it is dropped before that, because its client is gone.
pub(crate) struct Record {
    kind: Kind,
    method: Method,
    /// The span of the call.
    span: Span,
    began: Instant,
    deadline: Deadline,
    finished: AtomicBool,
    tally: Mutex<Tally>,
    /// Its spans, if it is traced.
    trace: Option<CallTrace>,
}

/// What is known of a call when it begins.
pub(crate) struct CallStart {
    pub(crate) method: Method,
    /// When its headers, or those of the request that it is made of, had arrived.
    pub(crate) began: Instant,
    pub(crate) origin: CallOrigin,
    /// The span for its log lines.
    pub(crate) span: Span,
    pub(crate) deadline: Deadline,
    pub(crate) tenant: Tenant,
    /// Takes its spans, if it is sampled.
    pub(crate) tracer: Tracer,
    /// A drain waits for the call only if this is there.
    pub(crate) in_flight: Option<InFlight>,
}

impl Record {
    /// The record of a call.
    pub(crate) fn call(start: CallStart) -> Arc<Self> {
        let CallStart {
            method,
            began,
            origin,
            span,
            deadline,
            tenant,
            tracer,
            in_flight,
        } = start;
        Arc::new(Self {
            trace: CallTrace::call(&tracer, &origin, method, began),
            kind: Kind::Call {
                tenant,
                origin,
                in_flight,
            },
            method,
            span,
            began,
            deadline,
            finished: AtomicBool::new(false),
            tally: Mutex::default(),
        })
    }

    /// The record of a call that is refused because nobody knows who makes it.
    pub(crate) fn stranger(method: Method, span: Span) -> Self {
        Self {
            kind: Kind::Stranger,
            method,
            span,
            began: now(),
            deadline: Deadline::default(),
            finished: AtomicBool::new(false),
            tally: Mutex::default(),
            trace: None,
        }
    }

    /// The record of an item of a stream or batch; `number` is its number among the items of its call, from 0.
    pub(crate) fn item(of: &Arc<Self>, number: u64, deadline: Deadline) -> Arc<Self> {
        let began = now();
        Arc::new(Self {
            trace: of.trace.as_ref().map(|trace| trace.item(began)),
            kind: Kind::Item {
                of: Arc::clone(of),
                number,
            },
            method: of.method,
            span: of.span.clone(),
            began,
            deadline,
            finished: AtomicBool::new(false),
            tally: Mutex::default(),
        })
    }

    /// The method of the call, or of the call that the item belongs to.
    pub(crate) fn method(&self) -> Method {
        self.method
    }

    /// The span of the call.
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    /// The spans of the call or item, if it is traced.
    pub(crate) fn trace(&self) -> Option<&CallTrace> {
        self.trace.as_ref()
    }

    /// Records that a sequence has given its first token, verdict or score.
    pub(crate) fn note_first_token(&self) {
        let after = self.began.elapsed();
        self.note(|tally| tally.note_first_token(after));
    }

    /// Adds to the totals of the call or item. What is added to an item is added to its call too.
    pub(crate) fn note(&self, done: impl Fn(&mut Tally)) {
        done(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
        if let Kind::Item { of, .. } = &self.kind {
            of.note(done);
        }
    }

    /// Records the model that a request names. An empty id names none.
    pub(crate) fn note_requested_model(&self, registry: &Registry, id: &str) {
        if let Some(model) = known_model(registry, id) {
            self.note(|tally| tally.add_model(model));
        }
    }

    /// Counts the call or item, unless it has been counted already.
    pub(crate) fn finish(&self, code: Code) {
        self.end(code, None);
    }

    /// Counts the call or item as failed, unless it has been counted already.
    pub(crate) fn fail(&self, error: &ServiceError) {
        match error {
            ServiceError::Deadline { stage } => count_deadline(stage_name(*stage)),
            ServiceError::DeadlineUnattainable(_) => count_deadline("admission"),
            _ => {}
        }
        let reason = error.reason();
        self.end(reason.code(), Some(reason));
    }

    /// Counts the call or item as ended with this code and, if it failed, for this reason, unless it has been counted already.
    pub(crate) fn end(&self, code: Code, reason: Option<Reason>) {
        if self.finished.swap(true, Ordering::AcqRel) {
            return;
        }
        let method = self.method.name();
        let code_name = code_name(code);
        let now = now();
        let total = now.saturating_duration_since(self.began);
        if code == Code::Cancelled {
            metrics::counter!("babelward_cancelled_total", "method" => method).increment(1);
        }
        match &self.kind {
            Kind::Call { .. } | Kind::Stranger => {
                metrics::counter!("babelward_requests_total", "method" => method, "code" => code_name)
                    .increment(1);
                metrics::histogram!("babelward_request_seconds", "method" => method)
                    .record(total.as_secs_f64());
            }
            Kind::Item { of, .. } => {
                metrics::counter!("babelward_items_total", "method" => method, "code" => code_name)
                    .increment(1);
                of.note(|tally| tally.count_item(code));
            }
        }
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let is_request = match &self.kind {
            Kind::Call { .. } => !self.method.counts_items(),
            Kind::Item { .. } => true,
            // No model was asked.
            Kind::Stranger => false,
        };
        if is_request {
            gen_ai::record(&EndedRequest {
                method: self.method,
                code,
                reason,
                total,
                tally: &tally,
            });
        }
        let ending = CallEnding {
            code,
            reason,
            total,
            tally: &tally,
        };
        match &self.kind {
            Kind::Call { tenant, origin, .. } => ending.log_call(&self.span, tenant, origin),
            Kind::Stranger => ending.log_stranger(&self.span),
            Kind::Item { number, .. } => ending.log_item(&self.span, *number),
        }
        if let Some(trace) = &self.trace {
            self.end_trace(trace, &ending, now);
        }
    }

    fn end_trace(&self, trace: &CallTrace, ending: &CallEnding<'_>, at: Instant) {
        let attributes = match &self.kind {
            Kind::Call { tenant, origin, .. } => call_attributes(tenant, origin),
            Kind::Stranger => Vec::new(),
            Kind::Item { number, .. } => vec![KeyValue::new("babelward.item", count(*number))],
        };
        trace.end(SpanEnding {
            at,
            code: code_name(ending.code),
            is_fault: is_fault(ending.code),
            reason: ending.reason.map(Reason::name),
            tally: ending.tally,
            attributes,
        });
        if let Kind::Item { of, .. } = &self.kind
            && let Some(of) = &of.trace
        {
            of.end_work(at);
        }
    }
}

/// What a call's span says of where the call comes from.
fn call_attributes(tenant: &Tenant, origin: &CallOrigin) -> Vec<KeyValue> {
    let mut attributes = vec![KeyValue::new(
        "babelward.request_id",
        Arc::clone(&origin.request_id),
    )];
    if !tenant.is_unnamed() {
        attributes.push(KeyValue::new("babelward.tenant", tenant.to_string()));
    }
    if let Some(peer) = origin.peer {
        attributes.push(KeyValue::new("network.peer.address", peer.ip().to_string()));
        attributes.push(KeyValue::new("network.peer.port", i64::from(peer.port())));
    }
    attributes
}

/// Whether a status code says that the server has failed and not its caller, by OpenTelemetry's conventions for gRPC.
fn is_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.finished.load(Ordering::Acquire) {
            if self.deadline.has_passed() {
                self.fail(&ServiceError::Deadline { stage: Stage::Queue });
            } else {
                self.fail(&ServiceError::ClientCancelled);
            }
        }
        if let Kind::Call { in_flight, .. } = &mut self.kind {
            drop(in_flight.take());
        }
    }
}

fn count_deadline(stage: &'static str) {
    metrics::counter!("babelward_deadline_exceeded_total", "stage" => stage).increment(1);
}

/// The number of calls in flight, which a drain waits for.
#[derive(Clone)]
pub(crate) struct InFlightCount(Arc<watch::Sender<usize>>);

impl InFlightCount {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// Counts one call until the result is dropped.
    pub(crate) fn begin(&self) -> InFlight {
        self.0.send_modify(|count| *count += 1);
        InFlight(self.clone())
    }

    /// Resolves when no call is in flight.
    pub(crate) async fn wait_for_none(&self) {
        let mut count = self.0.subscribe();
        // The sender is in `self`, so this cannot fail.
        let _ = count.wait_for(|count| *count == 0).await;
    }
}

/// One call in flight, counted until it is dropped.
pub(crate) struct InFlight(InFlightCount);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}
