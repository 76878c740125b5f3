//! Connect: every unary call of the proto files as one POST of JSON or protobuf, as the Connect protocol says
//! (<https://connectrpc.com/docs/protocol>). The types are read from the descriptors, so that a call that is added to the
//! proto files is answered here without a change.

mod bytes_codec;
mod details;
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
use http::{
    HeaderMap, HeaderValue,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use prost_reflect::DescriptorError;
use tonic::{Status, client::Grpc};

use self::{
    bytes_codec::BytesCodec,
    types::{Call, calls},
};
use super::{
    caller::{Caller, is_json, media_type},
    json,
    status::{JSON, Refusal, Unsupported},
};
use crate::rpc::{Door, RefusedRequest, ServiceError};

/// This door in the log.
const DOOR: Door = Door("connect");

/// The header of an answer with the trace that the call belongs to.
const TRACERESPONSE: &str = "traceresponse";

/// A path for every call.
///
/// # Errors
/// When our own descriptors cannot be read.
pub(super) fn router() -> Result<Router, DescriptorError> {
    let mut router = Router::new();
    for call in calls()? {
        let (path, call) = (call.path.to_string(), Arc::new(call));
        let handler = move |request: Request| answer(Arc::clone(&call), request);
        router = router.route(&path, post(handler));
    }
    Ok(router)
}

async fn answer(call: Arc<Call>, request: Request) -> Response {
    match try_answer(&call, request).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    }
}

async fn try_answer(call: &Call, request: Request) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    if call.is_stream {
        let says = "this call has streams of messages, which this port does not have; make it over gRPC (server.listen)";
        return Err(Refusal::unsupported(Unsupported::Stream, says));
    }
    let format = Format::of(&head.headers)?;
    check_version(&head.headers)?;
    let caller = Caller::of(&head)?;
    let mut request = tonic::Request::new(Bytes::new());
    // Nothing is read of the body of a caller who may not call. The call is made in any case, so that it is counted and logged.
    let message = match caller.admit() {
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
    let (kind, body) = match format {
        Format::Json => (JSON, call.to_json(&answer.into_inner()).map_err(unreadable)?),
        Format::Proto => (PROTO, answer.into_inner()),
    };
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, kind);
    if let Some(trace) = trace.and_then(|trace| HeaderValue::from_bytes(trace.as_bytes()).ok()) {
        response.headers_mut().insert(TRACERESPONSE, trace);
    }
    Ok(response)
}

/// The answers are our own messages, so this does not happen.
fn unreadable(_error: types::NotJson) -> Refusal {
    Status::internal("the answer could not be written as JSON").into()
}

/// The encoded request message. What is read of the body is given back with this: only the message is kept.
async fn message(call: &Call, format: Format, caller: &Caller, body: Body) -> Result<Bytes, ServiceError> {
    let mut received = caller.read(body).await?;
    match format {
        Format::Json => {
            let message = json::read(&mut received, caller.most_values(), call.request.clone())?;
            Ok(types::encode(&message))
        }
        Format::Proto => Ok(received.bytes.clone()),
    }
}

/// The content type of protobuf messages.
const PROTO: HeaderValue = HeaderValue::from_static("application/proto");

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Proto,
}

impl Format {
    /// The format of a request, which its answer has too.
    fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let coding = headers.get(CONTENT_ENCODING);
        if coding.is_some_and(|coding| coding != "identity") {
            let says = "bodies are read as they are: send this one without `content-encoding`";
            return Err(Refusal::unsupported(Unsupported::Content, says));
        }
        let kind = media_type(headers).unwrap_or_default();
        if is_json(headers) {
            Ok(Self::Json)
        } else if kind.eq_ignore_ascii_case("application/proto") {
            Ok(Self::Proto)
        } else {
            let says = "send the message with `content-type: application/json` (or application/proto)";
            Err(Refusal::unsupported(Unsupported::Content, says))
        }
    }
}

/// Clients of the protocol may say its version, of which there is one.
fn check_version(headers: &HeaderMap) -> Result<(), Refusal> {
    const VERSION: &str = "connect-protocol-version";
    match headers.get(VERSION) {
        Some(version) if version != "1" => {
            let error = ServiceError::field(VERSION, "must be 1");
            Err(error.to_status("").into())
        }
        _ => Ok(()),
    }
}
