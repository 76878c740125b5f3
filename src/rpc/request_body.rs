//! What a service gets of a request's body: whole messages, looked at before they are decoded.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body::Frame;
use prost::encoding::{WireType, encode_key, encode_varint};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::{
    call::Call,
    element_counts::{ElementCounts, first_id},
    error::ServiceError,
    transport::{Arrival, HeldBytes, Intake, IntakeError},
};

/// A gRPC message begins with a byte for its compression and four for its length.
const PREFIX: usize = 5;

/// When to try again where all memory for requests is taken: as long as it may take until one is answered.
const RETRY: Duration = Duration::from_secs(1);

/// What goes with a message beside its content.
pub(crate) struct ReceivedMessage {
    /// Its share of the memory for requests, given back when this is dropped.
    pub(crate) held: HeldBytes,
    /// Why it was not let through; its place is taken by one with its id alone.
    pub(crate) refusal: Option<ServiceError>,
}

/// What goes with the messages of a call that have been received and not taken, in their order.
#[derive(Clone, Default)]
pub(crate) struct Received(Arc<Mutex<VecDeque<ReceivedMessage>>>);

impl Received {
    pub(crate) fn take(&self) -> Option<ReceivedMessage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn add(&self, message: ReceivedMessage) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(message);
    }
}

/// Whose body it is.
enum Owner {
    /// A call with one message.
    Single(CallParts),
    /// A call with a stream of items.
    Items(CallParts),
    /// Health or reflection.
    Foreign,
}

type CallParts = (Call, Received, Arc<ElementCounts>);

/// See the module.
pub(crate) struct RequestBody {
    intake: Intake,
    owner: Owner,
    /// Whether the one message of a call is through.
    is_through: bool,
    receive: Duration,
    /// Runs while a message, or the one message of a call, is not there to its end.
    timer: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    pub(crate) fn of_call(intake: Intake, receive: Duration, parts: CallParts) -> Self {
        let owner = if parts.0.record.method().takes_items() {
            Owner::Items(parts)
        } else {
            Owner::Single(parts)
        };
        Self::new(intake, receive, owner)
    }

    pub(crate) fn foreign(intake: Intake, receive: Duration) -> Self {
        Self::new(intake, receive, Owner::Foreign)
    }

    fn new(intake: Intake, receive: Duration, owner: Owner) -> Self {
        let timer = matches!(owner, Owner::Single(_)).then(|| Box::pin(sleep(receive)));
        Self {
            intake,
            owner,
            is_through: false,
            receive,
            timer,
        }
    }

    fn fail(&self, error: &ServiceError) -> Status {
        match &self.owner {
            Owner::Single((call, ..)) | Owner::Items((call, ..)) => call.fail(error),
            Owner::Foreign => error.to_status(""),
        }
    }

    /// The message as the service gets it.
    fn pass(&mut self, arrival: Arrival) -> Result<Bytes, Status> {
        let Arrival { bytes, held } = arrival;
        match &self.owner {
            Owner::Foreign => Ok(bytes),
            Owner::Single(_) if self.is_through => Err(Status::unimplemented(
                "this call takes one request message, and got another",
            )),
            Owner::Single((call, received, counts)) => {
                self.is_through = true;
                if let Err(violation) = counts.check(call.record.method(), content(&bytes)) {
                    return Err(call.fail(&ServiceError::InvalidFields(vec![violation])));
                }
                let refusal = None;
                received.add(ReceivedMessage { held, refusal });
                Ok(bytes)
            }
            Owner::Items((call, received, counts)) => {
                let refusal = counts.check(call.record.method(), content(&bytes)).err();
                let bytes = match &refusal {
                    Some(_) => only_id(first_id(content(&bytes))),
                    None => bytes,
                };
                received.add(ReceivedMessage {
                    held,
                    refusal: refusal.map(|violation| ServiceError::InvalidFields(vec![violation])),
                });
                Ok(bytes)
            }
        }
    }

    /// Whether what is missing is the client's to send.
    fn is_awaited(&self) -> bool {
        matches!(self.owner, Owner::Single(_)) || self.intake.has_part()
    }
}

/// What follows the prefix; nothing where it is compressed, which the decoder refuses.
fn content(message: &[u8]) -> &[u8] {
    match message.split_at_checked(PREFIX) {
        Some(([0, ..], content)) => content,
        _ => &[],
    }
}

/// A message of a stream with nothing but its id.
fn only_id(id: &[u8]) -> Bytes {
    let mut content = BytesMut::new();
    encode_key(1, WireType::LengthDelimited, &mut content);
    encode_varint(id.len() as u64, &mut content);
    content.put_slice(id);
    let mut message = BytesMut::new();
    message.put_u8(0);
    // An id is part of a message, whose length has four bytes.
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
        if !matches!(this.owner, Owner::Single(_)) {
            this.timer = None;
        }
        Poll::Ready(message.map(|message| {
            let arrival = message.map_err(|error| match error {
                IntakeError::TooLarge { limit_bytes } => {
                    this.fail(&ServiceError::MessageTooLarge { limit_bytes })
                }
                IntakeError::NoRoom => this.fail(&ServiceError::RequestMemory { retry_after: RETRY }),
            })?;
            this.pass(arrival).map(Frame::data)
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
