//! Connect: every call of the proto files as one POST of JSON or protobuf, as the Connect protocol says
//! (<https://connectrpc.com/docs/protocol>). [`streams`] has the calls with streams of messages. The types are read from the descriptors, so that a call that is added to the
//! proto files is answered here without a change.

mod answers;
mod bytes_codec;
mod details;
mod envelope;
mod format;
mod streams;
mod types;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::Request,
    response::{IntoResponse as _, Response},
    routing::post,
};
use bytes::Bytes;
use http::{HeaderValue, header::CONTENT_TYPE};
use prost_reflect::DescriptorError;
use tonic::client::Grpc;

use self::{
    bytes_codec::BytesCodec,
    format::{Format, TRACERESPONSE, check_version},
    types::{Call, DOOR, calls},
};
use super::{caller::Caller, json, record::recorded, status::Refusal};
use crate::rpc::{RefusedRequest, ServiceError};

/// All calls, by their paths.
pub(super) struct Calls(Vec<Call>);

impl Calls {
    /// Reads our own descriptors.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(super) fn new() -> Result<Self, DescriptorError> {
        Ok(Self(calls()?))
    }

    /// The encoded message that a body of JSON is for the call with this path. `None` if there is no such call.
    pub(super) fn message(&self, path: &str, body: &[u8]) -> Option<Result<Vec<u8>, ServiceError>> {
        let call = self.0.iter().find(|call| call.path == path)?;
        let message = json::parse(body, call.request.clone());
        Some(message.map(|message| types::encode(&message).to_vec()))
    }
}

/// A path for every call.
///
/// # Errors
/// When our own descriptors cannot be read.
pub(super) fn router() -> Result<Router, DescriptorError> {
    let mut router = Router::new();
    for call in calls()? {
        let (path, call) = (call.path.to_string(), Arc::new(call));
        let handler = move |request: Request| answer(Arc::clone(&call), request);
        router = router.route(&path, recorded(post(handler), DOOR, &path));
    }
    Ok(router)
}

async fn answer(call: Arc<Call>, request: Request) -> Response {
    let answered = match call.is_stream {
        true => streams::answer(call, request).await,
        false => try_answer(&call, request).await,
    };
    match answered {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    }
}

async fn try_answer(call: &Call, request: Request) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    let format = Format::of_message(&head.headers)?;
    let caller = Caller::of(&head)?;
    let mut request = tonic::Request::new(Bytes::new());
    // Nothing is read of the body of a caller who may not call. The call is made in any case, so that it is counted and logged.
    let admitted = caller.admit().and_then(|()| check_version(&head.headers));
    let message = match admitted {
        Ok(()) => message(call, format, &caller, body).await,
        Err(error) => Err(error),
    };
    match message {
        Ok(message) => *request.get_mut() = message,
        Err(error) => {
            request.extensions_mut().insert(RefusedRequest(error));
        }
    }
    let mut client = Grpc::new(caller.channel(DOOR)).max_decoding_message_size(usize::MAX);
    let Ok(()) = client.ready().await;
    let answer = client.unary(request, call.path.clone(), BytesCodec).await?;
    let trace = answer.metadata().get(TRACERESPONSE).cloned();
    let body = match format {
        Format::Json => call.to_json(&answer.into_inner())?,
        Format::Proto => answer.into_inner(),
    };
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, format.of_answer());
    if let Some(trace) = trace.and_then(|trace| HeaderValue::from_bytes(trace.as_bytes()).ok()) {
        response.headers_mut().insert(TRACERESPONSE, trace);
    }
    Ok(response)
}

/// The encoded request message. What is read of the body is given back with this: only the message is kept.
async fn message(call: &Call, format: Format, caller: &Caller, body: Body) -> Result<Bytes, ServiceError> {
    let mut received = caller.read(body).await?;
    match format {
        Format::Json => {
            let message = json::read(&mut received, caller.most_memory(), call.request.clone())?;
            Ok(types::encode(&message))
        }
        Format::Proto => Ok(received.bytes.clone()),
    }
}
