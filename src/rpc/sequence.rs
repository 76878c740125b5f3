//! A sequence on the engine, as a service uses it: it receives the events, turns failures into typed errors, and cancels
//! the sequence when it is dropped.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    access::{SequenceTimes, millis},
    call::Call,
    call_trace::SequenceTrace,
    clock::now,
    deadline::Deadline,
    entrance::Credential,
    error::ServiceError,
    limits::{Limits, TimeLimits},
    record::Record,
    shadow_log::ShadowLog,
    text_work::{TextSize, TextWork},
    verdict_counts::VerdictCounts,
};
use crate::{
    auth::{Quotas, Scope, TokenReservation},
    engine::{CancelFlag, Event, OutputSpec, PrefixKeeper, Priority, SequenceRequest, Stage, Tenant},
    guard::DecisionSet,
    proto,
    registry::{Lease, Registry},
    text::Watch,
};

/// What all services share.
pub(crate) struct Shared {
    pub(crate) registry: Arc<Registry>,
    pub(crate) limits: Limits,
    pub(crate) times: TimeLimits,
    /// Turns texts into tokens.
    pub(crate) texts: TextWork,
    /// Whether clients may load, unload and pin models.
    pub(crate) allow_admin: bool,
    /// How much each tenant may ask for.
    pub(crate) quotas: Quotas,
    /// What is done about verdicts.
    pub(crate) decisions: DecisionSet,
    /// What decision policies went without.
    pub(crate) shadow_log: ShadowLog,
    /// Verdicts since the server started.
    pub(crate) verdicts: VerdictCounts,
    /// Cancelled when the server accepts no new work.
    pub(crate) draining: CancellationToken,
    /// Cancelled when the grace period of the drain is over, and open work must end.
    pub(crate) stopping: CancellationToken,
}

impl Shared {
    /// Refuses new work while the server drains, and before its eager models are loaded.
    pub(crate) fn admit(&self) -> Result<(), ServiceError> {
        if self.draining.is_cancelled() || self.registry.is_draining() {
            return Err(ServiceError::draining());
        }
        match self.registry.starting() {
            Some(progress) => Err(ServiceError::loading(progress)),
            None => Ok(()),
        }
    }

    /// Counts an item of a batch or stream as a request of its tenant.
    pub(crate) fn count_request(&self, tenant: &Tenant) -> Result<(), ServiceError> {
        let counted = self.quotas.take_request(tenant, now());
        counted.map_err(ServiceError::quota)
    }
}

/// What accompanies one unit of work to the engine.
#[derive(Clone)]
pub(crate) struct WorkContext {
    pub(crate) shared: Arc<Shared>,
    pub(crate) deadline: Deadline,
    pub(crate) priority: Priority,
    pub(crate) tenant: Tenant,
    /// What the caller has shown, where there is authentication.
    pub(crate) credential: Option<Credential>,
    /// The record of the call or item that the work is for.
    pub(crate) record: Arc<Record>,
    /// Keeps prompts of a growing text in the prefix cache from one look to the next.
    pub(crate) keeper: Option<PrefixKeeper>,
}

impl WorkContext {
    /// The context for the work of a call, with the class that the call has by default.
    pub(crate) fn of(shared: &Arc<Shared>, call: &Call, priority: Priority) -> Self {
        Self {
            shared: Arc::clone(shared),
            deadline: call.deadline,
            priority,
            tenant: call.tenant.clone(),
            credential: call.credential.clone(),
            record: Arc::clone(&call.record),
            keeper: None,
        }
    }

    /// Checks that the caller may do this too, besides what its call is for.
    pub(crate) fn check_scope(&self, needs: &'static [Scope]) -> Result<(), ServiceError> {
        let checked = |credential: &Credential| credential.check_scope(needs);
        self.credential.as_ref().map_or(Ok(()), checked)
    }

    /// The context for looks at a text that this work writes. A text of a caller who waits is held up by each of them, so they
    /// are as urgent as verdicts.
    pub(crate) fn for_looks(&self) -> Self {
        Self {
            priority: match self.priority {
                Priority::Urgent | Priority::Interactive => Priority::Urgent,
                Priority::Batch => Priority::Batch,
            },
            ..self.clone()
        }
    }

    /// The context for an item of the call.
    pub(crate) fn item(&self, record: &Arc<Record>) -> Self {
        Self {
            record: Arc::clone(record),
            ..self.clone()
        }
    }

    /// Waits for a turn, and runs work on a text of this size.
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

    /// The context with the class that a request names; `interactive` is the class for interactive requests of this call.
    pub(crate) fn prioritised(mut self, requested: proto::Priority, interactive: Priority) -> Self {
        self.priority = match requested {
            proto::Priority::Unspecified => self.priority,
            proto::Priority::Interactive => interactive,
            proto::Priority::Batch => Priority::Batch,
        };
        self
    }
}

/// An open sequence. Dropping it cancels the sequence, and the engine releases its KV blocks.
pub(crate) struct Sequence {
    events: mpsc::Receiver<Event>,
    cancel: CancelOnDrop,
    entry: Lease,
    shared: Arc<Shared>,
    deadline: Pin<Box<dyn Future<Output = ()> + Send>>,
    stage: Stage,
    admitted: Instant,
    record: Arc<Record>,
    /// When its first forward pass began.
    began: Option<Instant>,
    /// When its prompt was computed.
    prompt_done: Option<Instant>,
    ended: bool,
    /// Its number among the sequences of its call or item, from 0; that of a call which is not traced is always 0.
    number: u64,
    class: Priority,
    prompt_tokens: usize,
    cached_tokens: usize,
    answer_tokens: usize,
    /// Tokens of the tenant's quota for the prompt and the longest answer.
    reserved: TokenReservation,
    /// Tokens of the answer that the engine has computed, whether or not the client has read them.
    computed: Arc<AtomicUsize>,
}

impl Sequence {
    /// Queues a prompt. `field` is the field of the request that it comes from, which errors name.
    pub(crate) fn submit(
        context: &WorkContext,
        entry: &Lease,
        prompt: Vec<u32>,
        output: OutputSpec,
        field: &str,
    ) -> Result<Self, ServiceError> {
        // The channel has room for Started, Probe, Row, all tokens and the last event, so that it is never full.
        let (sender, events) = mpsc::channel(output.max_new_tokens.saturating_add(4));
        let cancel = CancelOnDrop(CancelFlag::default());
        let most_tokens = prompt.len().saturating_add(output.max_new_tokens);
        let reserved = context
            .shared
            .quotas
            .reserve_tokens(&context.tenant, most_tokens, now());
        let mut reserved = reserved.map_err(ServiceError::quota)?;
        let computed = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&computed);
        let request = SequenceRequest {
            model: entry.resident.index,
            adapter: entry.adapter.as_ref().map(|adapter| adapter.index),
            prompt,
            output,
            priority: context.priority,
            tenant: context.tenant.clone(),
            deadline: context.deadline.instant(),
            cancel: cancel.0.clone(),
            events: Box::new(move |event| {
                if matches!(event, Event::Token(_)) {
                    counted.fetch_add(1, Ordering::AcqRel);
                }
                sender.try_send(event).is_ok()
            }),
            keeper: context.keeper.clone(),
            span: context.record.span().clone(),
        };
        let (admitted, prompt_tokens) = (now(), request.prompt.len());
        let registry = &context.shared.registry;
        let (model, class) = (entry.id.as_str(), context.priority.name());
        entry.resident.engine.submit(request).map_err(|error| {
            let error = ServiceError::from_submit(error, field, entry.resident.device.name);
            if error.is_model_fault() {
                registry.record_fault(entry);
            }
            let reason = error.reason().name();
            tracing::debug!(
                model,
                prompt_tokens,
                class,
                reason,
                "the engine refused a sequence"
            );
            error
        })?;
        reserved.use_tokens(prompt_tokens);
        context.record.note(|tally| tally.add_sequence(prompt_tokens));
        let number = context.record.trace().map(|trace| trace.begin_work(admitted));
        tracing::debug!(model, prompt_tokens, class, "a sequence is queued");
        Ok(Self {
            events,
            cancel,
            entry: entry.clone(),
            shared: Arc::clone(&context.shared),
            deadline: Box::pin(context.deadline.passed()),
            stage: Stage::Queue,
            admitted,
            record: Arc::clone(&context.record),
            began: None,
            prompt_done: None,
            ended: false,
            number: number.unwrap_or_default(),
            class: context.priority,
            prompt_tokens,
            cached_tokens: 0,
            answer_tokens: 0,
            reserved,
            computed,
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
            Some(Event::Failed(error)) => {
                let device = self.entry.resident.device.name;
                Err(self.failed(ServiceError::from_sequence(error, device)))
            }
            // The engine has dropped the sequence without an event, so it is gone.
            None => Err(self.failed(ServiceError::ModelFailed)),
            Some(event) => {
                self.follow(&event);
                Ok(event)
            }
        }
    }

    /// Updates the stage and the totals of the call.
    fn follow(&mut self, event: &Event) {
        match event {
            Event::Started { queue, cached_tokens } => {
                self.stage = Stage::Prefill;
                self.began = Some(now());
                self.cached_tokens = *cached_tokens;
                self.record.note(|tally| tally.add_cached_tokens(*cached_tokens));
                let (model, queue_ms) = (self.entry.id.as_str(), millis(*queue));
                tracing::debug!(model, queue_ms, cached_tokens, "prefill begins");
            }
            Event::Probe(_) | Event::Score(_) | Event::Token(_) => {
                self.stage = Stage::Decode;
                if self.prompt_done.is_none() {
                    self.prompt_done = Some(now());
                    self.record.note_first_token();
                }
                if matches!(event, Event::Token(_)) {
                    self.answer_tokens += 1;
                    self.record.note(|tally| tally.add_answer_token());
                }
            }
            Event::Finished(summary) => {
                self.shared.registry.record_answer(&self.entry);
                self.ended = true;
                let times = SequenceTimes::from(summary);
                self.end_times(times);
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

    /// Adds the times of the sequence, which has ended, to the totals and to the trace of the call.
    fn end_times(&self, times: SequenceTimes) {
        self.record.note(|tally| tally.add_times(times));
        if let Some(trace) = self.record.trace() {
            trace.end_sequence(&SequenceTrace {
                number: self.number,
                model: &self.entry.id,
                class: self.class.name(),
                admitted: self.admitted,
                times,
                reached: self.stage,
                prompt_tokens: self.prompt_tokens,
                cached_tokens: self.cached_tokens,
                answer_tokens: self.answer_tokens,
            });
        }
    }

    fn failed(&self, error: ServiceError) -> ServiceError {
        if error.is_model_fault() {
            self.shared.registry.record_fault(&self.entry);
            tracing::error!(model = %self.entry.id, error = ?error, "a sequence failed");
        }
        error
    }

    /// Asks the engine to end the answer where it is. [`Event::Finished`] comes once its blocks are free, at most one step later;
    /// until then there may be tokens of the step that is under way.
    pub(crate) fn cut(&self) {
        self.cancel.0.cut();
    }

    /// Tokens of the answer that the engine has computed, whether or not they have been received here.
    pub(crate) fn computed_tokens(&self) -> usize {
        self.computed.load(Ordering::Acquire)
    }

    /// Time since it was queued.
    pub(crate) fn elapsed(&self) -> Duration {
        now().saturating_duration_since(self.admitted)
    }
}

impl Drop for Sequence {
    /// A sequence that ends early adds its times to the totals too.
    fn drop(&mut self) {
        self.reserved.use_tokens(self.computed_tokens());
        if self.ended {
            return;
        }
        let now = now();
        let began = self.began.unwrap_or(now);
        let prompt_done = self.prompt_done.unwrap_or(now);
        let times = SequenceTimes {
            queue: began.saturating_duration_since(self.admitted),
            prefill: prompt_done.saturating_duration_since(began),
            decode: now.saturating_duration_since(prompt_done),
        };
        self.end_times(times);
    }
}

struct CancelOnDrop(CancelFlag);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
