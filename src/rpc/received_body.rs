//! The body of a request of the HTTP port, read as a whole within its bytes of the memory for requests.

use std::{future::poll_fn, pin::Pin};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame};

use super::{entrance::RETRY, error::ServiceError, transport::HeldBytes};

/// The body of a request, or a message of it, and its bytes of the memory for requests.
pub(crate) struct ReceivedBody {
    pub(crate) bytes: Bytes,
    held: HeldBytes,
}

impl ReceivedBody {
    /// Bytes that have arrived, and are counted as `held`.
    pub(super) fn new(bytes: Bytes, held: HeldBytes) -> Self {
        Self { bytes, held }
    }

    /// Counts more bytes to the request, for what is made of its body, until this is dropped.
    ///
    /// # Errors
    /// When the memory for requests is used up.
    pub(crate) fn hold(&mut self, more: usize) -> Result<(), ServiceError> {
        match self.held.grow(more) {
            true => Ok(()),
            false => Err(ServiceError::RequestMemory { retry_after: RETRY }),
        }
    }
}

/// The error of a body that is shorter than it was said to be.
pub(super) fn incomplete() -> ServiceError {
    ServiceError::field("body", "ended before it was complete")
}

/// Reads a whole body of at most `limit_bytes`, which are counted as `held`.
pub(super) async fn collect(
    body: &mut Body,
    mut held: HeldBytes,
    limit_bytes: usize,
) -> Result<ReceivedBody, ServiceError> {
    let too_large = ServiceError::MessageTooLarge { limit_bytes };
    if body.size_hint().lower() > limit_bytes as u64 {
        return Err(too_large);
    }
    let mut bytes = BytesMut::new();
    while let Some(frame) = next_frame(body).await {
        let frame = frame.map_err(|_| incomplete())?;
        // Trailers of a request mean nothing here.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if data.len() > limit_bytes - bytes.len() {
            return Err(too_large);
        }
        if !held.grow(data.len()) {
            return Err(ServiceError::RequestMemory { retry_after: RETRY });
        }
        bytes.extend_from_slice(&data);
    }
    Ok(ReceivedBody::new(bytes.freeze(), held))
}

/// The next frame of a body; `None` at its end.
pub(super) async fn next_frame(body: &mut Body) -> Option<Result<Frame<Bytes>, axum::Error>> {
    poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await
}

/// Reads the rest of a body, and keeps nothing of it.
pub(super) async fn discard(mut body: Body) {
    while let Some(Ok(_)) = next_frame(&mut body).await {}
}
