//! GuardStream: a guard looks at a text while it grows, and a watermark says how much of it may be shown.
//!
//! One task (that of the call's HTTP/2 response) reads messages, makes one look after another, and writes events. It reads on
//! without bound only while no look is due; behind a look at most [`AHEAD_BYTES`] of the text and a chunk are kept, and what the
//! client sends beyond that waits in the transport. Nothing is released to make room.
//!
//! [`super::guarding`] has what is common to all growing texts.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use futures::stream;
use tokio::time::{Instant, Sleep, sleep};
use tonic::{Request, Response, Status, Streaming, codegen::BoxStream};

use super::{
    call::{Call, ReceivedMessage},
    error::ServiceError,
    guard_end::{End, Reason},
    guarding::{Guarding, Looked},
    sequence::{Shared, WorkContext},
    transport::HeldBytes,
    validate::{self, ValidationContext},
};
use crate::{
    engine::{Priority, Stage},
    guard::{NotUtf8, Speaker},
    proto::{
        self, GuardStreamRequest, GuardStreamResponse, guard_stream_request, guard_stream_response::Event,
    },
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
    Looked(Box<Looked>),
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
                Happening::Looked(looked) => {
                    self.restart_idle_time();
                    self.on_look(*looked);
                }
                Happening::Failed(error) => self.fail(&error),
                Happening::Heartbeat => self.beat(),
            }
        }
    }

    /// Waits for the next thing to happen.
    async fn happening(&mut self) -> Happening {
        let is_holding = self.is_holding();
        let is_looking = self.guarding.as_ref().is_some_and(Guarding::is_looking);
        let reads = self.guarding.as_ref().is_none_or(reads);
        tokio::select! {
            biased;
            // First, because a look knows at which stage a deadline found it.
            looked = looked(&mut self.guarding), if is_looking => Happening::Looked(Box::new(looked)),
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
        self.guarding.as_ref().is_some_and(Guarding::is_holding)
    }

    fn restart_idle_time(&mut self) {
        let limit = self.shared.times.stream_idle;
        self.idle.as_mut().reset(Instant::now() + limit);
    }

    fn restart_heartbeat(&mut self) {
        let server = self.shared.times.guard_heartbeat;
        let pause = self
            .guarding
            .as_ref()
            .map_or(server, Guarding::heartbeat_interval);
        self.heartbeat.as_mut().reset(Instant::now() + pause);
    }

    fn beat(&mut self) {
        if let Some(guarding) = &self.guarding {
            self.outbox.push_back(Event::Heartbeat(guarding.heartbeat()));
        }
    }

    async fn on_message(&mut self, message: Option<GuardStreamRequest>) -> Result<(), ServiceError> {
        let Some(message) = message else {
            self.incoming = None;
            return match &self.guarding {
                None => Err(ServiceError::field("start", "is required")),
                Some(guarding) if guarding.is_complete() => Ok(()),
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
                let most = self.shared.limits.content_bytes;
                receive_chunk(guarding, &chunk, most)?;
                self.keep(received);
                self.announce();
                Ok(())
            }
            (guard_stream_request::Event::End(proto::GuardEnd {}), Some(guarding)) => complete(guarding),
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
    fn on_look(&mut self, looked: Looked) {
        let Some(guarding) = &mut self.guarding else {
            return;
        };
        let found = match guarding.take(looked) {
            Ok(found) => found,
            Err(error) => return self.fail(&error),
        };
        self.outbox.push_back(Event::Look(found.look));
        self.announce();
        if let Some(end) = found.end {
            self.end(&end);
        }
    }

    /// Says how much is released, if that has risen.
    fn announce(&mut self) {
        let announcement = self.guarding.as_mut().and_then(Guarding::announcement);
        self.outbox.extend(announcement.map(Event::Released));
    }

    /// Says what has to be taken back.
    fn retract(&mut self) {
        let retraction = self.guarding.as_ref().and_then(Guarding::retraction);
        self.outbox.extend(retraction.map(Event::Retracted));
    }

    /// Ends the call with an error. Nothing is released by it. A message that is wrong has no [`Event::Ended`].
    fn fail(&mut self, error: &ServiceError) {
        match End::by(error) {
            Some(end) if self.guarding.is_some() => self.end(&end),
            _ => {
                self.retract();
                self.over = Some(Over::Badly(self.call.fail(error)));
                self.end_guarding("refused");
            }
        }
    }

    /// Ends the call.
    fn end(&mut self, end: &End) {
        if end.reason != Reason::Complete {
            self.retract();
        }
        if let Some(mut guarding) = self.guarding.take() {
            self.outbox.push_back(Event::Ended(guarding.end(end)));
        }
        self.incoming = None;
        self.over = Some(match &end.error {
            Some(error) => Over::Badly(self.call.fail(error)),
            None => {
                self.call.succeed();
                Over::Well
            }
        });
    }

    /// Counts the end of a stream that was started. A look that is under way is dropped, which cancels it.
    fn end_guarding(&mut self, reason: &'static str) {
        self.incoming = None;
        if let Some(mut guarding) = self.guarding.take() {
            guarding.count_end(reason);
        }
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

/// The look of a stream that has ended. Never resolves without one.
async fn looked(guarding: &mut Option<Guarding>) -> Looked {
    match guarding {
        Some(guarding) => guarding.looked().await,
        None => std::future::pending().await,
    }
}

/// Whether more of the client's messages are read.
fn reads(guarding: &Guarding) -> bool {
    // Behind the end, what still comes is an error to tell.
    guarding.is_complete() || !guarding.is_looking() || guarding.ahead() < AHEAD_BYTES
}

/// Takes the next bytes of a text that may have `most`.
fn receive_chunk(guarding: &mut Guarding, chunk: &[u8], most: usize) -> Result<(), ServiceError> {
    if guarding.is_complete() {
        return Err(ServiceError::field("chunk", "must come before the end"));
    }
    validate::guard_chunk(chunk)?;
    if guarding.text().received().saturating_add(chunk.len()) > most {
        return Err(ServiceError::GrowingTextTooLong { limit_bytes: most });
    }
    guarding.receive(chunk).map_err(|NotUtf8 { at }| {
        ServiceError::field("chunk", format!("is not UTF-8 at byte {at} of the text"))
    })
}

/// Takes the end.
fn complete(guarding: &mut Guarding) -> Result<(), ServiceError> {
    if guarding.is_complete() {
        return Err(ServiceError::field("end", "must be sent once"));
    }
    guarding.text().finish().map_err(|NotUtf8 { at }| {
        let reason = format!("comes within a code point, which begins at byte {at} of the text");
        ServiceError::field("end", reason)
    })?;
    // As in a Classify, an answer may be empty, because a model that says nothing is judged for that.
    if guarding.text().text().is_empty() && guarding.role() == Speaker::User {
        return Err(ServiceError::field("chunk", "is required: the text is empty"));
    }
    guarding.complete();
    Ok(())
}
