//! Configuration: built-in defaults, then a file, then `BABELWARD_` variables, then flags, merged into one
//! validated, immutable [`Config`]. A key that nothing reads is an error, and all errors are told at once.

mod layer;
mod merged;
mod problem;
mod read;
mod schema;
mod source;
mod value;

#[cfg(test)]
mod role_tests;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

pub(crate) use self::value::parse_duration;
pub use self::{
    problem::{ConfigError, Problem, ProblemKind},
    schema::{KEYS, Key, MODEL_KEYS},
    source::{Entry, FlagAdapter, FlagModel, FlagOverrides, FlagPrecision, Inputs, Loaded, Origin, load},
    value::{LoadPolicy, LogFormat, Role},
};
use crate::{
    engine::Tenant,
    guard::{GuardKind, Policy},
    model::spec::PrecisionChoice,
};

/// Everything a server is told. Immutable once loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Addresses and shutdown.
    pub server: Server,
    /// Models to make resident, in the order of their ids.
    pub models: Vec<Model>,
    /// Models for requests that name none.
    pub defaults: Defaults,
    /// What requests may let guards judge by; no name twice.
    pub policies: Vec<Policy>,
    /// Batches, queues and memory.
    pub engine: Engine,
    /// Bytes for all models together; found out when absent.
    pub memory_budget: Option<u64>,
    /// Most that a request may ask for.
    pub limits: Limits,
    /// Time for calls.
    pub deadlines: Deadlines,
    /// Logs.
    pub telemetry: Telemetry,
}

/// Addresses and shutdown.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Where the gRPC server listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where Prometheus reads metrics, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
    /// How long open work may go on once the server is asked to stop.
    pub drain_grace: Duration,
    /// Listening beyond this machine without authentication is wanted.
    pub insecure_no_auth: bool,
    /// Whoever reaches the server may load, unload and pin models.
    pub allow_admin: bool,
    /// How long a connection may stay without a call.
    pub connection_idle: Duration,
    /// When a connection is asked to go; never when absent.
    pub connection_age: Option<Duration>,
}

/// One model id.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// What callers name it by.
    pub id: String,
    /// A GGUF file or a Hugging Face folder; exists.
    pub path: PathBuf,
    /// The model that this LoRA adapter changes; a model of its own when absent.
    pub base: Option<String>,
    /// At least one, no duplicates.
    pub roles: Vec<Role>,
    /// Which guard prompt the model was trained on; found out from the model when absent.
    pub guard_kind: Option<GuardKind>,
    /// How it computes; as [`Engine::precision`] says when absent. Adapters have none: they compute as their base does.
    pub precision: Option<PrecisionChoice>,
    /// When it is loaded.
    pub load: LoadPolicy,
    /// It is never evicted to make room for another.
    pub pinned: bool,
}

/// Models for requests that name none.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// A configured target; the first one by id unless set.
    pub target: Option<String>,
    /// A configured guard; the first one by id unless set.
    pub guard: Option<String>,
    /// A configured quality estimator; the first one by id unless set.
    pub quality: Option<String>,
}

/// Batches, queues and memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Engine {
    /// Compute threads; as many as the processor offers when absent.
    pub threads: Option<NonZeroUsize>,
    /// Most sequences in one forward pass.
    pub max_batch_sequences: usize,
    /// Most tokens in one forward pass.
    pub max_batch_tokens: usize,
    /// Bytes of each model's KV pool; by what the budget leaves when absent.
    pub kv_memory: Option<u64>,
    /// How models compute that have no precision of their own.
    pub precision: PrecisionChoice,
    /// Most sequences waiting to start.
    pub queue_items: usize,
    /// Most prompt tokens waiting to start.
    pub queue_tokens: usize,
    /// Longest that a step without urgent work is planned to take; steps are not paced when absent.
    pub step_target: Option<Duration>,
    /// Tenants with a share of their own, and its weight; all other names share one of weight 1.
    pub tenant_weights: Vec<(Tenant, u32)>,
    /// Upper limit on every model's window, in tokens; the model's own when absent.
    pub max_context: Option<NonZeroUsize>,
}

/// Most that a request may ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Bytes of an encoded request.
    pub message_bytes: usize,
    /// Bytes of all requests that are being received or worked on.
    pub request_bytes: usize,
    /// Bytes of one message's content.
    pub content_bytes: usize,
    /// Messages of a conversation.
    pub messages: usize,
    /// Prompt tokens sent as ids.
    pub token_ids: usize,
    /// Items of a BatchClassify, and pairs of an EstimateQuality.
    pub batch_items: usize,
    /// Open items of a stream.
    pub stream_open_items: usize,
    /// Bytes of an item's id.
    pub id_bytes: usize,
    /// Stop sequences of a request.
    pub stop_sequences: usize,
    /// Bytes of a stop sequence.
    pub stop_sequence_bytes: usize,
    /// Alternatives per position.
    pub top_n: u32,
    /// Tokens of an answer.
    pub max_new_tokens: u32,
    /// Tokens of an answer when the request does not say.
    pub default_new_tokens: u32,
    /// Samples of a Score.
    pub samples: u32,
    /// Requests in flight on one connection.
    pub connection_streams: u32,
    /// Open connections.
    pub connections: usize,
    /// Open calls over all connections.
    pub calls: usize,
    /// Bytes of memory for turning texts into tokens.
    pub text_memory: usize,
}

/// Time for calls: where the client sets no deadline, and at most.
#[derive(Debug, Clone, PartialEq)]
pub struct Deadlines {
    /// Generate.
    pub generate: Duration,
    /// Classify.
    pub classify: Duration,
    /// BatchClassify.
    pub batch_classify: Duration,
    /// Score.
    pub score: Duration,
    /// EstimateQuality.
    pub estimate_quality: Duration,
    /// ListModels, GetModel and CountTokens.
    pub models: Duration,
    /// Calls of AdminService.
    pub admin: Duration,
    /// Longest deadline of a call that is not a stream of items.
    pub longest: Duration,
    /// Longest that a message may take to arrive.
    pub receive: Duration,
    /// Longest that a stream may stay idle.
    pub stream_idle: Duration,
}

/// Logs.
#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    /// For people or for machines.
    pub log_format: LogFormat,
    /// A level, or directives such as `info,babelward::engine=debug`.
    pub log_level: String,
}
