//! From merged values to a typed [`Config`], collecting everything that is wrong on the way.

use std::{collections::BTreeMap, ops::RangeInclusive, path::PathBuf, time::Duration};

use super::{
    Config, ConfigError, Deadlines, DefaultDeadlines, Defaults, DeviceBudget, Engine, HEARTBEATS, Limits,
    Model, Origin, Problem, ProblemKind, Role, Server,
    merged::{Given, Values, model_key},
    problem::closest,
    schema,
    value::{AutoBytes, Bytes, Raw, Setting, Threads, Window},
};
use crate::{
    classifier::EncoderKind,
    errors::with_causes,
    guard::{Policy, read_policy},
    memory::human_bytes,
    model::spec::{DeviceChoice, PrecisionChoice, VerdictHeads},
};

/// Longest model id, which is also the longest that a request may name.
const MAX_ID_BYTES: usize = 128;

/// Most bytes of a size, so that it can be counted on every platform we build for.
const MAX_BYTES: u64 = 1 << 46;

/// Types and checks all values; `problems` are those that are known already.
pub(super) fn config(values: &Values, problems: Vec<Problem>) -> Result<Config, ConfigError> {
    let mut reader = Reader { values, problems };
    let models = reader.models();
    let (server, security) = (reader.server(), reader.security());
    reader.check_exposure(&server, &security);
    let decisions = reader.decisions(&models);
    let config = Config {
        server,
        security,
        defaults: reader.defaults(&models),
        policies: reader.policies(),
        doors: reader.doors(&models, &decisions),
        decisions,
        models,
        engine: reader.engine(),
        memory_budget: reader.auto_bytes("memory.budget", 1 << 20),
        device_budget: reader.device_budget(),
        limits: reader.limits(),
        deadlines: reader.deadlines(),
        telemetry: reader.telemetry(),
    };
    if reader.problems.is_empty() {
        Ok(config)
    } else {
        Err(ConfigError {
            problems: reader.problems,
        })
    }
}

pub(super) struct Reader<'a> {
    pub(super) values: &'a Values,
    pub(super) problems: Vec<Problem>,
}

impl Reader<'_> {
    pub(super) fn problem(&mut self, key: &str, reason: impl Into<String>, fix: impl Into<String>) {
        self.problem_of(ProblemKind::Value, key, reason, fix);
    }

    pub(super) fn problem_of(
        &mut self,
        kind: ProblemKind,
        key: &str,
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let origin = self.values.keys.get(key).map(|given| given.origin.clone());
        self.problems.push(Problem {
            kind,
            key: key.to_owned(),
            origin: origin.filter(|origin| *origin != Origin::Default),
            reason: reason.into(),
            fix: fix.into(),
        });
    }

    /// Whether any source sets the key.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.values.keys.contains_key(key)
    }

    pub(super) fn optional<T: Setting>(&mut self, key: &str) -> Option<T> {
        let values = self.values;
        let raw = match values.keys.get(key) {
            Some(given) => given.raw.clone(),
            None => Raw::Text(schema::default_of(key)?.to_owned()),
        };
        let value = T::parse(&raw);
        if value.is_none() {
            self.problem(key, format!("`{}` does not fit", raw.shown()), T::EXPECTS);
        }
        value
    }

    pub(super) fn get<T: Setting>(&mut self, key: &str) -> T {
        self.optional(key).unwrap_or_else(T::placeholder)
    }

    /// A whole number; out of range is a problem.
    fn count(&mut self, key: &str, range: RangeInclusive<u32>) -> u32 {
        let Some(number) = self.optional::<u64>(key) else {
            return *range.start();
        };
        match u32::try_from(number) {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let fix = format!("write a whole number from {} to {}", range.start(), range.end());
                self.problem(key, format!("{number} is out of range"), fix);
                *range.start()
            }
        }
    }

    fn size(&mut self, key: &str, range: RangeInclusive<u32>) -> usize {
        usize::try_from(self.count(key, range)).unwrap_or(usize::MAX)
    }

    fn bytes(&mut self, key: &str, least: u64) -> usize {
        let Some(Bytes(bytes)) = self.optional::<Bytes>(key) else {
            return 0;
        };
        self.in_range(key, bytes, least);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// A size, or `None` for auto.
    fn auto_bytes(&mut self, key: &str, least: u64) -> Option<u64> {
        let AutoBytes(bytes) = self.optional(key)?;
        if let Some(bytes) = bytes {
            self.in_range(key, bytes, least);
        }
        bytes
    }

    fn device_budget(&mut self) -> DeviceBudget {
        const KEY: &str = "memory.device_budget";
        let budget = self.get(KEY);
        if let DeviceBudget::Bytes(bytes) = budget {
            self.in_range(KEY, bytes, 1 << 20);
        }
        budget
    }

    fn in_range(&mut self, key: &str, bytes: u64, least: u64) {
        if !(least..=MAX_BYTES).contains(&bytes) {
            let (least, most) = (human_bytes(least), human_bytes(MAX_BYTES));
            let fix = format!("write at least {least} and at most {most}");
            self.problem(key, format!("{} is out of range", human_bytes(bytes)), fix);
        }
    }

    pub(super) fn positive_time(&mut self, key: &str) -> Duration {
        let time = self.optional::<Duration>(key);
        if time == Some(Duration::ZERO) {
            self.problem(key, "there would be no time at all", "write a time above zero");
        }
        time.unwrap_or_default()
    }

    fn heartbeat(&mut self, key: &str) -> Duration {
        let time = self.optional::<Duration>(key).unwrap_or(*HEARTBEATS.end());
        if !HEARTBEATS.contains(&time) {
            let (least, most) = (HEARTBEATS.start(), HEARTBEATS.end());
            let fix = format!("write a time from {least:?} to {most:?}");
            self.problem(key, format!("{time:?} is out of range"), fix);
        }
        time
    }

    fn server(&mut self) -> Server {
        Server {
            listen: self.get("server.listen"),
            http_listen: self.get("server.http_listen"),
            metrics_listen: self.get("server.metrics_listen"),
            admin_listen: self.get("server.admin_listen"),
            drain_grace: self.get("server.drain_grace"),
            insecure_no_auth: self.get("server.insecure_no_auth"),
            insecure_no_tls: self.get("server.insecure_no_tls"),
            allow_admin: self.get("server.allow_admin"),
            connection_idle: self.positive_time("server.connection_idle"),
            connection_age: self.get("server.connection_age"),
        }
    }

    fn engine(&mut self) -> Engine {
        let engine = Engine {
            threads: self.get::<Threads>("engine.threads").0,
            max_batch_sequences: self.size("engine.max_batch_sequences", 1..=4096),
            max_batch_tokens: self.size("engine.max_batch_tokens", 1..=65_536),
            kv_memory: self.auto_bytes("engine.kv_memory", 1 << 20),
            precision: self.get::<PrecisionChoice>("engine.precision"),
            device: self.get::<DeviceChoice>("engine.device"),
            deterministic: self.get("engine.deterministic"),
            queue_items: self.size("engine.queue_items", 1..=1_000_000),
            queue_tokens: self.size("engine.queue_tokens", 1..=1_000_000_000),
            step_target: self.get("engine.step_target"),
            tenant_weights: self.optional("engine.tenant_weights").unwrap_or_default(),
            max_context: self.get::<Window>("engine.max_context").0,
        };
        if engine.max_batch_sequences > engine.max_batch_tokens {
            let reason = format!(
                "{} sequences cannot share a pass of {} tokens",
                engine.max_batch_sequences, engine.max_batch_tokens
            );
            let fix = "lower it, or raise engine.max_batch_tokens";
            self.problem("engine.max_batch_sequences", reason, fix);
        }
        engine
    }

    fn limits(&mut self) -> Limits {
        let limits = Limits {
            message_bytes: self.bytes("limits.message_bytes", 1024),
            request_bytes: self.bytes("limits.request_bytes", 1 << 20),
            content_bytes: self.bytes("limits.content_bytes", 1),
            messages: self.size("limits.messages", 1..=65_536),
            token_ids: self.size("limits.token_ids", 1..=100_000_000),
            batch_items: self.size("limits.batch_items", 1..=65_536),
            stream_open_items: self.size("limits.stream_open_items", 1..=65_536),
            id_bytes: self.size("limits.id_bytes", 1..=4096),
            stop_sequences: self.size("limits.stop_sequences", 0..=1024),
            stop_sequence_bytes: self.size("limits.stop_sequence_bytes", 1..=65_536),
            top_n: self.count("limits.top_n", 0..=1024),
            max_new_tokens: self.count("limits.max_new_tokens", 1..=10_000_000),
            default_new_tokens: self.count("limits.default_new_tokens", 1..=10_000_000),
            samples: self.count("limits.samples", 1..=4096),
            connection_streams: self.count("limits.connection_streams", 1..=65_536),
            connections: self.size("limits.connections", 1..=1_000_000),
            calls: self.size("limits.calls", 1..=1_000_000),
            text_memory: self.bytes("limits.text_memory", 1 << 20),
        };
        // A message is held twice over for a moment, and large ones may use three quarters of the budget.
        if limits.message_bytes.saturating_mul(4) > limits.request_bytes {
            let reason = format!(
                "less than four requests of limits.message_bytes ({} bytes)",
                limits.message_bytes
            );
            let fix = "raise it, or lower limits.message_bytes";
            self.problem("limits.request_bytes", reason, fix);
        }
        if limits.content_bytes > limits.message_bytes {
            let reason = "a content of this size would not fit into a request";
            self.problem(
                "limits.content_bytes",
                reason,
                "lower it, or raise limits.message_bytes",
            );
        }
        if limits.default_new_tokens > limits.max_new_tokens {
            let reason = format!("more than limits.max_new_tokens ({})", limits.max_new_tokens);
            self.problem(
                "limits.default_new_tokens",
                reason,
                "lower it, or raise limits.max_new_tokens",
            );
        }
        limits
    }

    fn policies(&mut self) -> Vec<Policy> {
        const KEY: &str = "policies.files";
        let mut policies: Vec<Policy> = Vec::new();
        for path in self.optional::<Vec<PathBuf>>(KEY).unwrap_or_default() {
            match read_policy(&path) {
                Err(error) => self.problem_of(
                    ProblemKind::File,
                    KEY,
                    with_causes(&error),
                    "correct the file; see docs/policies.md",
                ),
                Ok(policy) if policies.iter().any(|other| other.name() == policy.name()) => {
                    let reason = format!(
                        "{}: `{}` is another file's name too",
                        path.display(),
                        policy.name()
                    );
                    self.problem(KEY, reason, "give each policy a name of its own");
                }
                Ok(policy) => policies.push(policy),
            }
        }
        policies
    }

    fn deadlines(&mut self) -> Deadlines {
        Deadlines {
            defaults: DefaultDeadlines {
                generate: self.positive_time("deadlines.generate"),
                classify: self.positive_time("deadlines.classify"),
                batch_classify: self.positive_time("deadlines.batch_classify"),
                score: self.positive_time("deadlines.score"),
                estimate_quality: self.positive_time("deadlines.estimate_quality"),
                models: self.positive_time("deadlines.models"),
                admin: self.positive_time("deadlines.admin"),
            },
            longest: self.positive_time("deadlines.longest"),
            receive: self.positive_time("deadlines.receive"),
            stream_idle: self.positive_time("deadlines.stream_idle"),
            guard_heartbeat: self.heartbeat("deadlines.guard_heartbeat"),
        }
    }

    fn models(&mut self) -> Vec<Model> {
        let values = self.values;
        values
            .models
            .iter()
            .map(|(id, given)| self.model(id, given))
            .collect()
    }

    fn model(&mut self, id: &str, given: &BTreeMap<String, Given>) -> Model {
        if id.is_empty() || id.len() > MAX_ID_BYTES || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
            self.problems.push(Problem {
                kind: ProblemKind::Value,
                key: model_key(id, "path"),
                origin: given.get("path").map(|given| given.origin.clone()),
                reason: "the id is empty, longer than 128 bytes, or not all visible ASCII".to_owned(),
                fix: "choose an id such as smol".to_owned(),
            });
        }
        if let Some(address) = given.get("endpoint") {
            return self.remote_model(id, given, address);
        }
        self.refuse_endpoint_keys(id, given);
        Model {
            endpoint: None,
            id: id.to_owned(),
            path: self.model_path(id, given.get("path")),
            base: self.model_base(id, given.get("base")),
            roles: self.model_roles(id, given),
            guard_kind: self.model_value(id, "guard_kind", given),
            precision: self.model_precision(id, given),
            device: self.model_device(id, given),
            load: self.model_value(id, "load", given),
            pinned: self.model_value(id, "pinned", given),
        }
    }

    pub(super) fn model_value<T: Setting>(
        &mut self,
        id: &str,
        name: &str,
        given: &BTreeMap<String, Given>,
    ) -> T {
        let raw = match given.get(name) {
            Some(given) => given.raw.clone(),
            None => Raw::Text(schema::model_default_of(name).unwrap_or_default().to_owned()),
        };
        T::parse(&raw).unwrap_or_else(|| {
            self.problems.push(Problem {
                kind: ProblemKind::Value,
                key: model_key(id, name),
                origin: given.get(name).map(|given| given.origin.clone()),
                reason: format!("`{}` does not fit", raw.shown()),
                fix: T::EXPECTS.to_owned(),
            });
            T::placeholder()
        })
    }

    /// As they are written, or what the files are good for.
    fn model_roles(&mut self, id: &str, given: &BTreeMap<String, Given>) -> Vec<Role> {
        let automatic = |given: &Given| given.raw.text() == Some("auto");
        if given.get("roles").is_some_and(|roles| !automatic(roles)) {
            return self.model_value(id, "roles", given);
        }
        let path = given.get("path").and_then(|given| PathBuf::parse(&given.raw));
        let role = match path.as_deref().and_then(EncoderKind::detect) {
            Some(EncoderKind::Estimator(_)) => Role::Quality,
            Some(EncoderKind::Classifier) => Role::Classifier,
            None if path.as_deref().is_some_and(VerdictHeads::are_in) => Role::Guard,
            None => Role::Target,
        };
        vec![role]
    }

    /// Of a model of its own: an adapter's rows share products with its base's.
    fn model_precision(&mut self, id: &str, given: &BTreeMap<String, Given>) -> Option<PrecisionChoice> {
        const NAME: &str = "precision";
        if self.is_of_base(id, NAME, "an adapter computes as its base does", given) {
            return None;
        }
        Some(self.model_value(id, NAME, given))
    }

    /// Of a model of its own: an adapter's weights stand beside its base's.
    fn model_device(&mut self, id: &str, given: &BTreeMap<String, Given>) -> Option<DeviceChoice> {
        const NAME: &str = "device";
        if self.is_of_base(id, NAME, "an adapter is on the device of its base", given) {
            return None;
        }
        Some(self.model_value(id, NAME, given))
    }

    /// Whether a key that is not set, or that only the base of an adapter may set, has no value of its own. A value that an
    /// adapter sets is a problem, for this reason.
    fn is_of_base(&mut self, id: &str, name: &str, reason: &str, given: &BTreeMap<String, Given>) -> bool {
        let Some(written) = given.get(name) else {
            return true;
        };
        let Some(base) = given.get("base") else {
            return false;
        };
        self.problems.push(Problem {
            kind: ProblemKind::Value,
            key: model_key(id, name),
            origin: Some(written.origin.clone()),
            reason: reason.to_owned(),
            fix: format!("set {} instead", model_key(&base.raw.shown(), name)),
        });
        true
    }

    /// The base of an adapter: a model of its own.
    fn model_base(&mut self, id: &str, given: Option<&Given>) -> Option<String> {
        let given = given?;
        let base = given.raw.shown();
        let is_model = |(_, keys): &(&String, &BTreeMap<String, Given>)| {
            !keys.contains_key("base") && !keys.contains_key("endpoint")
        };
        let mut models = self
            .values
            .models
            .iter()
            .filter(is_model)
            .map(|(id, _)| id.as_str());
        if !models.any(|known| known == base) {
            let models = self.values.models.iter().filter(is_model);
            let named = self.values.models.get(&base);
            let (reason, fix) = if named.is_some_and(|keys| keys.contains_key("endpoint")) {
                let reason = format!("`{base}` is computed by an endpoint");
                (reason, "name a model that is loaded here".to_owned())
            } else if named.is_some() {
                let reason = format!("`{base}` is itself an adapter");
                (reason, "name the model below both".to_owned())
            } else {
                let fix = match closest(&base, models.map(|(id, _)| id.as_str())) {
                    Some(candidate) => format!("did you mean {candidate}?"),
                    None => "configure the model that the adapter was made for, and name its id".to_owned(),
                };
                (format!("`{base}` is not a configured model"), fix)
            };
            self.problems.push(Problem {
                kind: ProblemKind::Value,
                key: model_key(id, "base"),
                origin: Some(given.origin.clone()),
                reason,
                fix,
            });
        }
        Some(base)
    }

    fn model_path(&mut self, id: &str, given: Option<&Given>) -> PathBuf {
        let path = given.and_then(|given| PathBuf::parse(&given.raw));
        let (kind, reason, fix) = match &path {
            Some(path) if path.exists() => return path.clone(),
            Some(path) => (
                ProblemKind::File,
                format!("{} does not exist", path.display()),
                "name a GGUF file or a Hugging Face folder",
            ),
            None => (
                ProblemKind::Value,
                "missing".to_owned(),
                "every model needs a path (a GGUF file or a Hugging Face folder) or an endpoint",
            ),
        };
        self.problems.push(Problem {
            kind,
            key: model_key(id, "path"),
            origin: given.map(|given| given.origin.clone()),
            reason,
            fix: fix.to_owned(),
        });
        path.unwrap_or_default()
    }

    fn defaults(&mut self, models: &[Model]) -> Defaults {
        Defaults {
            target: self.default_model("defaults.target", Role::Target, models),
            guard: self.default_model("defaults.guard", Role::Guard, models),
            quality: self.default_model("defaults.quality", Role::Quality, models),
        }
    }

    pub(super) fn default_model(&mut self, key: &str, role: Role, models: &[Model]) -> Option<String> {
        let fitting = || models.iter().filter(|model| model.roles.contains(&role));
        if !self.is_set(key) {
            // An adapter only where there is nothing else: callers who name none mean a model.
            let model = fitting().find(|model| model.base.is_none());
            return model.or_else(|| fitting().next()).map(|model| model.id.clone());
        }
        let id: String = self.get(key);
        if fitting().all(|model| model.id != id) {
            let role = role.name();
            let known = models.iter().any(|model| model.id == id);
            let fix = match closest(&id, fitting().map(|model| model.id.as_str())) {
                _ if known => format!("add \"{role}\" to {}", model_key(&id, "roles")),
                Some(candidate) => format!("did you mean {candidate}?"),
                None => format!("configure a model of this id with the role {role}"),
            };
            self.problem(
                key,
                format!("no configured model `{id}` has the role {role}"),
                fix,
            );
        }
        Some(id)
    }
}
