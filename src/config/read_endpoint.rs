//! Types and checks the keys of models that engines on other machines compute.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::{
    DeterminismPolicy, Endpoint, LoadPolicy, Model, Problem, ProblemKind, Role,
    merged::{Given, model_key},
    read::Reader,
    value::Setting,
};
use crate::remote::{EndpointApi, EndpointUrl, UrlError};

/// Requests that are open at an endpoint at once, unless the configuration says it.
const CONCURRENCY: u64 = 16;

/// Most that may be.
const MOST_CONCURRENCY: u64 = 4096;

/// Longest silence of an endpoint, unless the configuration says it.
const STALL: Duration = Duration::from_secs(120);

/// The keys of a model that is loaded here, which one at an endpoint cannot have, and why not.
const LOCAL_KEYS: [(&str, &str); 6] = [
    ("path", "the endpoint has the model's weights"),
    ("base", "an adapter runs with a model that is loaded here"),
    ("precision", "the endpoint decides how the model computes"),
    ("device", "the endpoint decides where the model computes"),
    ("load", "the model is not loaded here"),
    ("pinned", "the model is not in memory here"),
];

impl Reader<'_> {
    /// A model with an endpoint.
    pub(super) fn remote_model(
        &mut self,
        id: &str,
        given: &BTreeMap<String, Given>,
        address: &Given,
    ) -> Model {
        for (name, reason) in LOCAL_KEYS {
            if let Some(written) = given.get(name) {
                self.model_problem(id, name, written, reason, "remove it, or remove endpoint");
            }
        }
        let deterministic = self.values.keys.get("engine.deterministic");
        let deterministic = deterministic.and_then(|given| DeterminismPolicy::parse(&given.raw));
        if deterministic == Some(DeterminismPolicy::Required) {
            let reason = "engine.deterministic is required, and what an endpoint computes cannot be repeated to the bit";
            let fix = "set engine.deterministic to report, and provenance says so, or use a model that is loaded here";
            self.model_problem(id, "endpoint", address, reason, fix);
        }
        Model {
            id: id.to_owned(),
            path: PathBuf::new(),
            endpoint: self.endpoint(id, given, address),
            base: None,
            roles: self.remote_roles(id, given),
            guard_kind: self.model_value(id, "guard_kind", given),
            device: None,
            precision: None,
            load: LoadPolicy::Manual,
            pinned: false,
        }
    }

    /// Refuses keys about an endpoint of a model that has none.
    pub(super) fn refuse_endpoint_keys(&mut self, id: &str, given: &BTreeMap<String, Given>) {
        for (name, written) in given {
            if name.starts_with("endpoint_") {
                let fix = format!("set {}, or remove it", model_key(id, "endpoint"));
                self.model_problem(id, name, written, "the model has no endpoint", &fix);
            }
        }
    }

    fn model_problem(&mut self, id: &str, name: &str, written: &Given, reason: &str, fix: &str) {
        self.problems.push(Problem {
            kind: ProblemKind::Value,
            key: model_key(id, name),
            origin: Some(written.origin.clone()),
            reason: reason.to_owned(),
            fix: fix.to_owned(),
        });
    }

    /// Estimators and classifiers are no models of OpenAI's interface.
    fn remote_roles(&mut self, id: &str, given: &BTreeMap<String, Given>) -> Vec<Role> {
        let Some(written) = given
            .get("roles")
            .filter(|given| given.raw.text() != Some("auto"))
        else {
            return vec![Role::Target];
        };
        let roles: Vec<Role> = self.model_value(id, "roles", given);
        let alone = [Role::Quality, Role::Classifier];
        if roles.iter().any(|role| alone.contains(role)) {
            let reason = "an endpoint cannot estimate quality or label texts";
            self.model_problem(id, "roles", written, reason, "write target, guard, or both");
        }
        roles
    }

    fn endpoint(&mut self, id: &str, given: &BTreeMap<String, Given>, address: &Given) -> Option<Endpoint> {
        let parsed = match address.raw.text() {
            Some(text) => text.parse::<EndpointUrl>(),
            None => Err(UrlError::Form),
        };
        let url = parsed.map_err(|error| {
            // An address that may have a password or a key in it is not repeated.
            let text = address.raw.shown();
            let shown = match text.contains(['@', '?', '#']) {
                true => "it".to_owned(),
                false => format!("`{text}`"),
            };
            let reason = format!("{shown} {error}");
            self.model_problem(id, "endpoint", address, &reason, error.fix());
        });
        let model = self.set::<String>(id, "endpoint_model", given);
        let api = self.set::<EndpointApi>(id, "endpoint_api", given);
        let [key_file, ca_file, tokenizer] = ["endpoint_key_file", "endpoint_ca_file", "endpoint_tokenizer"]
            .map(|name| self.model_file(id, name, given));
        let concurrency = self.concurrency(id, given);
        let stall = self.set::<Duration>(id, "endpoint_stall", given);
        if let (Some(Duration::ZERO), Some(written)) = (stall, given.get("endpoint_stall")) {
            let reason = "there would be no time at all";
            self.model_problem(id, "endpoint_stall", written, reason, "write a time above zero");
        }
        let url = url.ok()?;
        if let Some(written) = given.get("endpoint_ca_file").filter(|_| !url.is_encrypted()) {
            let reason = "an endpoint with http:// has no certificate";
            let fix = "write https:// in endpoint, or remove it";
            self.model_problem(id, "endpoint_ca_file", written, reason, fix);
        }
        Some(Endpoint {
            url,
            model: model.unwrap_or_else(|| id.to_owned()),
            api: api.unwrap_or(EndpointApi::Both),
            key_file,
            ca_file,
            tokenizer,
            concurrency,
            stall: stall.unwrap_or(STALL),
        })
    }

    /// A key of a model that is set.
    fn set<T: Setting>(&mut self, id: &str, name: &str, given: &BTreeMap<String, Given>) -> Option<T> {
        let is_set = given.contains_key(name);
        is_set.then(|| self.model_value(id, name, given))
    }

    fn concurrency(&mut self, id: &str, given: &BTreeMap<String, Given>) -> usize {
        const NAME: &str = "endpoint_concurrency";
        let number = self.set::<u64>(id, NAME, given).unwrap_or(CONCURRENCY);
        if let Some(written) = given
            .get(NAME)
            .filter(|_| !(1..=MOST_CONCURRENCY).contains(&number))
        {
            let reason = format!("{number} is out of range");
            let fix = format!("write a whole number from 1 to {MOST_CONCURRENCY}");
            self.model_problem(id, NAME, written, &reason, &fix);
        }
        usize::try_from(number).unwrap_or(usize::MAX)
    }

    /// A file of a model that must exist.
    fn model_file(&mut self, id: &str, name: &str, given: &BTreeMap<String, Given>) -> Option<PathBuf> {
        let path = self.set::<PathBuf>(id, name, given)?;
        if !path.exists() {
            self.problems.push(Problem {
                kind: ProblemKind::File,
                key: model_key(id, name),
                origin: given.get(name).map(|given| given.origin.clone()),
                reason: format!("{} does not exist", path.display()),
                fix: "name an existing file, or none".to_owned(),
            });
        }
        Some(path)
    }
}
