//! What can go wrong in a call, as values that a caller can act on.

use std::{error::Error, fmt, io, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, RpcStatusExt as _, StatusExt as _};

use super::retry::ServerHint;
use crate::proto::ItemStatus;

/// `ErrorInfo.domain` of errors that the service itself gives.
const DOMAIN: &str = "babelward";

/// [`RpcError::reason`] where the client itself found that the connection is gone.
const CONNECTION_LOST: &str = "CONNECTION_LOST";

/// `ErrorInfo.reason` of a server that is being stopped.
const SERVER_DRAINING: &str = "SERVER_DRAINING";

/// gRFC A6: how long to wait before the next attempt; a negative number forbids it.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// One field that the server did not accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path of the field.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

/// A `google.rpc.Status`, of a call or of one item of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcError {
    /// Never `Ok`.
    pub code: Code,
    /// `ErrorInfo.reason`: the stable name of the error; absent when the server sent none.
    pub reason: Option<String>,
    /// For developers.
    pub message: String,
    /// Every field that was not accepted.
    pub violations: Vec<FieldViolation>,
    /// What the server says about trying again.
    pub hint: ServerHint,
}

impl RpcError {
    /// From the status that ended a call.
    pub fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let pushback = status.metadata().get(PUSHBACK).map(|value| {
            let wait = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
            wait.map_or(ServerHint::Never, |ms| {
                ServerHint::Exactly(Duration::from_millis(ms))
            })
        });
        // What the server says has no source; with one, the connection broke on the way, or there was none.
        if let (Code::Unknown | Code::Unavailable | Code::Internal, Some(cause)) =
            (status.code(), status.source())
        {
            let message = format!(
                "the connection to the server was lost, or the server is going away: {}",
                innermost(cause)
            );
            return Self::local(Code::Unavailable, CONNECTION_LOST, message);
        }
        Self::assemble(status.code(), status.message(), &details, pushback)
    }

    /// From the error of one item.
    pub fn from_item(status: ItemStatus) -> Self {
        let status = tonic_types::Status {
            code: status.code,
            message: status.message,
            details: status.details,
        };
        let details = status.get_error_details();
        // An item that failed without an error code is the server's fault.
        let code = match Code::from_i32(status.code) {
            Code::Ok => Code::Unknown,
            code => code,
        };
        Self::assemble(code, &status.message, &details, None)
    }

    /// An error that the client itself found.
    pub fn local(code: Code, reason: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: Some(reason.to_owned()),
            message: message.into(),
            violations: Vec::new(),
            hint: ServerHint::None,
        }
    }

    fn assemble(code: Code, message: &str, details: &ErrorDetails, pushback: Option<ServerHint>) -> Self {
        let retry_delay = details.retry_info().and_then(|info| info.retry_delay);
        let violations = details.bad_request().map_or_else(Vec::new, |bad| {
            let fields = bad.field_violations.iter();
            fields
                .map(|violation| FieldViolation {
                    field: violation.field.clone(),
                    description: violation.description.clone(),
                })
                .collect()
        });
        // The service says when to come back wherever that can help. A proxy, or what is below the service, says
        // nothing either way.
        let info = details.error_info();
        let unhinted = match info {
            Some(info) if info.domain == DOMAIN => ServerHint::Never,
            _ => ServerHint::None,
        };
        Self {
            code,
            reason: info.map(|info| info.reason.clone()),
            message: message.to_owned(),
            violations,
            hint: pushback
                .or(retry_delay.map(ServerHint::AtLeast))
                .unwrap_or(unhinted),
        }
    }

    /// Whether it is the connection that broke: the server has not answered.
    pub fn is_connection_lost(&self) -> bool {
        self.reason.as_deref() == Some(CONNECTION_LOST)
    }

    /// Whether the server said that it is going away.
    pub fn is_server_draining(&self) -> bool {
        self.reason.as_deref() == Some(SERVER_DRAINING)
    }

    /// Whether the same request may succeed later: UNAVAILABLE and RESOURCE_EXHAUSTED, unless the server says that
    /// it will not.
    pub fn is_retryable(&self) -> bool {
        matches!(self.code, Code::Unavailable | Code::ResourceExhausted) && self.hint != ServerHint::Never
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(code_name(self.code))?;
        if let Some(reason) = &self.reason {
            write!(f, " ({reason})")?;
        }
        write!(f, ": {}", self.message)?;
        for FieldViolation { field, description } in &self.violations {
            let line = format!("{field}: {description}");
            // The message has as many as its length allows.
            if !self.message.contains(&line) {
                write!(f, "\n  {line}")?;
            }
        }
        Ok(())
    }
}

impl Error for RpcError {}

/// Why a client call did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server's address cannot be used.
    #[error("`{address}` is not a server address like http://127.0.0.1:50051: {reason}")]
    BadAddress {
        /// As given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Somebody answers there, but TLS did not come about.
    #[error("no connection with TLS to {address}: {problem}")]
    Tls {
        /// As given.
        address: String,
        /// What went wrong.
        problem: TlsProblem,
    },
    /// Nobody answers there.
    #[error("no server answers at {address}: {reason}; is `babelward serve` running there?")]
    Unreachable {
        /// As given.
        address: String,
        /// The system's reason.
        reason: String,
    },
    /// The server refused the call, or the retries did not help.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// The stream broke again and again without one answer in between.
    #[error("the stream broke {streams} times in a row, {unanswered} items are unanswered; last: {last}")]
    StreamGaveUp {
        /// Streams that were opened in vain.
        streams: u32,
        /// Items without a result.
        unanswered: usize,
        /// What ended the last one.
        last: RpcError,
    },
    /// Two items of one stream have the same id.
    #[error("item id `{0}` is used twice")]
    DuplicateId(String),
    /// The server answered something that was not asked.
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
}

/// Why TLS did not come about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsProblem {
    /// The server's certificate is not accepted.
    #[error(
        "the server's certificate is not accepted ({0}); if it was issued by an authority of your own, name that \
         authority's certificate with --ca-file"
    )]
    Certificate(String),
    /// What answers does not speak TLS.
    #[error(
        "what listens there does not speak TLS ({0}); say http:// to call `babelward serve` itself, which speaks none, \
         or name the proxy that does"
    )]
    NotSpoken(String),
    /// The client's own part could not be set up.
    #[error("it could not be set up ({0}); name the certificates of the authorities to trust with --ca-file")]
    NotSetUp(String),
}

impl ClientError {
    /// Why there is no connection to `address`.
    pub(super) fn not_connected(address: &str, error: &(dyn Error + 'static)) -> Self {
        let address = address.to_owned();
        let problem = match tls_error(error) {
            Some(error @ rustls::Error::InvalidCertificate(_)) => TlsProblem::Certificate(error.to_string()),
            Some(error) => TlsProblem::NotSpoken(error.to_string()),
            None => {
                let reason = innermost(error);
                return Self::Unreachable { address, reason };
            }
        };
        Self::Tls { address, problem }
    }
}

/// What rustls says, which travels inside of the system's errors.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = inside.and_then(|inside| inside.downcast_ref()) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The code as in the gRPC specification, for example `RESOURCE_EXHAUSTED`.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The last error of a chain: tonic's own text is only "transport error".
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
