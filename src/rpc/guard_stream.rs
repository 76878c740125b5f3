//! GuardStream: a guard looks at a text while it grows, and a watermark says how much of it may be shown.
//!
//! One task (that of the call's HTTP/2 response) reads messages, makes one look after another, and writes events. It reads on
//! without bound only while no look is due; behind a look at most [`AHEAD_BYTES`] of the text and a chunk are kept, and what the
//! client sends beyond that waits in the transport. Nothing is released to make room.
//!
//! Where the looks are and what they mean is decided in [`crate::guard`]; a look itself is an ordinary Classify.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use futures::{FutureExt as _, future::BoxFuture, stream};
use tokio::time::{Instant, Sleep, sleep};
use tonic::{Request, Response, Status, Streaming, codegen::BoxStream};

use super::{
    call::{Call, ReceivedMessage},
    error::ServiceError,
    judge::{judge, retry_when_full},
    label::label,
    sequence::{Shared, WorkContext},
    transport::HeldBytes,
    validate::{self, ClassifyWork, GuardWork, ValidationContext},
};
use crate::{
    engine::{Priority, Stage},
    guard::{Course, GrowingText, LookOutcome, LookPlanner, LookStage, NotUtf8, Release},
    proto::{
        self, GuardEnded, GuardStreamRequest, GuardStreamResponse, guard_ended::Reason, guard_look,
        guard_stream_request, guard_stream_response::Event,
    },
    text::ChatMessage,
};

/// Bytes of the text behind the last look at which reading stops while another look is due. One more chunk may have been read.
const AHEAD_BYTES: usize = 16 << 10;

/// Serves one stream.
pub(super) fn drive(
    shared: &Arc<Shared>,
    request: Request<Streaming<GuardStreamRequest>>,
) -> Result<Response<BoxStream<GuardStreamResponse>>, Status> {
    let call = Call::of(&request)?;
    shared.admit().map_err(|error| call.fail(&error))?;
    let driver = Driver {
        shared: Arc::clone(shared),
        call: call.clone(),
        incoming: Some(request.into_inner()),
        guarding: None,
        outbox: VecDeque::new(),
        over: None,
        held: Vec::new(),
        idle: Box::pin(sleep(shared.times.stream_idle)),
        heartbeat: Box::pin(sleep(shared.times.guard_heartbeat)),
    };
    let responses = stream::unfold(Some(driver), |driver| async move {
        let mut driver = driver?;
        let answer = driver.next().await?;
        // Nothing follows an error.
        let driver = answer.is_ok().then_some(driver);
        Some((answer, driver))
    });
    Ok(call.stream(responses))
}

/// How the call ends once its last events are sent.
enum Over {
    Well,
    Badly(Status),
}

struct Driver {
    shared: Arc<Shared>,
    call: Call,
    /// `None` after the client has closed its half of the stream.
    incoming: Option<Streaming<GuardStreamRequest>>,
    /// `None` before the start, and after the end.
    guarding: Option<Guarding>,
    outbox: VecDeque<Event>,
    over: Option<Over>,
    /// Bytes of the memory for requests, of the start and of the text.
    held: Vec<HeldBytes>,
    /// Runs while the client is waited for, from the last message or look on.
    idle: Pin<Box<Sleep>>,
    /// Runs while text is held back, from the last event on.
    heartbeat: Pin<Box<Sleep>>,
}

/// What has happened.
enum Happening {
    Message(Result<Option<GuardStreamRequest>, Status>),
    Looked(Box<Result<proto::Verdict, ServiceError>>),
    Failed(ServiceError),
    Heartbeat,
}

impl Driver {
    /// The next answer; `None` at the end.
    async fn next(&mut self) -> Option<Result<GuardStreamResponse, Status>> {
        loop {
            if let Some(event) = self.outbox.pop_front() {
                self.restart_heartbeat();
                return Some(Ok(GuardStreamResponse { event: Some(event) }));
            }
            match self.over.take() {
                Some(Over::Well) => return None,
                Some(Over::Badly(status)) => return Some(Err(status)),
                None => {}
            }
            if let Some(guarding) = &mut self.guarding {
                guarding.begin_look();
            }
            match self.happening().await {
                Happening::Message(Ok(message)) => {
                    let was_holding = self.is_holding();
                    self.restart_idle_time();
                    if let Err(error) = self.on_message(message).await {
                        self.fail(&error);
                    }
                    if !was_holding {
                        self.restart_heartbeat();
                    }
                }
                // The body or the decoder has refused the message; in the first case the call is counted already.
                Happening::Message(Err(status)) => {
                    self.retract();
                    self.call.end_with(&status);
                    self.over = Some(Over::Badly(status));
                    self.end_guarding("refused");
                }
                Happening::Looked(result) => {
                    self.restart_idle_time();
                    self.on_look(*result);
                }
                Happening::Failed(error) => self.fail(&error),
                Happening::Heartbeat => self.beat(),
            }
        }
    }

    /// Waits for the next thing to happen.
    async fn happening(&mut self) -> Happening {
        let is_holding = self.is_holding();
        let (look, reads) = match &mut self.guarding {
            Some(guarding) => {
                let reads = guarding.reads();
                (guarding.look.as_mut(), reads)
            }
            None => (None, true),
        };
        let is_looking = look.is_some();
        tokio::select! {
            biased;
            // First, because a look knows at which stage a deadline found it.
            verdict = finished(look), if is_looking => Happening::Looked(Box::new(verdict)),
            () = self.call.deadline.passed() => {
                Happening::Failed(ServiceError::Deadline { stage: Stage::Queue })
            }
            () = self.shared.stopping.cancelled() => Happening::Failed(ServiceError::draining()),
            message = receive(&mut self.incoming), if reads => Happening::Message(message),
            () = &mut self.idle, if !is_looking => {
                Happening::Failed(ServiceError::StreamIdle { limit: self.shared.times.stream_idle })
            }
            () = &mut self.heartbeat, if is_holding => Happening::Heartbeat,
        }
    }

    /// Whether text has come that is not released.
    fn is_holding(&self) -> bool {
        let holds = |guarding: &Guarding| guarding.text.received() > guarding.release.released();
        self.guarding.as_ref().is_some_and(holds)
    }

    fn restart_idle_time(&mut self) {
        let limit = self.shared.times.stream_idle;
        self.idle.as_mut().reset(Instant::now() + limit);
    }

    fn restart_heartbeat(&mut self) {
        let pause = self.shared.times.guard_heartbeat;
        self.heartbeat.as_mut().reset(Instant::now() + pause);
    }

    fn beat(&mut self) {
        if let Some(guarding) = &self.guarding {
            self.outbox.push_back(Event::Heartbeat(proto::GuardHeartbeat {
                received_bytes: guarding.text.received() as u64,
                released_bytes: guarding.release.released() as u64,
            }));
        }
    }

    async fn on_message(&mut self, message: Option<GuardStreamRequest>) -> Result<(), ServiceError> {
        let Some(message) = message else {
            self.incoming = None;
            return match &self.guarding {
                None => Err(ServiceError::field("start", "is required")),
                Some(guarding) if guarding.is_complete => Ok(()),
                // It is not known whether more of the text was to come.
                Some(_) => Err(ServiceError::ClientCancelled),
            };
        };
        let received = self.call.take_received();
        self.call.check_credential()?;
        let Some(event) = message.event else {
            return Err(ServiceError::field("event", "is required"));
        };
        match (event, &mut self.guarding) {
            (guard_stream_request::Event::Start(start), None) => {
                self.keep(received);
                self.start(start).await
            }
            (guard_stream_request::Event::Start(_), Some(_)) => {
                Err(ServiceError::field("start", "must be sent once"))
            }
            (guard_stream_request::Event::Chunk(_), None) => Err(before_start("chunk")),
            (guard_stream_request::Event::End(_), None) => Err(before_start("end")),
            (guard_stream_request::Event::Chunk(chunk), Some(guarding)) => {
                guarding.receive(&chunk)?;
                self.keep(received);
                self.announce();
                Ok(())
            }
            (guard_stream_request::Event::End(proto::GuardEnd {}), Some(guarding)) => guarding.complete(),
        }
    }

    /// Keeps the budget's bytes of a message for as long as the call.
    fn keep(&mut self, received: Option<ReceivedMessage>) {
        let Some(ReceivedMessage { held, .. }) = received else {
            return;
        };
        let foreign = match self.held.last_mut() {
            Some(last) => last.absorb(held).err(),
            None => Some(held),
        };
        self.held.extend(foreign);
    }

    async fn start(&mut self, start: proto::GuardStart) -> Result<(), ServiceError> {
        let context = WorkContext::of(&self.shared, &self.call, Priority::Urgent);
        context
            .record
            .note_requested_model(&self.shared.registry, &start.model);
        self.shared.admit()?;
        validate::message_size(prost::Message::encoded_len(&start), &self.shared.limits)?;
        let validation = ValidationContext::of(&self.shared, context.deadline);
        let work = validate::guard_start(start, &validation).await?;
        let context = context.prioritised(work.before.priority, Priority::Urgent);
        self.guarding = Some(Guarding::new(context, work));
        Ok(())
    }

    /// Takes what a look has found.
    fn on_look(&mut self, result: Result<proto::Verdict, ServiceError>) {
        let Some(guarding) = &mut self.guarding else {
            return;
        };
        let Some(Look { stage, at, .. }) = guarding.look.take() else {
            return;
        };
        let found = match result {
            Ok(verdict) => Ok(verdict),
            // Another end than that the guard failed: failing open is not for these.
            Err(error) if reason_of(&error) != Some(Reason::GuardFailed) => return self.fail(&error),
            Err(error) => Err(error),
        };
        let outcome = match &found {
            Ok(verdict) => guarding
                .release
                .outcome(stage, label(verdict.label()), verdict.unsafe_score),
            Err(_) => LookOutcome::Failed,
        };
        guarding.looks += 1;
        let (outcome_name, outcome_value) = named(outcome);
        metrics::counter!("babelward_guard_stream_looks_total", "outcome" => outcome_name).increment(1);
        let course = guarding.release.look(stage, at, outcome);
        let (verdict, error) = match found {
            Ok(verdict) => (Some(verdict), None),
            Err(error) => (None, Some(error)),
        };
        self.outbox.push_back(Event::Look(proto::GuardLook {
            outcome: outcome_value.into(),
            text_bytes: at as u64,
            is_final: stage == LookStage::Final,
            verdict: verdict.clone(),
            error: error.as_ref().map(ServiceError::to_item),
        }));
        self.announce();
        match course {
            Course::Continue => {}
            Course::Complete => self.end(Reason::Complete, verdict, None),
            Course::Policy => self.end(Reason::Policy, verdict, None),
            Course::GuardFailed => {
                let error = error.unwrap_or(ServiceError::VerdictUndetermined);
                self.end(Reason::GuardFailed, verdict, Some(&error));
            }
        }
    }

    /// Says how much is released, if that has risen.
    fn announce(&mut self) {
        let Some(guarding) = &mut self.guarding else {
            return;
        };
        let released = guarding.release.released();
        if released > guarding.announced {
            guarding.announced = released;
            self.outbox.push_back(Event::Released(proto::GuardReleased {
                released_bytes: released as u64,
                unguarded: guarding.release.is_unguarded(),
            }));
        }
    }

    /// Says what has to be taken back.
    fn retract(&mut self) {
        let kept = self
            .guarding
            .as_ref()
            .and_then(|guarding| guarding.release.retracted_to());
        if let Some(kept) = kept {
            self.outbox.push_back(Event::Retracted(proto::GuardRetracted {
                kept_bytes: kept as u64,
            }));
        }
    }

    /// Ends the call with an error. Nothing is released by it. A message that is wrong has no [`Event::Ended`].
    fn fail(&mut self, error: &ServiceError) {
        match reason_of(error) {
            Some(reason) if self.guarding.is_some() => self.end(reason, None, Some(error)),
            _ => {
                self.retract();
                self.over = Some(Over::Badly(self.call.fail(error)));
                self.end_guarding("refused");
            }
        }
    }

    /// Ends the call.
    fn end(&mut self, reason: Reason, verdict: Option<proto::Verdict>, error: Option<&ServiceError>) {
        if reason != Reason::Complete {
            self.retract();
        }
        if let Some(guarding) = &self.guarding {
            self.outbox.push_back(Event::Ended(GuardEnded {
                reason: reason.into(),
                received_bytes: guarding.text.received() as u64,
                released_bytes: guarding.release.released() as u64,
                looks: guarding.looks,
                unguarded: guarding.release.is_unguarded(),
                verdict,
                error: error.map(ServiceError::to_item),
            }));
        }
        self.over = Some(match error {
            Some(error) => Over::Badly(self.call.fail(error)),
            None => {
                self.call.succeed();
                Over::Well
            }
        });
        self.end_guarding(reason_name(reason));
    }

    /// Counts the end of a stream that was started, once. A look that is under way is dropped, which cancels it.
    fn end_guarding(&mut self, reason: &'static str) {
        self.incoming = None;
        let Some(guarding) = self.guarding.take() else {
            return;
        };
        let unguarded = match guarding.release.is_unguarded() {
            true => "true",
            false => "false",
        };
        metrics::counter!("babelward_guard_stream_ended_total", "reason" => reason, "unguarded" => unguarded)
            .increment(1);
    }
}

impl Drop for Driver {
    /// The client is gone, or the connection has ended.
    fn drop(&mut self) {
        let reason = match self.call.deadline.has_passed() {
            true => Reason::Deadline,
            false => Reason::Cancelled,
        };
        self.end_guarding(reason_name(reason));
    }
}

fn before_start(field: &str) -> ServiceError {
    ServiceError::field(field, "must come behind the start")
}

/// The next message. Never resolves after the client has closed its half of the stream.
async fn receive(
    incoming: &mut Option<Streaming<GuardStreamRequest>>,
) -> Result<Option<GuardStreamRequest>, Status> {
    match incoming {
        Some(incoming) => incoming.message().await,
        None => std::future::pending().await,
    }
}

/// The result of a look. Never resolves without one.
async fn finished(look: Option<&mut Look>) -> Result<proto::Verdict, ServiceError> {
    match look {
        Some(look) => (&mut look.verdict).await,
        None => std::future::pending().await,
    }
}

/// A stream between its start and its end.
struct Guarding {
    context: WorkContext,
    work: GuardWork,
    text: GrowingText,
    planner: LookPlanner,
    release: Release,
    /// The watermark that the client knows.
    announced: usize,
    /// The look under way.
    look: Option<Look>,
    /// Looks that have ended.
    looks: u32,
    /// The end has come.
    is_complete: bool,
}

/// A look under way.
struct Look {
    stage: LookStage,
    /// Bytes of the text that it judges.
    at: usize,
    verdict: BoxFuture<'static, Result<proto::Verdict, ServiceError>>,
}

impl Guarding {
    fn new(context: WorkContext, work: GuardWork) -> Self {
        Self {
            text: GrowingText::default(),
            planner: LookPlanner::new(work.cadence),
            release: Release::new(work.rules),
            announced: 0,
            look: None,
            looks: 0,
            is_complete: false,
            context,
            work,
        }
    }

    /// Takes the next bytes of the text.
    fn receive(&mut self, chunk: &[u8]) -> Result<(), ServiceError> {
        if self.is_complete {
            return Err(ServiceError::field("chunk", "must come before the end"));
        }
        validate::guard_chunk(chunk)?;
        let most = self.context.shared.limits.content_bytes;
        if self.text.received().saturating_add(chunk.len()) > most {
            return Err(ServiceError::GrowingTextTooLong { limit_bytes: most });
        }
        self.text.push(chunk).map_err(|NotUtf8 { at }| {
            ServiceError::field("chunk", format!("is not UTF-8 at byte {at} of the text"))
        })?;
        self.release.receive(self.text.text().len());
        Ok(())
    }

    /// Takes the end.
    fn complete(&mut self) -> Result<(), ServiceError> {
        if self.is_complete {
            return Err(ServiceError::field("end", "must be sent once"));
        }
        self.text.finish().map_err(|NotUtf8 { at }| {
            let reason = format!("comes within a code point, which begins at byte {at} of the text");
            ServiceError::field("end", reason)
        })?;
        // As in a Classify, an answer may be empty, because a model that says nothing is judged for that.
        if self.text.text().is_empty() && self.work.role == crate::text::ChatRole::User {
            return Err(ServiceError::field("chunk", "is required: the text is empty"));
        }
        self.is_complete = true;
        Ok(())
    }

    /// Whether more of the client's messages are read.
    fn reads(&self) -> bool {
        // Behind the end, what still comes is an error to tell.
        self.is_complete || self.look.is_none() || self.text.received() - self.release.judged() < AHEAD_BYTES
    }

    /// Begins the next look if one is due and none is under way.
    fn begin_look(&mut self) {
        if self.look.is_some() {
            return;
        }
        let tokenizer = Arc::clone(match &self.work.before.guard.guard {
            Some(guard) => guard.tokenizer(),
            None => &self.work.before.guard.resident.tokenizer,
        });
        // A word that cannot be encoded counts as one token. The look will say what is wrong with it.
        let count = |word: &str| tokenizer.encode_plain(word).map_or(1, |tokens| tokens.len());
        let (stage, at) = match self.planner.next(self.text.text(), count) {
            Some(at) => (LookStage::Interim, at),
            None if self.is_complete => (LookStage::Final, self.text.text().len()),
            None => return,
        };
        let ClassifyWork {
            guard,
            policy,
            messages,
            priority,
            category_probabilities,
            fields,
        } = &self.work.before;
        let mut messages = messages.clone();
        messages.push(ChatMessage {
            role: self.work.role,
            content: self.text.text()[..at].to_owned(),
        });
        let work = ClassifyWork {
            guard: guard.clone(),
            policy: policy.clone(),
            messages,
            priority: *priority,
            category_probabilities: *category_probabilities,
            fields: fields.clone(),
        };
        let context = self.context.clone();
        let verdict = async move { retry_when_full(&context, || judge(&context, work.clone())).await };
        self.look = Some(Look {
            stage,
            at,
            verdict: verdict.boxed(),
        });
    }
}

/// The name of an outcome in metrics, and its value in events.
fn named(outcome: LookOutcome) -> (&'static str, guard_look::Outcome) {
    match outcome {
        LookOutcome::Passed => ("passed", guard_look::Outcome::Passed),
        LookOutcome::Unsafe => ("unsafe", guard_look::Outcome::Unsafe),
        LookOutcome::Undetermined => ("undetermined", guard_look::Outcome::Undetermined),
        LookOutcome::Failed => ("failed", guard_look::Outcome::Failed),
    }
}

/// The name of an end in metrics.
fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::Complete => "complete",
        Reason::Policy => "policy",
        Reason::GuardFailed | Reason::Unspecified => "guard_failed",
        Reason::Deadline => "deadline",
        Reason::Limit => "limit",
        Reason::Cancelled => "cancelled",
        Reason::Draining => "draining",
    }
}

/// The end of a stream that an error ends; `None` when the caller has sent something wrong, or may not call.
fn reason_of(error: &ServiceError) -> Option<Reason> {
    match error {
        ServiceError::Deadline { .. }
        | ServiceError::DeadlineUnattainable { .. }
        | ServiceError::RequestIncomplete { .. }
        | ServiceError::StreamIdle { .. } => Some(Reason::Deadline),
        ServiceError::GrowingTextTooLong { .. }
        | ServiceError::InputTooLong { .. }
        | ServiceError::MessageTooLarge { .. }
        | ServiceError::CacheTooSmall { .. }
        | ServiceError::RequestMemory { .. }
        | ServiceError::Quota(_) => Some(Reason::Limit),
        ServiceError::ClientCancelled => Some(Reason::Cancelled),
        ServiceError::ServerDraining { .. } => Some(Reason::Draining),
        ServiceError::QueueFull { .. }
        | ServiceError::ModelUnloading { .. }
        | ServiceError::ModelNotLoaded { .. }
        | ServiceError::ModelLoadFailed { .. }
        | ServiceError::DeviceMemory(_)
        | ServiceError::ModelFailed
        | ServiceError::DeviceLost { .. }
        | ServiceError::NumericFault
        | ServiceError::DeviceFault
        | ServiceError::WorkerPanic
        | ServiceError::TextFault
        | ServiceError::VerdictUndetermined => Some(Reason::GuardFailed),
        ServiceError::InvalidFields(_)
        | ServiceError::ConversationShape(_)
        | ServiceError::TextNotEncodable { .. }
        | ServiceError::ItemIdOpen { .. }
        | ServiceError::ModelNotFound { .. }
        | ServiceError::PolicyNotFound { .. }
        | ServiceError::NoDefaultModel { .. }
        | ServiceError::CapabilityMissing { .. }
        | ServiceError::ChatTemplateMissing
        | ServiceError::TooManyCalls { .. }
        | ServiceError::ServerLoading { .. }
        | ServiceError::PrecisionMismatch { .. }
        | ServiceError::Unauthenticated(_)
        | ServiceError::ScopeMissing { .. }
        | ServiceError::AdminElsewhere
        | ServiceError::AdminDisabled
        | ServiceError::CalibratorMismatch { .. } => None,
    }
}
