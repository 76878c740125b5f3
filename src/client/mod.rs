//! The client: a channel, retries, typed errors, and streams that match answers by id. It knows the protocol and nothing of
//! the server behind it.

mod calls;
mod channel;
mod credentials;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod guard;
mod judging;
mod metrics_reader;
mod policy;
mod quality;
mod retry;
mod stream;
#[cfg(test)]
mod tests;

pub use self::{
    channel::{Client, ClientOptions, PlaintextToken, servers_of},
    credentials::{BadToken, BearerToken, ClientIdentity},
    error::{ClientError, FieldViolation, RpcError, TlsProblem},
    guard::{GuardEvents, GuardSender, GuardedAnswer, GuardedText},
    metrics_reader::{MetricsReadError, MetricsReader},
    policy::{CategoryText, PolicyChoice, PolicyText},
    quality::QualityAnswer,
    retry::{Jitter, RetryPolicy, ServerHint},
    stream::{
        ClassifyItems, ItemResult, ScoreItem, ScoreItems, StreamItem, StreamMethod, StreamOptions, StreamWork,
    },
};
