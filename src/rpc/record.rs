//! Counting: each call and each item once, and how many calls are in flight.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tokio::sync::watch;
use tonic::Code;

use super::{call::Method, deadline::Deadline, error::ServiceError, status::stage_name};
use crate::engine::Stage;

/// What a record counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Call,
    Item,
}

/// Counts a call, or an item of a stream or batch, exactly once: with the code it was finished with, or as
/// cancelled when it is dropped before (its client is gone).
pub(crate) struct Record {
    kind: Kind,
    method: Method,
    began: Instant,
    deadline: Deadline,
    finished: AtomicBool,
    /// Dropped with the record: what a drain waits for.
    in_flight: Option<InFlight>,
}

impl Record {
    /// For a call; one that a drain does not wait for has no `in_flight`.
    pub(crate) fn call(method: Method, deadline: Deadline, in_flight: Option<InFlight>) -> Self {
        Self {
            kind: Kind::Call,
            method,
            began: Instant::now(),
            deadline,
            finished: AtomicBool::new(false),
            in_flight,
        }
    }

    /// For an item of a stream or batch.
    pub(crate) fn item(method: Method, deadline: Deadline) -> Self {
        Self {
            kind: Kind::Item,
            method,
            began: Instant::now(),
            deadline,
            finished: AtomicBool::new(false),
            in_flight: None,
        }
    }

    /// Counts it, unless it was counted already.
    pub(crate) fn finish(&self, code: Code) {
        if self.finished.swap(true, Ordering::AcqRel) {
            return;
        }
        let method = self.method.name();
        let code_name = code_name(code);
        match self.kind {
            Kind::Call => {
                metrics::counter!("babelward_requests_total", "method" => method, "code" => code_name)
                    .increment(1);
                metrics::histogram!("babelward_request_seconds", "method" => method)
                    .record(self.began.elapsed().as_secs_f64());
            }
            Kind::Item => {
                metrics::counter!("babelward_items_total", "method" => method, "code" => code_name)
                    .increment(1);
            }
        }
        if code == Code::Cancelled {
            metrics::counter!("babelward_cancelled_total", "method" => method).increment(1);
        }
    }

    /// Counts a failure.
    pub(crate) fn fail(&self, error: &ServiceError) {
        match error {
            ServiceError::Deadline { stage } => count_deadline(stage_name(*stage)),
            ServiceError::DeadlineUnattainable { .. } => count_deadline("admission"),
            _ => {}
        }
        self.finish(error.code());
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.finished.load(Ordering::Acquire) {
            return;
        }
        if self.deadline.has_passed() {
            count_deadline(stage_name(Stage::Queue));
            self.finish(Code::DeadlineExceeded);
        } else {
            self.finish(Code::Cancelled);
        }
        drop(self.in_flight.take());
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
