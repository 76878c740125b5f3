//! Counting: each call and each item once, in the metrics and in the access log, and how many calls are in flight.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tokio::sync::watch;
use tonic::Code;
use tracing::Span;

use super::{
    access::{Ending, Tally, known_model},
    call::Method,
    deadline::Deadline,
    error::ServiceError,
    status::{Reason, stage_name},
};
use crate::{
    engine::{Stage, Tenant},
    registry::Registry,
};

/// What a record counts.
enum Kind {
    Call {
        tenant: Tenant,
        /// Dropped with the record: what a drain waits for.
        in_flight: Option<InFlight>,
    },
    Item {
        /// Its call, which therefore is counted after it.
        of: Arc<Record>,
        /// Its place among the call's items, from 0. Its id is the caller's text.
        number: u64,
    },
}

/// Counts and logs a call, or an item of a stream or batch, exactly once: with the code it was finished with, or
/// as cancelled when it is dropped before (its client is gone).
pub(crate) struct Record {
    kind: Kind,
    method: Method,
    /// The call's.
    span: Span,
    began: Instant,
    deadline: Deadline,
    finished: AtomicBool,
    tally: Mutex<Tally>,
}

impl Record {
    /// For a call; one that a drain does not wait for has no `in_flight`.
    pub(crate) fn call(
        method: Method,
        span: Span,
        deadline: Deadline,
        tenant: Tenant,
        in_flight: Option<InFlight>,
    ) -> Arc<Self> {
        Arc::new(Self {
            kind: Kind::Call { tenant, in_flight },
            method,
            span,
            began: Instant::now(),
            deadline,
            finished: AtomicBool::new(false),
            tally: Mutex::default(),
        })
    }

    /// For an item of a stream or batch; `number` is its place among the items of its call.
    pub(crate) fn item(of: &Arc<Self>, number: u64, deadline: Deadline) -> Arc<Self> {
        Arc::new(Self {
            kind: Kind::Item {
                of: Arc::clone(of),
                number,
            },
            method: of.method,
            span: of.span.clone(),
            began: Instant::now(),
            deadline,
            finished: AtomicBool::new(false),
            tally: Mutex::default(),
        })
    }

    /// Which call it is, or of which call an item.
    pub(crate) fn method(&self) -> Method {
        self.method
    }

    /// The span of the call.
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    /// Notes what the call or item has done; what an item does, its call does.
    pub(crate) fn note(&self, done: impl Fn(&mut Tally)) {
        done(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
        if let Kind::Item { of, .. } = &self.kind {
            of.note(done);
        }
    }

    /// Notes the model that a request names; none for an empty id.
    pub(crate) fn note_asked(&self, registry: &Registry, id: &str) {
        if let Some(model) = known_model(registry, id) {
            self.note(|tally| tally.use_model(model));
        }
    }

    /// Counts it, unless it was counted already.
    pub(crate) fn finish(&self, code: Code) {
        self.end(code, None);
    }

    /// Counts a failure.
    pub(crate) fn fail(&self, error: &ServiceError) {
        match error {
            ServiceError::Deadline { stage } => count_deadline(stage_name(*stage)),
            ServiceError::DeadlineUnattainable { .. } => count_deadline("admission"),
            _ => {}
        }
        let reason = error.reason();
        self.end(reason.code(), Some(reason));
    }

    fn end(&self, code: Code, reason: Option<Reason>) {
        if self.finished.swap(true, Ordering::AcqRel) {
            return;
        }
        let method = self.method.name();
        let code_name = code_name(code);
        let total = self.began.elapsed();
        if code == Code::Cancelled {
            metrics::counter!("babelward_cancelled_total", "method" => method).increment(1);
        }
        match &self.kind {
            Kind::Call { .. } => {
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
        let ending = Ending {
            code,
            reason,
            total,
            tally: &self.tally.lock().unwrap_or_else(PoisonError::into_inner),
        };
        match &self.kind {
            Kind::Call { tenant, .. } => {
                let named = (!tenant.is_unnamed()).then_some(tenant as &dyn fmt::Display);
                ending.log_call(&self.span, named);
            }
            Kind::Item { number, .. } => ending.log_item(&self.span, *number),
        }
    }
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

/// As in the gRPC specification.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Number of calls in flight, to wait for.
#[derive(Clone)]
pub(crate) struct InFlightCount(Arc<watch::Sender<usize>>);

impl InFlightCount {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// Counts one call until the result is dropped.
    pub(crate) fn enter(&self) -> InFlight {
        self.0.send_modify(|count| *count += 1);
        InFlight(self.clone())
    }

    /// Resolves when there is none.
    pub(crate) async fn none(&self) {
        let mut count = self.0.subscribe();
        // The sender is in `self`, so this cannot fail.
        let _ = count.wait_for(|count| *count == 0).await;
    }
}

/// One call in flight.
pub(crate) struct InFlight(InFlightCount);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}
