//! How long callers may take, and all options of a server. Its limits on requests are those of the configuration.

use std::time::Duration;

use crate::guard::DecisionSet;

pub(crate) use crate::config::HEARTBEATS;
pub use crate::config::{DefaultDeadlines, Limits};

/// How long callers may take, so that callers who stop halfway hold no resources for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeLimits {
    /// Longest deadline of a call that is not a stream of items. A longer `grpc-timeout` is treated as this.
    pub longest_deadline: Duration,
    /// Longest time from the first byte of a request's message to its last; for a call with one message, from its headers
    /// on.
    pub receive: Duration,
    /// Longest time that a stream of items may be without an open item and without a message, and that an answer may wait
    /// for a client which does not read.
    pub stream_idle: Duration,
    /// Time between two heartbeats of a growing text that is held back while there is nothing else to say, where its request names
    /// none.
    pub guard_heartbeat: Duration,
    /// Longest time that a new connection may take until it speaks HTTP/2.
    pub handshake: Duration,
    /// Longest time that a connection may be open without a call.
    pub connection_idle: Duration,
    /// Age at which a connection is asked to close, so that its client reconnects, perhaps to another server. Without it,
    /// connections may have any age.
    pub connection_age: Option<Duration>,
}

impl Default for TimeLimits {
    fn default() -> Self {
        Self {
            longest_deadline: Duration::from_secs(3600),
            receive: Duration::from_secs(60),
            stream_idle: Duration::from_secs(600),
            guard_heartbeat: Duration::from_secs(5),
            handshake: Duration::from_secs(10),
            connection_idle: Duration::from_secs(300),
            connection_age: None,
        }
    }
}

/// How the server serves.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerOptions {
    /// Limits on requests.
    pub limits: Limits,
    /// Deadlines for calls whose client sets none.
    pub default_deadlines: DefaultDeadlines,
    /// How long callers may take.
    pub times: TimeLimits,
    /// How long open calls may go on after the server has been asked to stop.
    pub drain_grace: Duration,
    /// Whether AdminService answers.
    pub allow_admin: bool,
    /// What is done about verdicts.
    pub decisions: DecisionSet,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            default_deadlines: DefaultDeadlines::default(),
            times: TimeLimits::default(),
            drain_grace: Duration::from_secs(30),
            allow_admin: false,
            decisions: DecisionSet::default(),
        }
    }
}
