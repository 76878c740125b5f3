//! How messages are written, and what else the headers of a request say of them.

use http::{HeaderMap, HeaderValue, header::CONTENT_ENCODING};

use crate::{
    http::{
        caller::{is_json, media_type},
        status::{JSON, Refusal, Unsupported},
    },
    rpc::ServiceError,
};

/// The header of an answer with the trace that the call belongs to.
pub(super) const TRACERESPONSE: &str = "traceresponse";

/// The content type of protobuf messages.
const PROTO: HeaderValue = HeaderValue::from_static("application/proto");

/// The content type of streams of JSON messages.
const JSON_STREAM: HeaderValue = HeaderValue::from_static("application/connect+json");

/// The content type of streams of protobuf messages.
const PROTO_STREAM: HeaderValue = HeaderValue::from_static("application/connect+proto");

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Proto,
}

impl Format {
    /// The format of a request that is one message, which its answer has too.
    pub(super) fn of_message(headers: &HeaderMap) -> Result<Self, Refusal> {
        let coding = headers.get(CONTENT_ENCODING);
        if coding.is_some_and(|coding| coding != IDENTITY) {
            let says = "bodies are read as they are: send this one without `content-encoding`";
            return Err(Refusal::unsupported(Unsupported::Content, says));
        }
        if is_json(headers) {
            Ok(Self::Json)
        } else if is_type(headers, &PROTO) {
            Ok(Self::Proto)
        } else {
            let says = "send the message with `content-type: application/json` (or application/proto)";
            Err(Refusal::unsupported(Unsupported::Content, says))
        }
    }

    /// The format of the messages of a stream, which its answers have too.
    pub(super) fn of_stream(headers: &HeaderMap) -> Result<Self, Refusal> {
        if is_type(headers, &JSON_STREAM) {
            Ok(Self::Json)
        } else if is_type(headers, &PROTO_STREAM) {
            Ok(Self::Proto)
        } else {
            let says = "this call has streams of messages: send each behind five bytes, its flags and its length, with \
                        `content-type: application/connect+json` (or application/connect+proto); docs/http.md says how";
            Err(Refusal::unsupported(Unsupported::Content, says))
        }
    }

    /// The content type of an answer that is one message.
    pub(super) fn of_answer(self) -> HeaderValue {
        match self {
            Self::Json => JSON,
            Self::Proto => PROTO,
        }
    }

    /// The content type of a stream of answers.
    pub(super) fn of_answers(self) -> HeaderValue {
        match self {
            Self::Json => JSON_STREAM,
            Self::Proto => PROTO_STREAM,
        }
    }
}

/// The only coding of messages.
const IDENTITY: &str = "identity";

fn is_type(headers: &HeaderMap, kind: &HeaderValue) -> bool {
    media_type(headers).is_some_and(|given| given.as_bytes().eq_ignore_ascii_case(kind.as_bytes()))
}

/// Checks what the headers of a stream say of its messages. Their coding has a header of its own, because that of the body would
/// be about the stream as a whole.
pub(super) fn check_stream(headers: &HeaderMap) -> Result<(), ServiceError> {
    let codings = [
        headers.get("connect-content-encoding"),
        headers.get(CONTENT_ENCODING),
    ];
    if codings.into_iter().flatten().any(|coding| coding != IDENTITY) {
        return Err(ServiceError::HttpUnsupported(
            "messages are read as they are: send them without `connect-content-encoding`",
        ));
    }
    check_version(headers)
}

/// Clients of the protocol may say its version, of which there is one.
pub(super) fn check_version(headers: &HeaderMap) -> Result<(), ServiceError> {
    const VERSION: &str = "connect-protocol-version";
    match headers.get(VERSION) {
        Some(version) if version != "1" => Err(ServiceError::field(VERSION, "must be 1")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().copied();
        pairs
            .map(|(name, value)| {
                (
                    http::header::HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn messages_and_streams_have_types_of_their_own() {
        for (kind, message, stream) in [
            ("application/json", Some(Format::Json), None),
            ("application/proto", Some(Format::Proto), None),
            ("application/connect+json", None, Some(Format::Json)),
            (
                "Application/Connect+JSON; charset=utf-8",
                None,
                Some(Format::Json),
            ),
            ("application/connect+proto", None, Some(Format::Proto)),
            ("application/grpc", None, None),
        ] {
            let headers = with(&[("content-type", kind)]);
            assert_eq!(Format::of_message(&headers).ok(), message, "{kind}");
            assert_eq!(Format::of_stream(&headers).ok(), stream, "{kind}");
        }
    }

    #[test]
    fn coded_messages_and_other_versions_are_refused() {
        for right in [
            with(&[]),
            with(&[
                ("connect-content-encoding", "identity"),
                ("connect-protocol-version", "1"),
            ]),
        ] {
            assert_eq!(check_stream(&right), Ok(()));
        }
        for coded in ["connect-content-encoding", "content-encoding"] {
            let refused = check_stream(&with(&[(coded, "gzip")]));
            assert!(
                matches!(refused, Err(ServiceError::HttpUnsupported(_))),
                "{coded}"
            );
        }
        let refused = check_stream(&with(&[("connect-protocol-version", "2")]));
        assert!(matches!(refused, Err(ServiceError::InvalidFields(_))));
    }
}
