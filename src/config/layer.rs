//! The sources, each as one layer to merge.

use std::{collections::BTreeMap, fs, path::Path};

use super::{
    FlagDevice, FlagGuardKind, FlagOverrides, FlagPrecision, Origin, Problem, ProblemKind,
    merged::{Given, Node, Section},
    problem::closest,
    schema,
    value::Raw,
    variable::{ENV_PREFIX, OPENTELEMETRY_VARIABLES, OTHER_VARIABLES, unknown_variable},
};
use crate::classifier::EncoderKind;

fn insert(section: &mut Section, path: &[String], given: Given) {
    match path {
        [] => {}
        [last] => {
            section.insert(last.clone(), Node::Value(given));
        }
        [first, rest @ ..] => {
            let node = section
                .entry(first.clone())
                .or_insert_with(|| Node::Section(given.origin.clone(), Section::new()));
            if let Node::Section(_, inner) = node {
                insert(inner, rest, given);
            }
        }
    }
}

fn split(key: &str) -> Vec<String> {
    key.split('.').map(str::to_owned).collect()
}

fn text(text: impl Into<String>, origin: Origin) -> Given {
    Given {
        raw: Raw::Text(text.into()),
        origin,
    }
}

/// What is built in.
pub(super) fn defaults() -> Section {
    let mut values = Section::new();
    for key in schema::KEYS {
        if let Some(default) = key.default {
            insert(&mut values, &split(key.name), text(default, Origin::Default));
        }
    }
    values
}

/// A TOML file.
pub(super) fn from_file(path: &Path, named_by: &Option<Origin>, problems: &mut Vec<Problem>) -> Section {
    let mut problem = |kind: ProblemKind, reason: String, fix: &str| {
        problems.push(Problem {
            kind,
            key: path.display().to_string(),
            origin: named_by.clone(),
            reason,
            fix: fix.to_owned(),
        });
        toml::Table::new()
    };
    let written = match fs::read_to_string(path) {
        Err(error) => problem(
            ProblemKind::File,
            error.to_string(),
            "name a file that can be read, or none",
        ),
        Ok(text) => toml::from_str(&text).unwrap_or_else(|error: toml::de::Error| {
            problem(
                ProblemKind::Value,
                format!("not valid TOML: {}", error.to_string().trim()),
                "correct the file (https://toml.io)",
            )
        }),
    };
    section_of(written, &Origin::File(path.to_owned()))
}

fn section_of(table: toml::Table, origin: &Origin) -> Section {
    let node = |value| match value {
        toml::Value::Table(inner) => Node::Section(origin.clone(), section_of(inner, origin)),
        value => Node::Value(Given {
            raw: raw_of(&value),
            origin: origin.clone(),
        }),
    };
    table.into_iter().map(|(key, value)| (key, node(value))).collect()
}

/// A value before it is typed.
fn raw_of(value: &toml::Value) -> Raw {
    match value {
        toml::Value::String(text) => Raw::Text(text.clone()),
        toml::Value::Integer(number) => Raw::Text(number.to_string()),
        toml::Value::Float(number) => Raw::Text(number.to_string()),
        toml::Value::Boolean(flag) => Raw::Text(flag.to_string()),
        toml::Value::Datetime(_) => Raw::Other("a date"),
        toml::Value::Array(items) => {
            let texts = items.iter().map(|item| match raw_of(item) {
                Raw::Text(text) => Some(text),
                Raw::List(_) | Raw::Other(_) => None,
            });
            texts
                .collect::<Option<_>>()
                .map_or(Raw::Other("a nested list"), Raw::List)
        }
        toml::Value::Table(_) => Raw::Other("a table"),
    }
}

/// All variables with our prefix, and those of OpenTelemetry that say the same as a key.
pub(super) fn from_env(env: &[(String, String)], problems: &mut Vec<Problem>) -> Section {
    let mut values = Section::new();
    for (name, key) in OPENTELEMETRY_VARIABLES {
        // An empty one counts as not set: OpenTelemetry, "Environment variable specification".
        let found = env
            .iter()
            .find(|(given, value)| given == name && !value.is_empty());
        if let Some((_, value)) = found {
            insert(
                &mut values,
                &split(key),
                text(value, Origin::Env(name.to_owned())),
            );
        }
    }
    for (name, value) in env {
        let Some(rest) = name.strip_prefix(ENV_PREFIX) else {
            continue;
        };
        if OTHER_VARIABLES.contains(&name.as_str()) || is_injected(rest) {
            continue;
        }
        let path: Vec<String> = rest.to_ascii_lowercase().split("__").map(str::to_owned).collect();
        match path.as_slice() {
            [section, _] if section != "models" => {}
            [models, _, _] if models == "models" => {}
            _ => {
                problems.push(unknown_variable(name));
                continue;
            }
        }
        insert(&mut values, &path, text(value, Origin::Env(name.clone())));
    }
    values
}

/// Kubernetes sets variables for each Service, ours among them: `BABELWARD_SERVICE_HOST`,
/// `BABELWARD_PORT_50051_TCP`. Cargo and our tests have theirs.
fn is_injected(rest: &str) -> bool {
    !rest.contains("__")
        && (rest == "PORT"
            || ["SERVICE_", "PORT_", "TEST_"]
                .iter()
                .any(|prefix| rest.starts_with(prefix)))
}

/// Roles of the models that the lower layers configure, as written there.
pub(super) fn models_of(merged: &Section) -> BTreeMap<String, Raw> {
    let Some(Node::Section(_, models)) = merged.get("models") else {
        return BTreeMap::new();
    };
    let default = || Raw::Text(schema::model_default_of("roles").unwrap_or_default().to_owned());
    let roles = |model: &Node| match model {
        Node::Section(_, model) => model.get("roles").map_or_else(default, |roles| roles.given().raw),
        Node::Value(_) => default(),
    };
    models
        .iter()
        .map(|(id, model)| (id.clone(), roles(model)))
        .collect()
}

/// The command line; `below` are the models of the other layers, for `--guard ID`.
pub(super) fn from_flags(
    flags: &FlagOverrides,
    below: &BTreeMap<String, Raw>,
    problems: &mut Vec<Problem>,
) -> Section {
    let mut values = Section::new();
    let mut set = |path: Vec<String>, flag: &'static str, value: String| {
        insert(&mut values, &path, text(value, Origin::Flag(flag)));
    };
    for (flag, key, text) in &flags.values {
        set(split(key), flag, text.clone());
    }
    let model_key = |id: &str, name: &str| vec!["models".to_owned(), id.to_owned(), name.to_owned()];
    let mut roles: BTreeMap<String, String> = below
        .iter()
        .map(|(id, roles)| (id.clone(), roles.shown()))
        .collect();
    let mut has_target = false;
    let mut guard_ids = Vec::new();
    let mut paths = BTreeMap::new();
    for model in &flags.models {
        let path = model.path.display().to_string();
        claim(&mut paths, &model.id, &path, "--model", problems);
        set(model_key(&model.id, "path"), "--model", path);
        let all = roles.entry(model.id.clone()).or_default();
        let encoder = EncoderKind::detect(&model.path);
        match encoder {
            Some(EncoderKind::Estimator(_)) => "quality".clone_into(all),
            Some(EncoderKind::Classifier) => "classifier".clone_into(all),
            None => add_role(all, "target"),
        }
        set(model_key(&model.id, "roles"), "--model", all.clone());
        if encoder.is_none() && !std::mem::replace(&mut has_target, true) {
            set(split("defaults.target"), "--model", model.id.clone());
        }
    }
    for adapter in &flags.adapters {
        set(model_key(&adapter.id, "base"), "--adapter", adapter.base.clone());
        let path = adapter.path.display().to_string();
        claim(&mut paths, &adapter.id, &path, "--adapter", problems);
        set(model_key(&adapter.id, "path"), "--adapter", path);
        let all = roles.entry(adapter.id.clone()).or_default();
        add_role(all, "target");
        set(model_key(&adapter.id, "roles"), "--adapter", all.clone());
    }
    for (place, guard) in flags.guards.iter().enumerate() {
        let (id, path) = match guard.split_once('=') {
            Some((id, path)) => (id, Some(path)),
            None if roles.contains_key(guard) => (guard.as_str(), None),
            None if Path::new(guard).exists() => ("guard", Some(guard.as_str())),
            None => {
                problems.push(unknown_guard(guard, &roles));
                continue;
            }
        };
        if let Some(path) = path {
            claim(&mut paths, id, path, "--guard", problems);
            set(model_key(id, "path"), "--guard", path.to_owned());
        }
        let all = roles.entry(id.to_owned()).or_default();
        add_role(all, "guard");
        set(model_key(id, "roles"), "--guard", all.clone());
        if place == 0 {
            set(split("defaults.guard"), "--guard", id.to_owned());
        }
        guard_ids.push(id.to_owned());
    }
    for FlagGuardKind { id, kind } in &flags.guard_kinds {
        let named = id.iter().find(|id| !roles.contains_key(*id));
        if let Some(unknown) = named {
            problems.push(unknown_model("--guard-kind", unknown, &roles));
            continue;
        }
        for id in id.as_ref().map_or(guard_ids.as_slice(), std::slice::from_ref) {
            set(model_key(id, "guard_kind"), "--guard-kind", kind.to_string());
        }
    }
    let precisions = flags.precisions.iter();
    let precisions = precisions.map(|FlagPrecision { id, precision }| (id.as_deref(), precision.clone()));
    let flag = SharedFlag {
        flag: "--precision",
        name: "precision",
    };
    flag.set(precisions.collect(), &roles, &mut values, problems);
    let devices = flags.devices.iter();
    let devices = devices.map(|FlagDevice { id, device }| (id.as_deref(), device.to_string()));
    let flag = SharedFlag {
        flag: "--device",
        name: "device",
    };
    flag.set(devices.collect(), &roles, &mut values, problems);
    values
}

/// A flag that sets a key of the engine, or of one model: `--precision PRECISION`, `--precision ID=PRECISION`.
struct SharedFlag {
    flag: &'static str,
    /// Name of the key in both sections.
    name: &'static str,
}

impl SharedFlag {
    /// Sets the keys. `choices` are the values of the flag, those for one model with its id; `models` are all models by id.
    fn set(
        &self,
        choices: Vec<(Option<&str>, String)>,
        models: &BTreeMap<String, String>,
        values: &mut Section,
        problems: &mut Vec<Problem>,
    ) {
        let mut chosen = BTreeMap::new();
        for (id, choice) in choices {
            let path = match id {
                None => ["engine", self.name].map(str::to_owned).to_vec(),
                Some(id) if models.contains_key(id) => ["models", id, self.name].map(str::to_owned).to_vec(),
                Some(id) => {
                    problems.push(unknown_model(self.flag, id, models));
                    continue;
                }
            };
            match chosen.insert(path.clone(), choice.clone()) {
                Some(earlier) if earlier != choice => problems.push(Problem {
                    kind: ProblemKind::Value,
                    key: self.flag.to_owned(),
                    origin: None,
                    reason: format!("{} is {earlier} and {choice}", path.join(".")),
                    fix: "say it once".to_owned(),
                }),
                _ => insert(values, &path, text(choice, Origin::Flag(self.flag))),
            }
        }
    }
}

/// One id is one model, also when flags name it twice.
fn claim(
    paths: &mut BTreeMap<String, String>,
    id: &str,
    path: &str,
    flag: &'static str,
    problems: &mut Vec<Problem>,
) {
    match paths.insert(id.to_owned(), path.to_owned()) {
        Some(earlier) if earlier != path => problems.push(Problem {
            kind: ProblemKind::Value,
            key: flag.to_owned(),
            origin: None,
            reason: format!("`{id}` is {earlier} and {path}"),
            fix: "give each model an id of its own".to_owned(),
        }),
        _ => {}
    }
}

fn add_role(roles: &mut String, role: &str) {
    if roles == "auto" {
        // Nobody has asked for any other.
        roles.clear();
    }
    if !roles.split(',').any(|written| written.trim() == role) {
        if !roles.is_empty() {
            roles.push(',');
        }
        roles.push_str(role);
    }
}

fn unknown_model(flag: &str, given: &str, models: &BTreeMap<String, String>) -> Problem {
    Problem {
        kind: ProblemKind::Value,
        key: flag.to_owned(),
        origin: None,
        reason: format!("`{given}` is not the id of a configured model"),
        fix: match closest(given, models.keys().map(String::as_str)) {
            Some(id) => format!("did you mean {id}?"),
            None => "configure the model, or name one of its ids".to_owned(),
        },
    }
}

fn unknown_guard(given: &str, models: &BTreeMap<String, String>) -> Problem {
    let fix = match closest(given, models.keys().map(String::as_str)) {
        Some(id) => format!("did you mean {id}?"),
        None => "name an existing file or folder, a configured model, or ID=PATH".to_owned(),
    };
    Problem {
        kind: ProblemKind::Value,
        key: "--guard".to_owned(),
        origin: None,
        reason: format!("`{given}` is neither a path that exists nor the id of a configured model"),
        fix,
    }
}
