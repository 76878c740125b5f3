//! Guards one text while it is written, by this client or by a target of the server.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Streaming};

use super::{
    channel::Client,
    error::{ClientError, RpcError},
};
use crate::proto::{
    GenerateRequest, GenerateResponse, GuardEnd, GuardMode, GuardStart, GuardStreamRequest,
    GuardStreamResponse, generate_response, guard_look::Outcome, guard_stream_request,
    guard_stream_response::Event, safety_service_client::SafetyServiceClient,
};

/// Chunks that may wait to be sent. The server reads them as it looks at the text.
const WAITING_CHUNKS: usize = 4;

/// A text that a guard looks at while it is written: where its bytes go, and what the server says of them. Both sides are to be
/// used at the same time, because the server reads only as fast as its answers are taken.
#[derive(Debug)]
pub struct GuardedText {
    /// Takes the bytes.
    pub sender: GuardSender,
    /// What the server says.
    pub events: GuardEvents,
}

/// Takes the bytes of a text. When it is dropped without [`GuardSender::end`], the text counts as broken off.
#[derive(Debug)]
pub struct GuardSender(mpsc::Sender<GuardStreamRequest>);

/// The events of a text, of which the last is [`Event::Ended`].
#[derive(Debug)]
pub struct GuardEvents(Streaming<GuardStreamResponse>);

impl GuardSender {
    /// Sends the next bytes, at most 64 KiB, of which the last code point may be incomplete. Waits while the server does not
    /// read. Returns `false` once it wants no more; its events say why.
    pub async fn chunk(&self, bytes: Vec<u8>) -> bool {
        self.send(guard_stream_request::Event::Chunk(bytes)).await
    }

    /// Says that the text is complete.
    pub async fn end(self) -> bool {
        self.send(guard_stream_request::Event::End(GuardEnd {})).await
    }

    async fn send(&self, event: guard_stream_request::Event) -> bool {
        let message = GuardStreamRequest { event: Some(event) };
        self.0.send(message).await.is_ok()
    }
}

impl GuardEvents {
    /// The next event; never `None` before [`Event::Ended`].
    ///
    /// # Errors
    /// [`ClientError::Rpc`]; [`ClientError::Protocol`] when the stream ends without an end of the text.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        let response = self.0.message().await;
        let response = response.map_err(|status| ClientError::Rpc(RpcError::from_status(&status)))?;
        response
            .and_then(|response| response.event)
            .ok_or_else(|| ClientError::Protocol("GuardStream ended without an end of the text".to_owned()))
    }
}

/// An answer that a guard looks at while the server's target writes it.
#[derive(Debug)]
pub struct GuardedAnswer {
    events: Streaming<GenerateResponse>,
    /// Bytes that looks which found nothing unsafe cover; `None` where text comes before it is looked at.
    covered: Option<u64>,
    has_ended: bool,
}

impl GuardedAnswer {
    /// The next event; `None` after [`generate_response::Event::Finished`], whose `guard` says how the answer ended.
    ///
    /// # Errors
    /// [`ClientError::Rpc`]; [`ClientError::Protocol`] when the server does not guard the answer, because it is older than the
    /// guards of answers.
    pub async fn next(&mut self) -> Result<Option<generate_response::Event>, ClientError> {
        if self.has_ended {
            return Ok(None);
        }
        let response = self.events.message().await;
        let response = response.map_err(|status| ClientError::Rpc(RpcError::from_status(&status)))?;
        let Some(event) = response.and_then(|response| response.event) else {
            let message = "the answer has no end".to_owned();
            return Err(ClientError::Protocol(message));
        };
        let is_guarded = match &event {
            generate_response::Event::Look(look) => {
                if let (Some(covered), true) = (&mut self.covered, look.outcome() != Outcome::Unsafe) {
                    *covered = look.text_bytes.max(*covered);
                }
                true
            }
            generate_response::Event::Delta(delta) => {
                let end = delta.offset_bytes.saturating_add(delta.text.len() as u64);
                self.covered.is_none_or(|covered| end <= covered)
            }
            generate_response::Event::Finished(finished) => {
                self.has_ended = true;
                finished.guard.is_some()
            }
            generate_response::Event::Started(_)
            | generate_response::Event::Retracted(_)
            | generate_response::Event::Heartbeat(_) => true,
        };
        if !is_guarded {
            let message = "the server does not guard the answer: is it older than this client?".to_owned();
            return Err(ClientError::Protocol(message));
        }
        Ok(Some(event))
    }
}

impl Client {
    /// An answer with a guard, which is that of the request. Retries and `call_timeout` are those of [`Client::generate`].
    ///
    /// # Errors
    /// [`ClientError::Rpc`].
    pub async fn generate_guarded(&self, request: GenerateRequest) -> Result<GuardedAnswer, ClientError> {
        let options = request.guard.as_ref().and_then(|guard| guard.options);
        let holds_back = match options.unwrap_or_default().mode() {
            GuardMode::Unspecified | GuardMode::HoldBack => true,
            GuardMode::Optimistic | GuardMode::Observe => false,
        };
        Ok(GuardedAnswer {
            events: self.generate(request).await?,
            covered: holds_back.then_some(0),
            has_ended: false,
        })
    }

    /// Opens a stream for one text. The call is retried until the stream is open, and never after that; `call_timeout` bounds
    /// the whole stream.
    ///
    /// # Errors
    /// [`ClientError::Rpc`].
    pub async fn guard_stream(&self, start: GuardStart) -> Result<GuardedText, ClientError> {
        let start = GuardStreamRequest {
            event: Some(guard_stream_request::Event::Start(start)),
        };
        self.unary(start, async |channel, request: Request<GuardStreamRequest>| {
            let (metadata, extensions, start) = request.into_parts();
            let (sender, receiver) = mpsc::channel(WAITING_CHUNKS);
            // There is room for the first message, and the receiver is here.
            let _there = sender.try_send(start);
            let request = Request::from_parts(metadata, extensions, ReceiverStream::new(receiver));
            let response = SafetyServiceClient::new(channel).guard_stream(request).await?;
            let (metadata, events, extensions) = response.into_parts();
            let text = GuardedText {
                sender: GuardSender(sender),
                events: GuardEvents(events),
            };
            Ok(Response::from_parts(metadata, text, extensions))
        })
        .await
    }
}
