//! All keys of the configuration. A test compares docs/configuration.md with this table.

/// A key, its default and what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Section and name, as in `server.listen`. Keys of `models.ID` have only the name.
    pub name: &'static str,
    /// The default value as it would be written in the file, without quotes. Keys without a default stay unset.
    pub default: Option<&'static str>,
    /// The effect of the key, in one line.
    pub about: &'static str,
}

const fn key(name: &'static str, default: &'static str, about: &'static str) -> Key {
    Key {
        name,
        default: Some(default),
        about,
    }
}

const fn unset(name: &'static str, about: &'static str) -> Key {
    Key {
        name,
        default: None,
        about,
    }
}

/// All keys outside of `models`, in the order in which they are shown.
pub const KEYS: &[Key] = &[
    key(
        "server.listen",
        "127.0.0.1:50051",
        "address, or name of this machine, and port of the gRPC server; port 0 takes a free one",
    ),
    key(
        "server.http_listen",
        "off",
        "address, or name of this machine, and port for callers that speak HTTP/1.1 and JSON (see docs/http.md), or \"off\"",
    ),
    key(
        "server.metrics_listen",
        "127.0.0.1:9464",
        "address, or name of this machine, and port of the Prometheus metrics, or \"off\"",
    ),
    key(
        "server.admin_listen",
        "off",
        "address, or name of this machine, and port of a second gRPC listener on which alone AdminService answers; off: it \
         answers on server.listen",
    ),
    key(
        "server.drain_grace",
        "30s",
        "how long open work may go on after SIGTERM",
    ),
    key(
        "server.insecure_no_auth",
        "false",
        "allow listen addresses that other machines can reach, although there is no authentication",
    ),
    key(
        "server.insecure_no_tls",
        "false",
        "allow listen addresses that other machines can reach, although keys and tokens are not encrypted on the way; for \
         servers behind a proxy or in a mesh that encrypts",
    ),
    key(
        "server.allow_admin",
        "false",
        "answer AdminService: callers may load, unload and pin configured models; with authentication, those with the scope \
         admin",
    ),
    key(
        "server.reload_interval",
        "10s",
        "how often certificates, keys and the JWKS file are looked at for changes; SIGHUP makes the server look at once",
    ),
    key(
        "server.connection_idle",
        "5m",
        "how long a connection may stay without a call before it is closed",
    ),
    key(
        "server.connection_age",
        "off",
        "when a connection is asked to go, so that its client connects anew, perhaps elsewhere; or \"off\"",
    ),
    unset(
        "tls.certificate",
        "PEM file of the server's certificate and those between it and its authority; with it, all listeners speak TLS (see \
         docs/security.md)",
    ),
    unset("tls.key", "PEM file of the certificate's private key"),
    key(
        "tls.min_version",
        "1.2",
        "oldest version of TLS that clients may speak: 1.2 or 1.3",
    ),
    unset(
        "tls.client_ca",
        "PEM file of the authorities that may have issued clients' certificates; auth.keys_file says who each client is",
    ),
    unset(
        "tls.client_crl",
        "PEM file of the lists of certificates that the authorities of tls.client_ca have revoked, one list of each",
    ),
    key(
        "tls.client_certificates",
        "required",
        "where there is tls.client_ca: required, or optional for clients that have a key or token instead",
    ),
    unset(
        "auth.keys_file",
        "TOML file of API keys' hashes and of clients' certificates, each with a tenant and scopes; `babelward keys` writes it",
    ),
    unset(
        "auth.jwks_file",
        "JWKS file with the public keys of an identity provider, whose tokens (JWT) are then accepted",
    ),
    unset("auth.jwt_issuer", "issuer that tokens must have (iss)"),
    unset("auth.jwt_audience", "audience that tokens must have (aud)"),
    key(
        "auth.jwt_leeway",
        "30s",
        "how far the clocks of this machine and of the issuer may be apart",
    ),
    key(
        "auth.jwt_tenant_claim",
        "sub",
        "claim of a token with the tenant's name",
    ),
    key(
        "auth.jwt_tenant_prefix",
        "jwt.",
        "what the tenants of tokens begin with, so that no token has the tenant of a key; empty where they may be the same",
    ),
    key(
        "auth.jwt_scope_claim",
        "scope",
        "claim of a token with its scopes: a text with spaces between them, or a list",
    ),
    key(
        "auth.jwt_scope_prefix",
        "babelward:",
        "what our scopes begin with in a token, as in babelward:classify; empty where they are classify and so on",
    ),
    key(
        "auth.open_metrics",
        "false",
        "answer /metrics without a credential, although calls need one; otherwise it needs the scope metrics",
    ),
    key(
        "quotas.requests_per_minute",
        "off",
        "requests of a tenant in a minute, each item of a batch or stream counted; more are refused; or \"off\"",
    ),
    key(
        "quotas.tokens_per_minute",
        "off",
        "tokens of a tenant in a minute, of prompts and answers together; more are refused; or \"off\"",
    ),
    unset(
        "quotas.tenants",
        "tenants with quotas of their own, as NAME=REQUESTS/TOKENS, each a number or off",
    ),
    unset(
        "defaults.target",
        "model for Generate and Score requests that name none; the first target by id",
    ),
    unset(
        "defaults.guard",
        "model for Classify and Score requests that name no guard; the first guard by id",
    ),
    unset(
        "defaults.quality",
        "model for EstimateQuality requests that name none; the first quality estimator by id",
    ),
    unset(
        "policies.files",
        "TOML or JSON files of policies that requests may name (see docs/policies.md)",
    ),
    unset(
        "decisions.files",
        "TOML or JSON files of decision policies that requests may name (see docs/decisions.md)",
    ),
    unset(
        "decisions.calibrators",
        "JSON files of calibrators that decision policies may name, as `babelward validate calibrate` writes them",
    ),
    unset(
        "decisions.default",
        "decision policy for requests that name none, as NAME or NAME@VERSION; they get no decision without it",
    ),
    unset(
        "decisions.shadows",
        "decision policies that are evaluated for every verdict, and only told and counted",
    ),
    unset(
        "doors.guard",
        "guard for requests of the HTTP port whose protocol names none; the only guard, if there is one",
    ),
    key(
        "doors.guard_answers",
        "false",
        "whether every answer of chat completions and completions of the HTTP port has this guard, unless its request names \
         another (see docs/openai.md)",
    ),
    key(
        "doors.on_failure",
        "closed",
        "what a guardrail caller of the HTTP port is told when there is no verdict: closed, that it failed; open, that the text \
         passes, which every such answer says (see docs/guardrails.md); guards of chat completions and completions fail in the \
         same way (see docs/openai.md)",
    ),
    unset(
        "doors.unsafe_score",
        "score from 0 to 1 at or above which a verdict counts as unsafe for guardrail callers and moderations of the HTTP \
         port; the guard's own label unless set",
    ),
    unset(
        "doors.decision_policy",
        "decision policy for requests of the HTTP port whose protocol names none, as NAME or NAME@VERSION; decisions.default \
         unless set",
    ),
    key(
        "doors.page",
        "true",
        "whether the HTTP port has a page for people at its root (see docs/http.md)",
    ),
    key(
        "engine.threads",
        "auto",
        "compute threads; auto = as many as the processor offers",
    ),
    key(
        "engine.max_batch_sequences",
        "64",
        "most sequences in one forward pass",
    ),
    key(
        "engine.max_batch_tokens",
        "512",
        "most tokens in one forward pass, prompts and answers together",
    ),
    key(
        "engine.kv_memory",
        "auto",
        "memory of each model's key-value cache; auto = what the budget leaves (see docs/memory.md)",
    ),
    key(
        "engine.precision",
        "auto",
        "how models compute that do not say it themselves; auto: mixed on a processor with AMX, int8 on any \
         other; mixed: prompts in bf16, generated tokens in int8; int8: activations in eight bits where weights are \
         quantised; bf16: products of operands rounded to bf16; f32: everything in f32, slower",
    ),
    key(
        "engine.device",
        "auto",
        "device of the models that do not say it themselves: cpu, cuda:N, candle:cpu, candle:metal, candle:cuda:N; \
         auto: the card with the most free memory that holds the model, or else the processor (see docs/deployment.md)",
    ),
    key(
        "engine.deterministic",
        "report",
        "report: provenance says which results are equal to the bit; required: a model is refused unless its results \
         do not depend on what else is in its batch",
    ),
    key(
        "engine.queue_items",
        "2048",
        "most sequences waiting to start; more are refused",
    ),
    key(
        "engine.queue_tokens",
        "1048576",
        "most prompt tokens waiting to start; more are refused",
    ),
    key(
        "engine.step_target",
        "100ms",
        "longest that a step without urgent work is planned to take, so that a Classify waits no longer; or \"off\"",
    ),
    unset(
        "engine.tenant_weights",
        "tenants with a share of their own, as NAME=WEIGHT; all other names share one of weight 1",
    ),
    key(
        "engine.max_context",
        "model",
        "upper limit on the window in tokens; model = the model's own",
    ),
    key(
        "memory.budget",
        "auto",
        "memory for all models on the processor together; auto = seven eighths of what can be had (see docs/memory.md)",
    ),
    key(
        "memory.device_budget",
        "auto",
        "memory for all models on a device that has memory of its own: a size, or a percentage of what is free there at \
         the start; auto = 90%",
    ),
    key("limits.message_bytes", "8MiB", "largest encoded request"),
    key(
        "limits.request_bytes",
        "256MiB",
        "bytes of all requests that are being received or worked on, over all connections; more are refused",
    ),
    key(
        "limits.content_bytes",
        "256KiB",
        "largest message content or raw text",
    ),
    key("limits.messages", "64", "messages of a conversation"),
    key("limits.token_ids", "262144", "prompt tokens sent as ids"),
    key("limits.batch_items", "256", "items of a BatchClassify"),
    key(
        "limits.stream_open_items",
        "256",
        "open items of a stream, before the server stops reading",
    ),
    key("limits.id_bytes", "128", "longest item id"),
    key("limits.stop_sequences", "8", "stop sequences of a request"),
    key("limits.stop_sequence_bytes", "64", "longest stop sequence"),
    key("limits.top_n", "20", "log-probability alternatives per position"),
    key("limits.max_new_tokens", "4096", "longest answer in tokens"),
    key(
        "limits.default_new_tokens",
        "200",
        "longest answer in tokens when the request does not say",
    ),
    key("limits.samples", "16", "samples of a Score"),
    key(
        "limits.connection_streams",
        "512",
        "requests in flight on one connection",
    ),
    key(
        "limits.connections",
        "1024",
        "open connections; fewer where the limit on open files is lower (see docs/deployment.md)",
    ),
    key(
        "limits.calls",
        "4096",
        "open calls over all connections; more are refused",
    ),
    key(
        "limits.text_memory",
        "512MiB",
        "memory for turning texts into tokens, for all calls together (see docs/memory.md)",
    ),
    key(
        "deadlines.generate",
        "2m",
        "time for a Generate whose client sets no deadline",
    ),
    key("deadlines.classify", "1m", "the same for Classify"),
    key(
        "deadlines.batch_classify",
        "5m",
        "the same for BatchClassify, ClassifyRenderings and FindEvidence",
    ),
    key("deadlines.score", "3m", "the same for Score"),
    key("deadlines.estimate_quality", "5m", "the same for EstimateQuality"),
    key(
        "deadlines.models",
        "5s",
        "the same for ListModels, GetModel and CountTokens",
    ),
    key(
        "deadlines.admin",
        "10m",
        "the same for calls of AdminService; a load goes on when its caller no longer waits",
    ),
    key(
        "deadlines.longest",
        "1h",
        "longest deadline of a call that is not a stream of items; a later grpc-timeout counts as this",
    ),
    key(
        "deadlines.receive",
        "1m",
        "longest that a request's message may take to arrive, from its first byte to its last",
    ),
    key(
        "deadlines.stream_idle",
        "10m",
        "longest that a stream of items may stay without an open item, or a GuardStream without a look under way, and \
         without a message, and that an answer waits for a client that does not read",
    ),
    key(
        "deadlines.guard_heartbeat",
        "5s",
        "time between two heartbeats of a GuardStream or guarded Generate that holds text back, 100 ms to 10 min, where its \
         request names none",
    ),
    key("telemetry.log_format", "human", "human or json"),
    key(
        "telemetry.log_level",
        "info",
        "a level, or directives such as info,babelward::engine=debug",
    ),
    key(
        "telemetry.access_log",
        "true",
        "write a line to the log for each call when it ends (see docs/logging.md)",
    ),
    unset(
        "telemetry.otlp_endpoint",
        "address of a collector that takes OTLP over gRPC, such as http://127.0.0.1:4317: spans of calls are sent there (see \
         docs/observability.md)",
    ),
    unset(
        "telemetry.otlp_headers_file",
        "file of headers for the collector, such as a key: `name: value` lines",
    ),
    unset(
        "telemetry.otlp_ca_file",
        "PEM file of the authorities that may have issued the certificate of an https:// collector, instead of the system's",
    ),
    key(
        "telemetry.otlp_sample_ratio",
        "1",
        "share of the traces that are recorded, from 0 to 1, where the caller's traceparent does not say",
    ),
];

/// Keys outside of `models` that are paths of files.
pub(super) const PATH_KEYS: &[&str] = &[
    "tls.certificate",
    "tls.key",
    "tls.client_ca",
    "auth.keys_file",
    "auth.jwks_file",
    "telemetry.otlp_headers_file",
    "telemetry.otlp_ca_file",
];

/// Keys under `models.ID` that are paths of files.
pub(super) const MODEL_PATH_KEYS: &[&str] = &[
    "path",
    "endpoint_key_file",
    "endpoint_ca_file",
    "endpoint_tokenizer",
];

/// Keys under `models.ID`.
pub const MODEL_KEYS: &[Key] = &[
    unset(
        "path",
        "GGUF file or Hugging Face folder; relative to the file it is written in. Required, unless there is an endpoint",
    ),
    unset(
        "endpoint",
        "address of an engine that speaks OpenAI's HTTP interface and computes the model, such as http://10.0.0.7:8000/v1, in \
         place of path (see docs/remote.md)",
    ),
    unset(
        "endpoint_model",
        "what the model is called at its endpoint; its id unless set",
    ),
    unset(
        "endpoint_api",
        "chat where the endpoint has only /chat/completions, completions where it has only /completions; both unless set",
    ),
    unset(
        "endpoint_key_file",
        "file with the key that the endpoint wants; read again when the endpoint refuses it",
    ),
    unset(
        "endpoint_ca_file",
        "PEM file of the authorities that may have issued the certificate of an https:// endpoint, instead of the system's",
    ),
    unset(
        "endpoint_tokenizer",
        "GGUF file or Hugging Face folder with the tokenizer and the template of a guard at an endpoint; its weights are not read",
    ),
    unset(
        "endpoint_concurrency",
        "most requests that are open at the endpoint at once; more wait here, up to engine.queue_items; 16 unless set",
    ),
    unset(
        "endpoint_stall",
        "longest that the endpoint may send nothing while it answers, long prompts included; 2m unless set",
    ),
    unset(
        "base",
        "id of the model that this one is a LoRA adapter of; path is then a PEFT folder or a GGUF adapter",
    ),
    key(
        "roles",
        "auto",
        "target (generates), guard (classifies), or both; quality (judges translations) alone; classifier (labels texts) \
         alone; auto = quality or classifier for the folder of such a model, guard where only --guard names the model, else \
         target",
    ),
    key(
        "load",
        "eager",
        "eager: at the start; lazy: with the first request, until its room is needed; manual: when asked (`models load`)",
    ),
    unset(
        "precision",
        "auto, mixed, int8, bf16 or f32: how it computes; engine.precision unless set. An adapter computes as its base does",
    ),
    unset(
        "device",
        "auto or a device: where it is computed; engine.device unless set. An adapter is on the device of its base",
    ),
    key("pinned", "false", "never evict it to make room for another model"),
    key(
        "guard_kind",
        "auto",
        "which guard it is: llama-guard-3-8b, llama-guard-3-1b, llama-guard-2-8b, qwen3guard-gen, qwen3guard-stream, wildguard, polyguard, \
         granite-guardian-3, shieldgemma, or chat-demo, a chat model that stands in for one; auto = by its chat template or its name",
    ),
];

/// The default of a key outside of `models`.
pub(super) fn default_of(name: &str) -> Option<&'static str> {
    KEYS.iter()
        .find(|key| key.name == name)
        .and_then(|key| key.default)
}

/// The default of a key under `models.ID`.
pub(super) fn model_default_of(name: &str) -> Option<&'static str> {
    MODEL_KEYS
        .iter()
        .find(|key| key.name == name)
        .and_then(|key| key.default)
}
