//! Where the bytes of a request come from: a stream of a connection, a caller in this process, or a request of another protocol.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use h2::{Reason, RecvStream};
use http_body::Body as _;
use tonic::body::Body;

use crate::rpc::error::ServiceError;

/// Messages with the prefixes that they have in gRPC, which are made one by one as a request of another protocol arrives. Nothing
/// follows an error.
pub(crate) type MadeMessages = BoxStream<'static, Result<Bytes, ServiceError>>;

/// Where the bytes of a request come from.
pub(crate) enum Source {
    /// A stream of an HTTP/2 connection, whose client may send as much again as is released.
    Stream(RecvStream),
    /// A caller in this process. It has its request at hand, so it is not slowed.
    Local(Body),
    /// A request of another protocol that is still arriving. Its client is slowed, because nothing is made ahead of what is worked
    /// on beyond a bound.
    Made(MadeMessages),
}

/// Why nothing more comes.
pub(super) enum Stopped {
    /// The client has cancelled its request, or is gone.
    Gone,
    /// The next message could not be made.
    Refused(ServiceError),
}

impl Source {
    /// The next bytes; `None` at the end.
    pub(super) fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Stopped>>> {
        match self {
            Self::Stream(stream) => Poll::Ready(match ready!(stream.poll_data(context)) {
                Some(Ok(data)) => Some(Ok(data)),
                Some(Err(error)) if error.reason() != Some(Reason::NO_ERROR) => Some(Err(Stopped::Gone)),
                // Trailers of a request mean nothing in gRPC.
                Some(Err(_)) | None => None,
            }),
            Self::Local(body) => loop {
                match ready!(Pin::new(&mut *body).poll_frame(context)) {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => return Poll::Ready(Some(Ok(data))),
                        Err(_trailers) => {}
                    },
                    // A request that could not be encoded ends early, and its last message is incomplete.
                    Some(Err(_)) | None => return Poll::Ready(None),
                }
            },
            Self::Made(messages) => messages
                .poll_next_unpin(context)
                .map(|next| next.map(|message| message.map_err(Stopped::Refused))),
        }
    }

    /// Whether it waits to be read before its client may send more.
    pub(super) fn is_paced(&self) -> bool {
        matches!(self, Self::Made(_))
    }

    /// No more messages are wanted: none are made any longer.
    pub(super) fn close(&mut self) {
        if let Self::Made(messages) = self {
            *messages = stream::empty().boxed();
        }
    }

    /// Lets the client send as many bytes again. A stream that has ended has no window.
    pub(super) fn release(&mut self, bytes: usize) {
        if let Self::Stream(stream) = self {
            let _ended = stream.flow_control().release_capacity(bytes);
        }
    }
}
