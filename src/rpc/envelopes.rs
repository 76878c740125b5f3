//! The body of a request of the HTTP port as messages in envelopes: a byte of flags, four of the message's length, and the message.
//! These are the bytes of the Connect protocol's streams, and of gRPC.
//!
//! A message is handed on as soon as it has arrived. What has arrived of it counts to the memory for requests.

use std::{
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use tokio::{
    runtime::Handle,
    time::{Sleep, sleep, timeout},
};

use super::{
    entrance::RETRY,
    error::ServiceError,
    received_body::{ReceivedBody, discard, incomplete, next_frame},
    transport::HeldBytes,
};

/// Bytes before a message: its flags and its length.
const PREFIX: usize = 5;

/// After a message of more bytes than this, the buffer is allocated again, so that it does not keep the memory.
const LARGE: usize = 64 << 10;

/// A message as it has arrived.
pub(crate) struct Envelope {
    /// What the protocol says of the message; zero says nothing.
    pub(crate) flags: u8,
    /// The flags, the length and the message.
    pub(crate) whole: Bytes,
    /// The message.
    pub(crate) message: ReceivedBody,
}

/// What bounds a body in envelopes.
pub(super) struct EnvelopeLimits {
    /// Most bytes of a message. One of up to twice as many is read all the same, because an item of a stream that is too large
    /// fails alone.
    pub(super) limit_bytes: usize,
    /// Longest time from the first byte of a message to its last.
    pub(super) receive: Duration,
    /// How long the rest of a body is still read, and thrown away, if it is not wanted any more: a client that is still sending
    /// would not see the answer if the connection were closed under it. `None` for clients that send when they are asked to.
    pub(super) linger: Option<Duration>,
}

/// Whether more of a request may arrive; by default, nothing.
#[derive(Clone, Default)]
pub(crate) struct Arriving(Arc<AtomicBool>);

impl Arriving {
    /// Whether its client may still be sending it.
    pub(crate) fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Reads a body as messages in envelopes.
pub(crate) struct Envelopes {
    body: Body,
    limits: EnvelopeLimits,
    /// What has arrived behind the last message.
    bytes: BytesMut,
    /// Its bytes of the memory for requests.
    held: HeldBytes,
    has_ended: bool,
    arriving: Arriving,
}

impl Envelopes {
    /// Nothing has been read of this body, and `held` has no bytes.
    pub(super) fn new(body: Body, held: HeldBytes, limits: EnvelopeLimits) -> Self {
        Self {
            body,
            limits,
            bytes: BytesMut::new(),
            held,
            has_ended: false,
            arriving: Arriving(Arc::new(AtomicBool::new(true))),
        }
    }

    /// Tells whether more may arrive, also after this is dropped.
    pub(crate) fn arriving(&self) -> Arriving {
        self.arriving.clone()
    }

    /// The next message; `None` at the end.
    ///
    /// # Errors
    /// When a message is too large, does not arrive in time or not as a whole, or when the memory for requests is used up.
    pub(crate) async fn next(&mut self) -> Result<Option<Envelope>, ServiceError> {
        let receive = self.limits.receive;
        // Runs while part of a message is here. How long a client may send nothing at all is a matter of its call.
        let mut timer: Option<Pin<Box<Sleep>>> = None;
        loop {
            if let Some(envelope) = self.take()? {
                return Ok(Some(envelope));
            }
            if self.has_ended {
                return match self.bytes.is_empty() {
                    true => Ok(None),
                    false => Err(incomplete()),
                };
            }
            let frame = match self.bytes.is_empty() {
                true => next_frame(&mut self.body).await,
                false => {
                    let timer = timer.get_or_insert_with(|| Box::pin(sleep(receive)));
                    tokio::select! {
                        biased;
                        frame = next_frame(&mut self.body) => frame,
                        () = timer.as_mut() => return Err(ServiceError::RequestIncomplete { limit: receive }),
                    }
                }
            };
            match frame {
                // Trailers of a request mean nothing here.
                Some(Ok(frame)) => self.push(&frame.into_data().unwrap_or_default())?,
                Some(Err(_)) => {
                    self.has_ended = true;
                    return Err(incomplete());
                }
                None => self.has_ended = true,
            }
        }
    }

    fn push(&mut self, data: &Bytes) -> Result<(), ServiceError> {
        if !self.held.grow(data.len()) {
            return Err(ServiceError::RequestMemory { retry_after: RETRY });
        }
        // The buffer grows with the bytes that arrive, not with the announced length.
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    /// The first message of the buffer, if it is complete.
    fn take(&mut self) -> Result<Option<Envelope>, ServiceError> {
        let Some((prefix, _)) = self.bytes.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let [flags, length @ ..] = *prefix;
        let limit_bytes = self.limits.limit_bytes;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > limit_bytes.saturating_mul(2) {
            return Err(ServiceError::MessageTooLarge { limit_bytes });
        }
        let size = length.saturating_add(PREFIX);
        if size > self.bytes.len() {
            return Ok(None);
        }
        let whole = self.bytes.split_to(size).freeze();
        if size > LARGE {
            // The remaining bytes would otherwise keep all of the memory.
            self.bytes = BytesMut::from(self.bytes.as_ref());
        }
        let message = ReceivedBody::new(whole.slice(PREFIX..), self.held.split(size));
        Ok(Some(Envelope {
            flags,
            whole,
            message,
        }))
    }
}

impl Drop for Envelopes {
    fn drop(&mut self) {
        self.arriving.0.store(false, Ordering::Release);
        if self.has_ended {
            return;
        }
        if let (Some(linger), Ok(runtime)) = (self.limits.linger, Handle::try_current()) {
            let body = mem::take(&mut self.body);
            runtime.spawn(timeout(linger, discard(body)));
        }
    }
}
