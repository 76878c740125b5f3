//! A sequence on the engine, as a request sees it: events in, errors typed, cancelled when dropped.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    deadline::Deadline,
    error::ServiceError,
    limits::{Limits, TimeLimits},
};
use crate::{
    engine::{CancelFlag, Event, OutputSpec, Priority, SequenceRequest, Stage, Tenant},
    proto,
    registry::{Lease, Registry},
};

/// Text of more bytes than this is tokenised on a blocking thread.
const INLINE_BYTES: usize = 8 << 10;

/// What all handlers share.
pub(crate) struct Shared {
    pub(crate) registry: Arc<Registry>,
    pub(crate) limits: Limits,
    pub(crate) times: TimeLimits,
    /// Whether clients may load, unload and pin models.
    pub(crate) allow_admin: bool,
    /// Set when the server takes nothing new.
    pub(crate) draining: CancellationToken,
    /// Set when the drain's grace is over: open work ends now.
    pub(crate) stopping: CancellationToken,
}

impl Shared {
    /// Refuses new work while draining, and before the models that are loaded at the start are ready.
    pub(crate) fn admit(&self) -> Result<(), ServiceError> {
        if self.draining.is_cancelled() || self.registry.is_draining() {
            return Err(ServiceError::draining());
        }
        match self.registry.starting() {
            Some(progress) => Err(ServiceError::loading(progress)),
            None => Ok(()),
        }
    }
}

/// What accompanies one unit of work into the engine.
#[derive(Clone)]
pub(crate) struct WorkContext {
    pub(crate) shared: Arc<Shared>,
    pub(crate) deadline: Deadline,
    pub(crate) priority: Priority,
    pub(crate) tenant: Tenant,
}

impl WorkContext {
    /// With the class that a request asks for: the call's own, `interactive`, or batch.
    pub(crate) fn prioritised(mut self, requested: proto::Priority, interactive: Priority) -> Self {
        self.priority = match requested {
            proto::Priority::Unspecified => self.priority,
            proto::Priority::Interactive => interactive,
            proto::Priority::Batch => Priority::Batch,
        };
        self
    }
}

/// An open sequence. Dropping it stops the engine's work on it and frees its KV blocks.
pub(crate) struct Sequence {
    events: mpsc::Receiver<Event>,
    _cancel: CancelOnDrop,
    entry: Lease,
    shared: Arc<Shared>,
    deadline: Pin<Box<dyn Future<Output = ()> + Send>>,
    stage: Stage,
    admitted: Instant,
}

impl Sequence {
    /// Queues a prompt. `field` names where it came from, for errors that concern it.
    pub(crate) fn submit(
        context: &WorkContext,
        entry: &Lease,
        prompt: Vec<u32>,
        output: OutputSpec,
        field: &str,
    ) -> Result<Self, ServiceError> {
        // Started, Probe, the tokens, and the end: the engine never finds the channel full.
        let (sender, events) = mpsc::channel(output.max_new_tokens.saturating_add(4));
        let cancel = CancelOnDrop(CancelFlag::default());
        let request = SequenceRequest {
            model: entry.resident.index,
            adapter: entry.adapter.as_ref().map(|adapter| adapter.index),
            prompt,
            output,
            priority: context.priority,
            tenant: context.tenant.clone(),
            deadline: context.deadline.instant(),
            cancel: cancel.0.clone(),
            events: Box::new(move |event| sender.try_send(event).is_ok()),
        };
        let admitted = Instant::now();
        let registry = &context.shared.registry;
        registry.engine().submit(request).map_err(|error| {
            let error = ServiceError::from_submit(error, field);
            if error.is_model_fault() {
                registry.record_fault(entry);
            }
            error
        })?;
        Ok(Self {
            events,
            _cancel: cancel,
            entry: entry.clone(),
            shared: Arc::clone(&context.shared),
            deadline: Box::pin(context.deadline.passed()),
            stage: Stage::Queue,
            admitted,
        })
    }

    /// The next event, never [`Event::Failed`]. After [`Event::Finished`] there is none.
    pub(crate) async fn next(&mut self) -> Result<Event, ServiceError> {
        let event = tokio::select! {
            biased;
            event = self.events.recv() => event,
            () = &mut self.deadline => return Err(ServiceError::Deadline { stage: self.stage }),
            () = self.shared.stopping.cancelled() => return Err(ServiceError::draining()),
        };
        match event {
            Some(Event::Failed(error)) => Err(self.failed(error.into())),
            // The engine dropped the sequence without a word: it is gone.
            None => Err(self.failed(ServiceError::ModelFailed)),
            Some(event) => {
                match &event {
                    Event::Started { .. } => self.stage = Stage::Prefill,
                    Event::Probe(_) | Event::Row(_) | Event::Token(_) => self.stage = Stage::Decode,
                    Event::Finished(_) => self.shared.registry.record_answer(&self.entry),
                    Event::Failed(_) => {}
                }
                Ok(event)
            }
        }
    }

    fn failed(&self, error: ServiceError) -> ServiceError {
        if error.is_model_fault() {
            self.shared.registry.record_fault(&self.entry);
            tracing::error!(model = %self.entry.id, error = ?error, "a sequence failed");
        }
        error
    }

    /// Time since it was queued.
    pub(crate) fn elapsed(&self) -> Duration {
        self.admitted.elapsed()
    }
}

struct CancelOnDrop(CancelFlag);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Runs tokenisation and templates: small texts in place, large ones on a blocking thread, where they do not
/// hold up other calls.
pub(crate) async fn with_text<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, ServiceError> {
    if bytes <= INLINE_BYTES {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(ServiceError::TextFault),
    }
}
