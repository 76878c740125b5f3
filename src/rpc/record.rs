//! Counts each call and each item exactly once, in the metrics and in the access log, and counts the calls in flight.

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
    access::{CallEnding, Tally, known_model},
    clock::now,
    deadline::Deadline,
    error::ServiceError,
    method::Method,
    status::{Reason, stage_name},
};
use crate::{
    engine::{Stage, Tenant},
    registry::Registry,
    status_code::code_name,
};

/// What a record counts.
enum Kind {
    Call {
        tenant: Tenant,
        /// Dropped with the record. A drain waits for it.
        in_flight: Option<InFlight>,
    },
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
}

impl Record {
    /// The record of a call. A drain waits for it only if it has `in_flight`.
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
            began: now(),
            deadline,
            finished: AtomicBool::new(false),
            tally: Mutex::default(),
        })
    }

    /// The record of an item of a stream or batch; `number` is its number among the items of its call, from 0.
    pub(crate) fn item(of: &Arc<Self>, number: u64, deadline: Deadline) -> Arc<Self> {
        Arc::new(Self {
            kind: Kind::Item {
                of: Arc::clone(of),
                number,
            },
            method: of.method,
            span: of.span.clone(),
            began: now(),
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
        let total = now().saturating_duration_since(self.began);
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
        let ending = CallEnding {
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
