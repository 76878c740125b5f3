//! Configuration: built-in defaults, then a file, then `BABELWARD_` variables, then flags, merged into one
//! validated, immutable [`Config`]. A key that nothing reads is an error, and all errors are reported together.

mod device;
mod doors;
mod endpoint;
mod flags;
mod layer;
mod limits;
mod merged;
mod origin;
mod problem;
mod read;
mod read_decisions;
mod read_doors;
mod read_endpoint;
mod read_security;
mod read_telemetry;
mod schema;
mod security;
mod source;
mod value;
mod variable;

#[cfg(test)]
mod role_tests;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

pub(crate) use self::value::parse_duration;
pub use self::{
    device::{DeterminismPolicy, DeviceBudget},
    doors::{DoorSettings, OnFailure},
    endpoint::Endpoint,
    flags::{FlagAdapter, FlagDevice, FlagGuardKind, FlagModel, FlagOverrides, FlagPrecision},
    limits::{DefaultDeadlines, HEARTBEATS, Limits},
    origin::{Entry, Origin},
    problem::{ConfigError, Problem, ProblemKind},
    schema::{KEYS, Key, MODEL_KEYS},
    security::SecurityFiles,
    source::{Inputs, Loaded, load},
    value::{LoadPolicy, LogFormat, Role},
};
use crate::{
    engine::Tenant,
    guard::{DecisionSet, GuardKind, Policy},
    model::spec::{DeviceChoice, PrecisionChoice},
};

/// The whole configuration of a server. It does not change once it is loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Addresses and shutdown.
    pub server: Server,
    /// Who may call, and how.
    pub security: SecurityFiles,
    /// Configured models, in the order of their ids.
    pub models: Vec<Model>,
    /// Models for requests that do not name one.
    pub defaults: Defaults,
    /// Policies that requests may name. Each name occurs once.
    pub policies: Vec<Policy>,
    /// What is done about verdicts.
    pub decisions: DecisionSet,
    /// What callers of the HTTP port get whose protocol does not say it.
    pub doors: DoorSettings,
    /// Batches, queues and memory.
    pub engine: Engine,
    /// Bytes for all models together. When absent, they are computed from the memory of the machine.
    pub memory_budget: Option<u64>,
    /// Memory for all models together on each device that has memory of its own.
    pub device_budget: DeviceBudget,
    /// Limits of requests.
    pub limits: Limits,
    /// Deadlines of calls.
    pub deadlines: Deadlines,
    /// Settings of logs and traces.
    pub telemetry: Telemetry,
}

/// Addresses and shutdown.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Address of the gRPC server. With port 0, the system chooses a free port.
    pub listen: SocketAddr,
    /// Address of the HTTP port, if there is one.
    pub http_listen: Option<SocketAddr>,
    /// Address of the metrics for Prometheus, if they are served.
    pub metrics_listen: Option<SocketAddr>,
    /// Address of the listener for AdminService alone, if there is one.
    pub admin_listen: Option<SocketAddr>,
    /// How long open calls may continue once the server is asked to stop.
    pub drain_grace: Duration,
    /// Whether the server may listen on addresses that other machines can reach, although there is no authentication.
    pub insecure_no_auth: bool,
    /// Whether the server may listen on such addresses although credentials are not encrypted on the way to it.
    pub insecure_no_tls: bool,
    /// Whether callers may load, unload and pin models.
    pub allow_admin: bool,
    /// How long a connection without a call stays open.
    pub connection_idle: Duration,
    /// Age at which a connection is asked to close. When absent, no connection is.
    pub connection_age: Option<Duration>,
}

/// The configuration of one model id.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// The name in requests.
    pub id: String,
    /// An existing GGUF file or Hugging Face folder; empty for a model with an endpoint.
    pub path: PathBuf,
    /// The engine on another machine that computes it; `None` for a model that is loaded here.
    pub endpoint: Option<Endpoint>,
    /// Id of the base model, if this is a LoRA adapter.
    pub base: Option<String>,
    /// At least one role, without duplicates.
    pub roles: Vec<Role>,
    /// Which guard the model is. When absent, it is detected from the model's chat template or name.
    pub guard_kind: Option<GuardKind>,
    /// Its device. When absent, [`Engine::device`] applies. Adapters have none: they are where their base is.
    pub device: Option<DeviceChoice>,
    /// Its precision. When absent, [`Engine::precision`] applies. Adapters have none: they compute as their base does.
    pub precision: Option<PrecisionChoice>,
    /// When it is loaded.
    pub load: LoadPolicy,
    /// Whether it is never evicted to make room for another model.
    pub pinned: bool,
}

/// Models for requests that do not name one.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// A configured target. When not set, the first one by id.
    pub target: Option<String>,
    /// A configured guard. When not set, the first one by id.
    pub guard: Option<String>,
    /// A configured quality estimator. When not set, the first one by id.
    pub quality: Option<String>,
}

/// Batches, queues and memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Engine {
    /// Compute threads. When absent, as many as the processor offers.
    pub threads: Option<NonZeroUsize>,
    /// Maximum number of sequences in one forward pass.
    pub max_batch_sequences: usize,
    /// Maximum number of tokens in one forward pass.
    pub max_batch_tokens: usize,
    /// Bytes of each model's KV pool. When absent, the pool takes what the budget leaves.
    pub kv_memory: Option<u64>,
    /// Precision of the models that do not set their own.
    pub precision: PrecisionChoice,
    /// Device of the models that do not set their own.
    pub device: DeviceChoice,
    /// What is done about models whose results may depend on what else is in their batch.
    pub deterministic: DeterminismPolicy,
    /// Maximum number of sequences in the queue.
    pub queue_items: usize,
    /// Maximum number of prompt tokens in the queue.
    pub queue_tokens: usize,
    /// Maximum planned time of a step without urgent work. When absent, the time of steps is not limited.
    pub step_target: Option<Duration>,
    /// Tenants with a share of their own, and its weight. All other names together have one share of weight 1.
    pub tenant_weights: Vec<(Tenant, u32)>,
    /// Maximum context length of every model, in tokens. When absent, each model's own.
    pub max_context: Option<NonZeroUsize>,
}

/// Deadlines of calls, and upper limits on times.
#[derive(Debug, Clone, PartialEq)]
pub struct Deadlines {
    /// Deadlines of calls whose client sets none.
    pub defaults: DefaultDeadlines,
    /// Longest deadline of a call that is not a stream of items.
    pub longest: Duration,
    /// Longest time in which a message must have arrived.
    pub receive: Duration,
    /// Longest time that a stream may be idle.
    pub stream_idle: Duration,
    /// Time between two heartbeats of a growing text whose request names none.
    pub guard_heartbeat: Duration,
}

/// Settings of logs and traces.
#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    /// The format: for people or for machines.
    pub log_format: LogFormat,
    /// A level, or directives such as `info,babelward::engine=debug`.
    pub log_level: String,
    /// Whether each call has a line in the log.
    pub access_log: bool,
    /// Where traces are sent, if anywhere.
    pub traces: Option<Traces>,
}

/// A collector of traces, and which it gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Traces {
    /// Address of the collector, which takes OTLP over gRPC: `http://` or `https://`, host and port.
    pub endpoint: String,
    /// An existing file of headers for the collector.
    pub headers_file: Option<PathBuf>,
    /// An existing file of the authorities that may have issued its certificate. When absent, those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// Share of the traces that are recorded where the caller has not decided, from 0 to 1.
    pub sample_ratio: f64,
}
