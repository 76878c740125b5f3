//! Refusals at the HTTP port: what every door says of an error, whatever the shape of its protocol.

use std::time::Duration;

use axum::{body::Body, response::Response};
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use prost::Message as _;
use serde_json::Value;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _, pb};

use crate::rpc::{DOMAIN, Reason};

/// The content type of JSON.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The HTTP status of an error with this gRPC code, by the table of the Connect protocol
/// (<https://connectrpc.com/docs/protocol#error-codes>).
pub(crate) fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => CLIENT_CLOSED_REQUEST,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// 499, which is not registered, and which Connect and several proxies use.
const CLIENT_CLOSED_REQUEST: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};

/// What of HTTP a request uses that the port does not support.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsupported {
    /// Its path.
    Path,
    /// Its method.
    Method,
    /// The type or coding of its body.
    Content,
}

impl Unsupported {
    fn status(self) -> StatusCode {
        match self {
            Self::Path => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Content => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }
}

/// That a request is refused, in the extensions of its response, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) code: Code,
    /// `None` for errors that are not in docs/errors.md.
    pub(super) reason: Option<Reason>,
}

/// Why a request is not answered, for a door to say in its protocol's way.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: Code,
    /// `ErrorInfo.reason`, of docs/errors.md; empty if the error has none.
    pub(crate) reason: String,
    pub(crate) message: String,
    /// The fields that are wrong.
    pub(crate) fields: Vec<FieldViolation>,
    /// When the request may be sent again.
    pub(crate) retry_after: Option<Duration>,
    /// All details.
    pub(crate) details: Vec<prost_types::Any>,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let all = pb::Status::decode(status.details()).map(|decoded| decoded.details);
        Self {
            status: http_status(status.code()),
            code: status.code(),
            reason: details
                .error_info()
                .map(|info| info.reason.clone())
                .unwrap_or_default(),
            message: status.message().to_owned(),
            fields: details
                .bad_request()
                .map(|bad| bad.field_violations.clone())
                .unwrap_or_default(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            details: all.unwrap_or_default(),
        }
    }
}

impl Refusal {
    /// The refusal of a request that uses something which the port does not support.
    pub(crate) fn unsupported(what: Unsupported, message: &str) -> Self {
        let reason = Reason::HttpUnsupported;
        let details = ErrorDetails::with_error_info(reason.name(), DOMAIN, []);
        Self {
            status: what.status(),
            ..Status::with_error_details(reason.code(), message, details).into()
        }
    }

    /// The response with this body, which has the status of the refusal and says when to try again.
    pub(crate) fn respond(&self, body: &Value) -> Response {
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status;
        response.extensions_mut().insert(Refused {
            code: self.code,
            reason: Reason::ALL
                .iter()
                .find(|reason| reason.name() == self.reason)
                .copied(),
        });
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, JSON);
        if let Some(after) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(after)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The header has whole seconds; at least one, because zero would mean now.
fn whole_seconds(time: Duration) -> u64 {
    let more = u64::from(time.subsec_nanos() > 0);
    time.as_secs().saturating_add(more).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_whole_and_never_none() {
        for (millis, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (59_999, 60)] {
            assert_eq!(
                whole_seconds(Duration::from_millis(millis)),
                seconds,
                "{millis} ms"
            );
        }
    }

    #[test]
    fn codes_have_the_statuses_of_connect() {
        // https://connectrpc.com/docs/protocol#error-codes
        let table = [
            (Code::Cancelled, 499),
            (Code::Unknown, 500),
            (Code::InvalidArgument, 400),
            (Code::DeadlineExceeded, 504),
            (Code::NotFound, 404),
            (Code::AlreadyExists, 409),
            (Code::PermissionDenied, 403),
            (Code::ResourceExhausted, 429),
            (Code::FailedPrecondition, 400),
            (Code::Aborted, 409),
            (Code::OutOfRange, 400),
            (Code::Unimplemented, 501),
            (Code::Internal, 500),
            (Code::Unavailable, 503),
            (Code::DataLoss, 500),
            (Code::Unauthenticated, 401),
        ];
        for (code, status) in table {
            assert_eq!(http_status(code).as_u16(), status, "{code:?}");
        }
    }
}
