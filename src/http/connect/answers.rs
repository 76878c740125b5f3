//! The answers of a call in envelopes, as the body of a response.
//!
//! A task of its own takes them from the call, so that the call goes on while its client only sends: a client of HTTP/1.1 may send
//! its whole request before it reads. Answers that it has not read yet are kept as far as they fit into the memory for requests and
//! are fewer bytes than a message may have. Once its request has arrived, only [`AHEAD`] bytes are kept, and the call waits.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame};
use tokio::sync::{
    Notify,
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};

use super::{
    envelope::{end, open, seal},
    format::Format,
    types::Call,
};
use crate::{
    http::{caller::Caller, status::Refusal},
    rpc::{Arriving, HeldBytes},
};

/// Most bytes of answers that wait for a client whose request has arrived. One more answer may wait.
const AHEAD: usize = 64 << 10;

/// Bytes of memory that an envelope which waits takes beside its own, at the most: small ones would otherwise take far more than is
/// counted.
const BESIDE: usize = 128;

/// The answers of a call.
pub(super) struct Answers {
    pub(super) call: Arc<Call>,
    pub(super) format: Format,
    pub(super) caller: Caller,
    /// Whether the client is still sending.
    pub(super) arriving: Arriving,
    /// The answers as they are in gRPC.
    pub(super) body: tonic::body::Body,
}

impl Answers {
    /// The body of the response. The call ends when it is dropped.
    pub(super) fn into_body(self) -> Body {
        let (pieces, received) = unbounded_channel();
        let waiting = Arc::new(Waiting::default());
        let sender = Sender {
            pieces,
            waiting: Arc::clone(&waiting),
            caller: self.caller.clone(),
            arriving: self.arriving.clone(),
        };
        let task = tokio::spawn(self.send_all(sender));
        Body::new(AnswerBody {
            pieces: received,
            waiting,
            has_ended: false,
            _task: AbortOnDropHandle::new(task),
        })
    }

    async fn send_all(mut self, sender: Sender) {
        let refusal = self.send_messages(&sender).await.err();
        let last = end(refusal.as_ref());
        sender.send(last, Place::Last).await;
    }

    /// Sends all messages, and returns how the call has ended.
    async fn send_messages(&mut self, sender: &Sender) -> Result<(), Refusal> {
        let mut bytes = BytesMut::new();
        loop {
            let frame = poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await;
            let Some(frame) = frame else {
                return Err(Status::internal("the call ended without a status").into());
            };
            match frame.map_err(Refusal::from)?.into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return outcome(Status::from_header_map(&trailers));
                }
            }
            while let Some(message) = open(&mut bytes) {
                let sealed = match self.format {
                    Format::Json => seal(0, &self.call.to_json(&message)?),
                    Format::Proto => seal(0, &message),
                };
                sender.send(sealed, Place::Before).await;
            }
        }
    }
}

/// How a call with this status has ended.
pub(super) fn outcome(status: Option<Status>) -> Result<(), Refusal> {
    match status {
        Some(status) if status.code() == Code::Ok => Ok(()),
        Some(status) => Err(status.into()),
        None => Err(Status::internal("the call ended without a status").into()),
    }
}

/// Whether something comes behind a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    Last,
}

/// An envelope that waits for the client.
struct Piece {
    bytes: Bytes,
    place: Place,
    /// Its bytes of the memory for requests, if that has some.
    _held: HeldBytes,
}

/// The envelopes that wait for the client.
#[derive(Default)]
struct Waiting {
    bytes: AtomicUsize,
    /// Tells that one was taken.
    taken: Notify,
}

/// Hands envelopes on.
struct Sender {
    pieces: UnboundedSender<Piece>,
    waiting: Arc<Waiting>,
    caller: Caller,
    arriving: Arriving,
}

impl Sender {
    /// Hands an envelope on as soon as there is room for it.
    async fn send(&self, bytes: Bytes, place: Place) {
        self.wait_for(|waiting| waiting < self.most()).await;
        let mut held = self.caller.memory();
        if !held.grow(bytes.len().saturating_add(BESIDE)) {
            // Without memory of its own one envelope may wait.
            self.wait_for(|waiting| waiting == 0).await;
        }
        self.waiting.bytes.fetch_add(bytes.len(), Ordering::AcqRel);
        // Nobody is there to read it: the task is about to be ended.
        let _gone = self.pieces.send(Piece {
            bytes,
            place,
            _held: held,
        });
    }

    /// Bytes that may wait before the next envelope does.
    fn most(&self) -> usize {
        match self.arriving.is_open() {
            true => self.caller.message_bytes().max(AHEAD),
            false => AHEAD,
        }
    }

    /// Waits until so many bytes wait that this is true.
    async fn wait_for(&self, is_right: impl Fn(usize) -> bool) {
        while !is_right(self.waiting.bytes.load(Ordering::Acquire)) {
            self.waiting.taken.notified().await;
        }
    }
}

/// The body of a response.
struct AnswerBody {
    pieces: UnboundedReceiver<Piece>,
    waiting: Arc<Waiting>,
    has_ended: bool,
    _task: AbortOnDropHandle<()>,
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let Some(piece) = ready!(self.pieces.poll_recv(context)) else {
            // A client must not take this for the end.
            self.has_ended = true;
            return Poll::Ready(Some(Err(Status::internal("the answers broke off"))));
        };
        self.has_ended = piece.place == Place::Last;
        self.waiting.bytes.fetch_sub(piece.bytes.len(), Ordering::AcqRel);
        self.waiting.taken.notify_one();
        Poll::Ready(Some(Ok(Frame::data(piece.bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }
}
