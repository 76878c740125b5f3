//! Puts the bytes of a request, which arrive in frames, together into messages.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};

use super::{
    budget::{HeldBytes, RequestBudget},
    source::{Source, Stopped},
};
use crate::rpc::error::ServiceError;

/// A gRPC message begins with a byte for its compression and four for its length.
const PREFIX: usize = 5;

/// After a message of more bytes than this, the buffer is allocated again, so that it does not keep the memory.
const LARGE: usize = 64 << 10;

/// Most bytes that are read ahead of what is taken where a source waits to be read. One more message may have been read.
const AHEAD: usize = 16 << 10;

/// Why the messages of a request end early.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum IntakeError {
    /// A message announces more than twice the bytes that messages may have.
    TooLarge { limit_bytes: usize },
    /// The budget of all requests has too few bytes left.
    NoRoom,
    /// The next message could not be made of what has arrived.
    Refused(ServiceError),
}

/// A whole message with its prefix, and its bytes of the budget.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) bytes: Bytes,
    pub(crate) held: HeldBytes,
}

/// The messages of a request, for the service that answers it.
pub(crate) struct Intake(Arc<Mutex<Buffer>>);

impl Intake {
    /// Returns the intake, and a future that reads what arrives for as long as it is polled and never ends. Messages may
    /// have `limit_bytes`. Messages up to twice as large are received all the same, because an item of a stream that is too
    /// large fails alone.
    pub(crate) fn new(
        body: Source,
        budget: &Arc<RequestBudget>,
        limit_bytes: usize,
    ) -> (Self, impl Future<Output = Infallible> + use<>) {
        let buffer = Arc::new(Mutex::new(Buffer {
            body,
            bytes: BytesMut::new(),
            held: HeldBytes::none(budget),
            limit_bytes,
            granted: 0,
            state: State::Open,
            reader: None,
            source: None,
        }));
        let arriving = Arc::clone(&buffer);
        let arriving = poll_fn(move |context| {
            lock(&arriving).arrive(context);
            Poll::Pending
        });
        (Self(buffer), arriving)
    }

    /// The next whole message; `None` at the end. If the last message is incomplete, its bytes are returned as they are.
    pub(crate) fn poll_message(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Arrival, IntakeError>>> {
        let mut buffer = lock(&self.0);
        let next = buffer.next();
        if next.is_pending() {
            buffer.reader = Some(context.waker().clone());
        }
        next
    }

    /// Takes the bytes of the request from this part of its budget. Returns `false` when the part has too few.
    pub(crate) fn charge_to(&self, part: &Arc<RequestBudget>) -> bool {
        lock(&self.0).held.charge_to(part)
    }

    /// Whether part of a message has arrived.
    pub(crate) fn has_part(&self) -> bool {
        let buffer = lock(&self.0);
        !buffer.bytes.is_empty()
            && buffer
                .message_length()
                .is_none_or(|length| length > buffer.bytes.len())
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        // Bytes that still arrive are not kept.
        lock(&self.0).end(State::Closed);
    }
}

fn lock(buffer: &Mutex<Buffer>) -> MutexGuard<'_, Buffer> {
    buffer.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    /// More may come.
    Open,
    /// The client has sent all.
    Ended,
    /// What comes behind the messages that have arrived is refused.
    Refused(ServiceError),
    /// The request fails here, and the service has not been told yet.
    Failed(IntakeError),
    /// No more messages are wanted.
    Closed,
    /// The client has cancelled the call or is gone: nothing more arrives, and the call is about to be dropped.
    Gone,
}

/// Bytes that have arrived and have not been taken.
struct Buffer {
    body: Source,
    /// Begins with the prefix of a message.
    bytes: BytesMut,
    /// The budget's bytes for `bytes`.
    held: HeldBytes,
    limit_bytes: usize,
    /// How many of `bytes` the client has been allowed to send again: those of the first message. So it can always complete
    /// a message, and send no more than its window beyond it.
    granted: usize,
    state: State,
    reader: Option<Waker>,
    /// Is woken when there is room for more of a source that waits to be read.
    source: Option<Waker>,
}

impl Buffer {
    /// Reads all that has arrived.
    fn arrive(&mut self, context: &mut Context<'_>) {
        while !matches!(self.state, State::Ended | State::Gone) {
            if self.body.is_paced() && self.bytes.len() >= AHEAD {
                self.source = Some(context.waker().clone());
                return;
            }
            match self.body.poll_data(context) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(data))) => self.push(&data),
                Poll::Ready(Some(Err(Stopped::Gone))) => {
                    self.end(State::Gone);
                    return;
                }
                Poll::Ready(Some(Err(Stopped::Refused(error)))) => self.refuse(error),
                Poll::Ready(None) => {
                    if self.state == State::Open {
                        self.state = State::Ended;
                    }
                    self.wake();
                    return;
                }
            }
        }
    }

    /// The request ends with an error behind the messages that have arrived.
    fn refuse(&mut self, error: ServiceError) {
        if self.state == State::Open {
            self.state = State::Refused(error);
            self.wake();
        }
    }

    fn push(&mut self, data: &Bytes) {
        if self.state != State::Open {
            return self.release(data.len());
        }
        if !self.held.grow(data.len()) {
            self.release(data.len());
            return self.end(State::Failed(IntakeError::NoRoom));
        }
        // The buffer grows with the bytes that arrive, not with the announced length.
        self.bytes.extend_from_slice(data);
        self.grant();
        self.wake();
    }

    /// Length in bytes of the first message with its prefix, once it is known.
    fn message_length(&self) -> Option<usize> {
        let prefix: [u8; PREFIX] = self.bytes.get(..PREFIX)?.try_into().ok()?;
        let [_, length @ ..] = prefix;
        usize::try_from(u32::from_be_bytes(length))
            .ok()?
            .checked_add(PREFIX)
    }

    /// Lets the client send as many bytes again as have arrived of the first message.
    fn grant(&mut self) {
        let length = self.message_length();
        let limit_bytes = self.limit_bytes;
        if length.is_some_and(|length| length - PREFIX > limit_bytes.saturating_mul(2)) {
            return self.end(State::Failed(IntakeError::TooLarge { limit_bytes }));
        }
        let first = length.map_or(self.bytes.len(), |length| length.min(self.bytes.len()));
        self.release(first.saturating_sub(self.granted));
        self.granted = self.granted.max(first);
    }

    fn next(&mut self) -> Poll<Option<Result<Arrival, IntakeError>>> {
        match &self.state {
            State::Failed(error) => {
                let error = error.clone();
                self.state = State::Closed;
                return Poll::Ready(Some(Err(error)));
            }
            State::Refused(error) if self.bytes.is_empty() => {
                let error = IntakeError::Refused(error.clone());
                self.state = State::Closed;
                return Poll::Ready(Some(Err(error)));
            }
            State::Gone => return Poll::Pending,
            _ => {}
        }
        let length = match self.message_length() {
            Some(length) if length <= self.bytes.len() => length,
            _ if self.state == State::Open => return Poll::Pending,
            // The message is incomplete, or there is none.
            _ => self.bytes.len(),
        };
        if length == 0 {
            return Poll::Ready(None);
        }
        let bytes = self.bytes.split_to(length).freeze();
        let held = self.held.split(length);
        if length > LARGE {
            // The remaining bytes would otherwise keep all of the memory.
            self.bytes = BytesMut::from(self.bytes.as_ref());
        }
        self.granted = self.granted.saturating_sub(length);
        self.grant();
        if let Some(source) = self.source.take() {
            source.wake();
        }
        Poll::Ready(Some(Ok(Arrival { bytes, held })))
    }

    fn end(&mut self, state: State) {
        let kept = self.bytes.len() - self.granted.min(self.bytes.len());
        self.release(kept);
        self.bytes = BytesMut::new();
        self.held.clear();
        self.granted = 0;
        self.state = state;
        self.body.close();
        self.wake();
    }

    /// Returns bytes to the client's flow control window. A stream that has ended has no window.
    fn release(&mut self, bytes: usize) {
        if bytes > 0 {
            self.body.release(bytes);
        }
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}
