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
    access::{Times, millis},
    call::Call,
    deadline::Deadline,
    error::ServiceError,
    limits::{Limits, TimeLimits},
    record::Record,
    text_work::{TextSize, TextWork},
};
use crate::{
    engine::{CancelFlag, Event, OutputSpec, Priority, SequenceRequest, Stage, Tenant},
    proto,
    registry::{Lease, Registry},
    text::Watch,
};

/// What all handlers share.
pub(crate) struct Shared {
    pub(crate) registry: Arc<Registry>,
    pub(crate) limits: Limits,
    pub(crate) times: TimeLimits,
    /// Where texts become tokens.
    pub(crate) texts: TextWork,
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
    /// Of the call or item that the work is for.
    pub(crate) record: Arc<Record>,
}

impl WorkContext {
    /// For the work of a call, of its class unless the request says otherwise.
    pub(crate) fn of(shared: &Arc<Shared>, call: &Call, priority: Priority) -> Self {
        Self {
            shared: Arc::clone(shared),
            deadline: call.deadline,
            priority,
            tenant: call.tenant.clone(),
            record: Arc::clone(&call.record),
        }
    }

    /// For an item of the call.
    pub(crate) fn item(&self, record: &Arc<Record>) -> Self {
        Self {
            record: Arc::clone(record),
            ..self.clone()
        }
    }

    /// Runs work on a text of this size, when its turn comes.
    pub(crate) async fn with_text<T: Send + 'static>(
        &self,
        size: TextSize,
        work: impl FnOnce(&Watch) -> Result<T, ServiceError> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let shared = &self.shared;
        shared
            .texts
            .run(size, self.deadline, &shared.stopping, work)
            .await
    }

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
    record: Arc<Record>,
    /// When its first forward pass began, and when its prompt was done.
    began: Option<Instant>,
    prompted: Option<Instant>,
    ended: bool,
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
        let (admitted, prompt_tokens) = (Instant::now(), request.prompt.len());
        let registry = &context.shared.registry;
        let (model, class) = (entry.id.as_str(), context.priority.name());
        entry.resident.engine.submit(request).map_err(|error| {
            let error = ServiceError::from_submit(error, field);
            if error.is_model_fault() {
                registry.record_fault(entry);
            }
            let reason = error.reason().name();
            tracing::debug!(
                model,
                prompt_tokens,
                class,
                reason,
                "the engine takes no such sequence"
            );
            error
        })?;
        context.record.note(|tally| tally.queue(prompt_tokens));
        tracing::debug!(model, prompt_tokens, class, "a sequence waits for the engine");
        Ok(Self {
            events,
            _cancel: cancel,
            entry: entry.clone(),
            shared: Arc::clone(&context.shared),
            deadline: Box::pin(context.deadline.passed()),
            stage: Stage::Queue,
            admitted,
            record: Arc::clone(&context.record),
            began: None,
            prompted: None,
            ended: false,
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
                self.follow(&event);
                Ok(event)
            }
        }
    }

    fn follow(&mut self, event: &Event) {
        match event {
            Event::Started { queue, cached_tokens } => {
                self.stage = Stage::Prefill;
                self.began = Some(Instant::now());
                self.record.note(|tally| tally.find_cached(*cached_tokens));
                let (model, queue_ms) = (self.entry.id.as_str(), millis(*queue));
                tracing::debug!(model, queue_ms, cached_tokens, "prefill begins");
            }
            Event::Probe(_) | Event::Score(_) | Event::Token(_) => {
                self.stage = Stage::Decode;
                self.prompted.get_or_insert_with(Instant::now);
                if matches!(event, Event::Token(_)) {
                    self.record.note(|tally| tally.answer());
                }
            }
            Event::Finished(summary) => {
                self.shared.registry.record_answer(&self.entry);
                self.ended = true;
                let times = Times::from(summary);
                self.record.note(|tally| tally.spend(times));
                tracing::debug!(
                    model = self.entry.id.as_str(),
                    answer_tokens = summary.completion_tokens,
                    forward_passes = summary.forward_passes,
                    max_batch_size = summary.max_batch_size,
                    prefill_ms = millis(times.prefill),
                    decode_ms = millis(times.decode),
                    "a sequence is complete"
                );
            }
            Event::Failed(_) => {}
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

impl Drop for Sequence {
    /// One that ends early has taken its time as well.
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let now = Instant::now();
        let began = self.began.unwrap_or(now);
        let prompted = self.prompted.unwrap_or(now);
        let times = Times {
            queue: began.saturating_duration_since(self.admitted),
            prefill: prompted.saturating_duration_since(began),
            decode: now.saturating_duration_since(prompted),
        };
        self.record.note(|tally| tally.spend(times));
    }
}

struct CancelOnDrop(CancelFlag);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
