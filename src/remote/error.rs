//! What goes wrong between this server and an endpoint.

use std::{path::PathBuf, time::Duration};

use crate::tls::TlsError;

/// Why an endpoint cannot be used at all, found before it is asked.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The authorities of its certificate cannot be read.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The host of its address has no form that a certificate could name.
    #[error("the host `{0}` is neither a name nor an address, so no certificate can be for it")]
    Host(String),
    /// The file with its key cannot be read.
    #[error("{path} cannot be read: {reason}")]
    Key {
        /// The file.
        path: PathBuf,
        /// The system's reason, or what is wrong with its content.
        reason: String,
    },
}

/// How far a request to an endpoint had got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RemotePhase {
    /// It waited here, for its turn.
    Queue,
    /// It was sent, and no piece of its answer had come.
    Prefill,
    /// Pieces of its answer were coming.
    Decode,
}

/// Why a request to an endpoint has no answer. No text of the endpoint is in it but short names, because what an endpoint says
/// may quote its request.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RemoteError {
    /// No connection could be made.
    #[error("no connection: {reason}")]
    Connect {
        /// The system's reason.
        reason: String,
    },
    /// There is no encrypted connection, because its certificate or protocol is not accepted.
    #[error("no encrypted connection: {reason}")]
    Tls {
        /// What is wrong.
        reason: String,
    },
    /// The connection ended before the answer did.
    #[error("the connection ended before the answer was complete")]
    Broken,
    /// It answered with an HTTP status that is no success.
    #[error("it answered with HTTP status {code}{}", shown(kind))]
    Status {
        /// The status.
        code: u16,
        /// The error's code or type, where it is a short name.
        kind: Option<String>,
        /// When to try again, if it said so.
        retry_after: Option<Duration>,
    },
    /// It ended an answer that had begun with an error.
    #[error("it ended the answer with an error{}", shown(kind))]
    Failed {
        /// The error's code or type, where it is a short name.
        kind: Option<String>,
    },
    /// It withheld the rest of the answer because of what it says.
    #[error("it withheld the rest of the answer (content_filter)")]
    Filtered,
    /// It was silent for too long.
    #[error("it sent nothing for {} s", limit.as_secs_f64())]
    Stalled {
        /// Longest silence that is allowed.
        limit: Duration,
    },
    /// What it sent is not what the interface says.
    #[error("its answer is not valid: {what}")]
    Malformed {
        /// What is wrong.
        what: String,
    },
    /// It sent more than a request of this size can need.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Most bytes that are accepted.
        limit: usize,
    },
    /// Its answer has no log-probabilities, without which there is no score.
    #[error("it gives no log-probabilities")]
    NoLogprobs,
    /// As many requests wait for it as may.
    #[error("too many requests wait for it")]
    QueueFull,
    /// The deadline of the request passed.
    #[error("the deadline passed")]
    Deadline {
        /// How far the request had got.
        phase: RemotePhase,
    },
}

impl RemoteError {
    pub(super) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed { what: what.into() }
    }

    /// Whether the same request may succeed if it is sent again. Callers also need that nothing of the answer was delivered.
    pub(super) fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Broken => true,
            Self::Status { code, .. } => matches!(code, 429 | 502 | 503 | 504),
            Self::Tls { .. }
            | Self::Failed { .. }
            | Self::Filtered
            | Self::Stalled { .. }
            | Self::Malformed { .. }
            | Self::TooLarge { .. }
            | Self::NoLogprobs
            | Self::QueueFull
            | Self::Deadline { .. } => false,
        }
    }

    /// Whether it is the endpoint that failed, and not this request or its caller.
    pub fn is_fault(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Broken
            | Self::Failed { .. }
            | Self::Stalled { .. }
            | Self::Malformed { .. }
            | Self::TooLarge { .. }
            | Self::NoLogprobs => true,
            // A request that it does not accept may be the caller's; no key and no such model are the configuration's.
            Self::Status { code, .. } => *code >= 500 || matches!(code, 401 | 403 | 404),
            Self::Filtered | Self::QueueFull | Self::Deadline { .. } => false,
        }
    }
}

fn shown(kind: &Option<String>) -> String {
    kind.as_ref()
        .map_or_else(String::new, |kind| format!(" ({kind})"))
}
