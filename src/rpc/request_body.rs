//! The request body as a service reads it: whole messages, whose lists are counted before they are decoded.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body::Frame;
use prost::encoding::{WireType, encode_key, encode_varint};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::{
    call::{Call, ReceivedMessage},
    element_counts::{ElementCounts, first_id},
    entrance::RETRY,
    error::ServiceError,
    transport::{Arrival, Intake, IntakeError},
};

/// A gRPC message begins with a byte for its compression and four for its length.
const PREFIX: usize = 5;

/// Longest time that the request of a health check may take to arrive. Strangers may send it.
const HEALTH_RECEIVE: Duration = Duration::from_secs(5);

/// What the body of a call of ours needs.
pub(crate) struct CallBody {
    pub(crate) call: Call,
    pub(crate) counts: Arc<ElementCounts>,
}

/// The kind of request that a body belongs to.
enum Owner {
    /// A call with one message.
    Single(CallBody),
    /// A call with a stream of items.
    Items(CallBody),
    /// A call with a stream of messages that belong together: one that is refused ends the call.
    Parts(CallBody),
    /// A health check, which has one message as well. Without a time limit, strangers could keep such calls open for ever.
    Health,
    /// Reflection, or a method that does not exist.
    Foreign,
}

impl Owner {
    fn has_one_message(&self) -> bool {
        matches!(self, Self::Single(_) | Self::Health)
    }
}

/// The body of one request.
pub(crate) struct RequestBody {
    intake: Intake,
    owner: Owner,
    /// Whether a message has been handed on that may be the only one of its call.
    is_complete: bool,
    /// Longest time that a message may take to arrive.
    receive: Duration,
    /// Runs while a message is incomplete, and until the only message of a call has arrived.
    timer: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    pub(crate) fn of_call(intake: Intake, receive: Duration, body: CallBody) -> Self {
        let method = body.call.record.method();
        let owner = match (method.takes_items(), method.takes_parts()) {
            (true, _) => Owner::Items(body),
            (_, true) => Owner::Parts(body),
            _ => Owner::Single(body),
        };
        Self::new(intake, receive, owner)
    }

    /// The body of a call of a service that is not ours, with this path.
    pub(crate) fn foreign(intake: Intake, receive: Duration, path: &str) -> Self {
        let is_health = path.starts_with("/grpc.health.v1.Health/");
        if is_health {
            Self::new(intake, receive.min(HEALTH_RECEIVE), Owner::Health)
        } else {
            Self::new(intake, receive, Owner::Foreign)
        }
    }

    fn new(intake: Intake, receive: Duration, owner: Owner) -> Self {
        let timer = owner.has_one_message().then(|| Box::pin(sleep(receive)));
        Self {
            intake,
            owner,
            is_complete: false,
            receive,
            timer,
        }
    }

    fn fail(&self, error: &ServiceError) -> Status {
        match &self.owner {
            Owner::Single(body) | Owner::Items(body) | Owner::Parts(body) => body.call.fail(error),
            Owner::Health | Owner::Foreign => error.to_status(""),
        }
    }

    /// Checks a message and returns it as the service gets it.
    fn check(&mut self, arrival: Arrival) -> Result<Bytes, Status> {
        let Arrival { bytes, held } = arrival;
        match &self.owner {
            Owner::Health | Owner::Foreign => Ok(bytes),
            Owner::Single(_) if self.is_complete => Err(Status::unimplemented(
                "this call takes one request message, and got another",
            )),
            Owner::Single(CallBody { call, counts }) | Owner::Parts(CallBody { call, counts }) => {
                self.is_complete = true;
                if let Err(violation) = counts.check(call.record.method(), content(&bytes)) {
                    return Err(call.fail(&ServiceError::InvalidFields(vec![violation])));
                }
                let refusal = None;
                call.received.add(ReceivedMessage { held, refusal });
                Ok(bytes)
            }
            Owner::Items(CallBody { call, counts }) => {
                let refusal = counts.check(call.record.method(), content(&bytes)).err();
                let bytes = match &refusal {
                    Some(_) => only_id(first_id(content(&bytes))),
                    None => bytes,
                };
                call.received.add(ReceivedMessage {
                    held,
                    refusal: refusal.map(|violation| ServiceError::InvalidFields(vec![violation])),
                });
                Ok(bytes)
            }
        }
    }

    /// Whether the client still has to send the rest of a message.
    fn is_awaited(&self) -> bool {
        self.owner.has_one_message() || self.intake.has_part()
    }
}

/// The bytes after the prefix of a message; none if it is compressed, which the decoder refuses.
fn content(message: &[u8]) -> &[u8] {
    match message.split_at_checked(PREFIX) {
        Some(([0, ..], content)) => content,
        _ => &[],
    }
}

/// A message of a stream that has its id and nothing else.
fn only_id(id: &[u8]) -> Bytes {
    let mut content = BytesMut::new();
    encode_key(1, WireType::LengthDelimited, &mut content);
    encode_varint(id.len() as u64, &mut content);
    content.put_slice(id);
    let mut message = BytesMut::new();
    message.put_u8(0);
    // The id is part of a message, so its length fits into four bytes.
    message.put_u32(u32::try_from(content.len()).unwrap_or(u32::MAX));
    message.put(content);
    message.freeze()
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let message = match this.intake.poll_message(context) {
            Poll::Ready(message) => message,
            Poll::Pending if this.is_awaited() => {
                let receive = this.receive;
                let timer = this.timer.get_or_insert_with(|| Box::pin(sleep(receive)));
                ready!(timer.as_mut().poll(context));
                let error = ServiceError::RequestIncomplete { limit: receive };
                return Poll::Ready(Some(Err(this.fail(&error))));
            }
            Poll::Pending => return Poll::Pending,
        };
        if !this.owner.has_one_message() {
            this.timer = None;
        }
        Poll::Ready(message.map(|message| {
            let arrival = message.map_err(|error| match error {
                IntakeError::TooLarge { limit_bytes } => {
                    this.fail(&ServiceError::MessageTooLarge { limit_bytes })
                }
                IntakeError::NoRoom => this.fail(&ServiceError::RequestMemory { retry_after: RETRY }),
                IntakeError::Refused(error) => this.fail(&error),
            })?;
            this.check(arrival).map(Frame::data)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto;
    use prost::Message as _;

    #[test]
    fn a_message_with_its_id_alone_decodes() {
        let message = only_id("item 7".as_bytes());
        let decoded = proto::ScoreStreamRequest::decode(content(&message)).unwrap();
        let expected = proto::ScoreStreamRequest {
            id: "item 7".to_owned(),
            ..Default::default()
        };
        assert_eq!(decoded, expected);
    }
}
