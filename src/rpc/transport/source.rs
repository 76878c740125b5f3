//! Where the bytes of a request come from: a stream of a connection, or a caller in this process.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http_body::Body as _;
use tonic::body::Body;

/// Where the bytes of a request come from.
pub(crate) enum Source {
    /// A stream of an HTTP/2 connection, whose client may send as much again as is released.
    Stream(RecvStream),
    /// A caller in this process. It has its request at hand, so it is not slowed.
    Local(Body),
}

/// The client has cancelled its request, or is gone.
pub(super) struct Gone;

impl Source {
    /// The next bytes; `None` at the end.
    pub(super) fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Gone>>> {
        match self {
            Self::Stream(stream) => Poll::Ready(match ready!(stream.poll_data(context)) {
                Some(Ok(data)) => Some(Ok(data)),
                Some(Err(error)) if error.reason() != Some(Reason::NO_ERROR) => Some(Err(Gone)),
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
        }
    }

    /// Lets the client send as many bytes again. A stream that has ended has no window.
    pub(super) fn release(&mut self, bytes: usize) {
        if let Self::Stream(stream) = self {
            let _ended = stream.flow_control().release_capacity(bytes);
        }
    }
}
