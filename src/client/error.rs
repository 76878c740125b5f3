//! Errors of calls, as values that a caller can act on.

use std::{error::Error, fmt, io, time::Duration};

use rustls::AlertDescription;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, RpcStatusExt as _, StatusExt as _};

use super::retry::ServerHint;
use crate::{proto::ItemStatus, status_code::code_name};

/// `ErrorInfo.domain` of errors that the service itself returns.
const DOMAIN: &str = "babelward";

/// [`RpcError::reason`] if the client has found that the connection is lost.
const CONNECTION_LOST: &str = "CONNECTION_LOST";

/// `ErrorInfo.reason` of a server that is shutting down.
const SERVER_DRAINING: &str = "SERVER_DRAINING";

/// The header with the time to wait before the next attempt, of which a negative number forbids it (gRFC A6).
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// One field that the server has refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path of the field.
    pub field: String,
    /// The rule that it violates.
    pub description: String,
}

/// A `google.rpc.Status`, of a call or of one item of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcError {
    /// The status code, which is never `Ok`.
    pub code: Code,
    /// `ErrorInfo.reason`, the stable name of the error; absent if the server has sent none.
    pub reason: Option<String>,
    /// The message for people.
    pub message: String,
    /// The fields that were refused.
    pub violations: Vec<FieldViolation>,
    /// What the server says about retries.
    pub hint: ServerHint,
}

impl RpcError {
    /// The error for the status that ended a call.
    pub fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let pushback = status.metadata().get(PUSHBACK).map(|value| {
            let wait = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
            wait.map_or(ServerHint::Never, |ms| {
                ServerHint::Exactly(Duration::from_millis(ms))
            })
        });
        // A status that the server has sent has no source. One with a source means that the connection broke, or was never
        // made.
        if let (Code::Unknown | Code::Unavailable | Code::Internal, Some(cause)) =
            (status.code(), status.source())
        {
            let message = format!(
                "the connection to the server was lost, or the server is shutting down: {}",
                innermost(cause)
            );
            return Self::local(Code::Unavailable, CONNECTION_LOST, message);
        }
        Self::assemble(status.code(), status.message(), &details, pushback)
    }

    /// The error for the status of one item.
    pub fn from_item(status: ItemStatus) -> Self {
        let status = tonic_types::Status {
            code: status.code,
            message: status.message,
            details: status.details,
        };
        let details = status.get_error_details();
        // An item that failed without an error code is an error of the server.
        let code = match Code::from_i32(status.code) {
            Code::Ok => Code::Unknown,
            code => code,
        };
        Self::assemble(code, &status.message, &details, None)
    }

    /// An error that the client itself has found.
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
        // The service states a time to retry whenever a retry can help. Errors of a proxy, or of the layers below the service,
        // state nothing.
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

    /// Whether the connection broke, so that the server has not answered.
    pub fn is_connection_lost(&self) -> bool {
        self.reason.as_deref() == Some(CONNECTION_LOST)
    }

    /// Whether the server said that it is shutting down.
    pub fn is_server_draining(&self) -> bool {
        self.reason.as_deref() == Some(SERVER_DRAINING)
    }

    /// Whether the same request may succeed later: for UNAVAILABLE and RESOURCE_EXHAUSTED, unless the server forbids a retry.
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
            // Violations that the message contains already are not repeated.
            if !self.message.contains(&line) {
                write!(f, "\n  {line}")?;
            }
        }
        Ok(())
    }
}

impl Error for RpcError {}

/// Why a call of the client failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server's address cannot be used.
    #[error("`{address}` is not a server address like http://127.0.0.1:50051: {reason}")]
    BadAddress {
        /// The given address.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The key or token would be sent to another machine without encryption.
    #[error(
        "the key or token would be sent to {address} without encryption, for everybody on the way to read; say https:// \
         (dns+https:/// for dns:///), or --insecure-plaintext-token (BABELWARD_INSECURE_PLAINTEXT_TOKEN=true) where a \
         proxy or mesh encrypts"
    )]
    PlaintextToken {
        /// The address.
        address: String,
    },
    /// Something answers at the address, but the TLS connection failed.
    #[error("no connection with TLS to {address}: {problem}")]
    Tls {
        /// The given address.
        address: String,
        /// What went wrong.
        problem: TlsProblem,
    },
    /// Nothing answers at the address.
    #[error("no server answers at {address}: {reason}; is `babelward serve` running there?")]
    Unreachable {
        /// The given address.
        address: String,
        /// The system's reason.
        reason: String,
    },
    /// The server refused the call, or the retries did not help.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// The stream broke repeatedly without an answer in between.
    #[error("the stream broke {streams} times in a row, {unanswered} items are unanswered; last: {last}")]
    StreamGaveUp {
        /// Number of streams that broke in a row.
        streams: u32,
        /// Number of items without a result.
        unanswered: usize,
        /// The error of the last stream.
        last: RpcError,
    },
    /// Two items of one stream have the same id.
    #[error("item id `{0}` is used twice")]
    DuplicateId(String),
    /// The server sent an answer that does not belong to any request.
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
}

/// Why the TLS connection failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsProblem {
    /// The server's certificate is not accepted.
    #[error(
        "the server's certificate is not accepted ({0}); if it was issued by an authority of your own, name that \
         authority's certificate with --ca-file"
    )]
    Certificate(String),
    /// The peer does not speak TLS.
    #[error(
        "what listens there does not speak TLS ({0}); say http:// to call a server without TLS, or name the proxy that \
         speaks it"
    )]
    NotSpoken(String),
    /// The client's own part of TLS could not be set up.
    #[error("it could not be set up ({0}); check the files of --ca-file, --client-cert and --client-key")]
    NotSetUp(String),
    /// The server does not accept the client's certificate, or wants one.
    #[error(
        "the server wants a certificate of the client and accepts none that was shown ({0}); see --client-cert"
    )]
    Client(String),
}

impl ClientError {
    /// The error of a connection to `address` that failed.
    pub(super) fn not_connected(address: &str, error: &(dyn Error + 'static)) -> Self {
        let address = address.to_owned();
        let problem = match tls_error(error) {
            Some(error @ rustls::Error::InvalidCertificate(_)) => TlsProblem::Certificate(error.to_string()),
            Some(error @ rustls::Error::AlertReceived(alert)) if is_about_the_client(*alert) => {
                TlsProblem::Client(error.to_string())
            }
            Some(error) => TlsProblem::NotSpoken(error.to_string()),
            None => {
                let reason = innermost(error);
                return Self::Unreachable { address, reason };
            }
        };
        Self::Tls { address, problem }
    }
}

/// Whether a server says with this that it does not accept the client's certificate, or wants one.
fn is_about_the_client(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
    )
}

/// The error of rustls inside of an error chain, where it is wrapped in an error of the system.
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

/// The text of the last error in a chain, because the text of tonic's own error is only "transport error".
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
