//! Calls with streams of messages, as the Connect protocol says (<https://connectrpc.com/docs/protocol#streaming-rpcs>): messages in
//! envelopes, and an envelope with the outcome at the end, also of what is refused.
//!
//! Messages go into the call as they arrive. Over HTTP/1.1 most clients read nothing before they have sent all; see [`Answers`].

use std::sync::Arc;

use axum::{body::Body, extract::Request, response::Response};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{
    HeaderMap, HeaderValue, Method, Uri,
    header::{CONTENT_TYPE, TE},
    request::Parts,
};
use tonic::Status;

use super::{
    answers::{Answers, outcome},
    envelope::{COMPRESSED, end, seal},
    format::{Format, TRACERESPONSE, check_stream},
    types::{self, Call, DOOR},
};
use crate::{
    http::{caller::Caller, json, status::Refusal},
    rpc::{Arriving, Envelope, Envelopes, MadeMessages, RefusedRequest, ServiceError},
};

/// Answers a call. Only a request whose messages have no format that is known is refused by its status.
pub(super) async fn answer(call: Arc<Call>, request: Request) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    let format = Format::of_stream(&head.headers)?;
    let begun = begin(call, format, &head, body).await;
    let (body, headers) = match begun {
        Ok(begun) => (begun.body, begun.headers),
        Err(refusal) => (Body::from(end(Some(&refusal))), HeaderMap::new()),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, format.of_answers());
    if let Some(trace) = headers.get(TRACERESPONSE) {
        response.headers_mut().insert(TRACERESPONSE, trace.clone());
    }
    Ok(response)
}

/// A response that has begun.
struct Begun {
    body: Body,
    /// The headers of the call's answer.
    headers: HeaderMap,
}

async fn begin(call: Arc<Call>, format: Format, head: &Parts, body: Body) -> Result<Begun, Refusal> {
    let caller = Caller::of(head)?;
    let (mut made, ()) = http::Request::new(()).into_parts();
    made.method = Method::POST;
    made.uri = Uri::from(call.path.clone());
    made.headers
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    made.headers.insert(TE, HeaderValue::from_static("trailers"));
    // Nothing is read of the body of a caller who may not call. The call is made in any case, so that it is counted and logged.
    let admitted = caller.admit().and_then(|()| check_stream(&head.headers));
    let (messages, arriving) = match admitted {
        Ok(()) => {
            let envelopes = caller.envelopes(body);
            let arriving = envelopes.arriving();
            let reader = Reader {
                call: Arc::clone(&call),
                format,
                caller: caller.clone(),
                envelopes,
                taken: 0,
            };
            (reader.messages(), arriving)
        }
        Err(error) => {
            made.extensions.insert(RefusedRequest(error));
            (stream::empty().boxed(), Arriving::default())
        }
    };
    let answer = caller.call_with(DOOR, made, messages).await;
    let (answer, body) = answer.into_parts();
    let body = match Status::from_header_map(&answer.headers) {
        // A status in the headers is the whole answer.
        Some(status) => Body::from(end(outcome(Some(status)).err().as_ref())),
        None => {
            let answers = Answers {
                call,
                format,
                caller,
                arriving,
                body,
            };
            answers.into_body()
        }
    };
    Ok(Begun {
        body,
        headers: answer.headers,
    })
}

/// Makes the messages of a call of the envelopes that arrive.
struct Reader {
    call: Arc<Call>,
    format: Format,
    caller: Caller,
    envelopes: Envelopes,
    /// Messages that have been taken.
    taken: u64,
}

impl Reader {
    /// The messages with the prefixes that they have in gRPC. Nothing follows an error.
    fn messages(self) -> MadeMessages {
        let messages = stream::try_unfold(self, |mut reader| async move {
            let message = reader.next().await?;
            Ok(message.map(|message| (message, reader)))
        });
        messages.boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, ServiceError> {
        let envelope = self.envelopes.next().await?;
        let is_single = !self.call.takes_stream;
        let Some(envelope) = envelope else {
            return match is_single && self.taken == 0 {
                true => Err(wrong("has no message: send one, in an envelope")),
                false => Ok(None),
            };
        };
        if is_single && self.taken > 0 {
            return Err(wrong("has another message: this call takes one"));
        }
        self.taken += 1;
        self.message(envelope).map(Some)
    }

    /// What is read of the envelope is given back with this: only the message is kept.
    fn message(&self, mut envelope: Envelope) -> Result<Bytes, ServiceError> {
        match envelope.flags {
            0 => {}
            COMPRESSED => {
                return Err(ServiceError::HttpUnsupported(
                    "messages are read as they are: send them without the flag 1, which says that they are compressed",
                ));
            }
            _ => {
                return Err(wrong(
                    "has an envelope whose first byte is not 0, so there is no message in it",
                ));
            }
        }
        match self.format {
            Format::Json => {
                let kind = self.call.request.clone();
                let message = json::read(&mut envelope.message, self.caller.most_memory(), kind);
                let message = message.map_err(|error| self.in_this_message(error))?;
                Ok(seal(0, &types::encode(&message)))
            }
            Format::Proto => Ok(envelope.whole),
        }
    }

    /// An error of a message's JSON, which says in which of several messages it is.
    fn in_this_message(&self, mut error: ServiceError) -> ServiceError {
        if let ServiceError::InvalidFields(violations) = &mut error
            && self.call.takes_stream
        {
            for violation in violations {
                violation.description = format!("{} of message {}", violation.description, self.taken);
            }
        }
        error
    }
}

/// The error of a body that is no stream of messages for its call.
fn wrong(what: &str) -> ServiceError {
    ServiceError::field("body", what)
}
