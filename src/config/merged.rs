//! All layers merged: each value with what gave it, and what no key takes.

use std::{collections::BTreeMap, path::PathBuf};

use figment::{
    Figment, Profile, Provider as _,
    value::{Num, Value},
};

use super::{
    Entry, Origin, Problem, ProblemKind,
    layer::unknown_variable,
    problem::closest,
    schema,
    value::{Raw, words},
};

/// A value before it is typed.
pub(super) fn raw_of(value: &Value) -> Raw {
    match value {
        Value::String(_, text) => Raw::Text(text.clone()),
        Value::Char(_, c) => Raw::Text(c.to_string()),
        Value::Bool(_, flag) => Raw::Text(flag.to_string()),
        Value::Num(_, number) => Raw::Text(shown_number(*number)),
        Value::Array(_, items) => {
            let texts = items.iter().map(|item| match raw_of(item) {
                Raw::Text(text) => Some(text),
                Raw::List(_) | Raw::Other(_) => None,
            });
            texts
                .collect::<Option<_>>()
                .map_or(Raw::Other("a nested list"), Raw::List)
        }
        Value::Dict(..) => Raw::Other("a table"),
        Value::Empty(..) => Raw::Other("nothing"),
    }
}

fn shown_number(number: Num) -> String {
    match (number.to_u128_lossy(), number.to_i128(), number.to_f64()) {
        (_, _, Some(float)) => float.to_string(),
        (_, Some(signed), _) => signed.to_string(),
        (Some(unsigned), _, _) => unsigned.to_string(),
        (None, None, None) => String::new(),
    }
}

/// What gave each value.
pub(super) struct Sources {
    pub(super) file: Option<PathBuf>,
    pub(super) variables: BTreeMap<Vec<String>, String>,
    pub(super) flags: BTreeMap<Vec<String>, &'static str>,
}

impl Sources {
    fn origin(&self, figment: &Figment, path: &[&str], value: &Value) -> Origin {
        let layer = figment
            .get_metadata(value.tag())
            .map(|metadata| metadata.name.as_ref());
        let path: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
        match layer {
            Some("file") => Origin::File(self.file.clone().unwrap_or_default()),
            Some("env") => Origin::Env(self.variables.get(&path).cloned().unwrap_or_default()),
            Some("flag") => Origin::Flag(self.flags.get(&path).copied().unwrap_or_default()),
            _ => Origin::Default,
        }
    }
}

/// A merged value and where it came from.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

/// All merged values by key.
#[derive(Debug, Default)]
pub(super) struct Values {
    /// Keys outside of `models`.
    pub(super) keys: BTreeMap<String, Given>,
    /// Keys of each model.
    pub(super) models: BTreeMap<String, BTreeMap<String, Given>>,
}

/// A model's key as it is written in the file.
pub(super) fn model_key(id: &str, name: &str) -> String {
    let bare = !id.is_empty()
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if bare {
        format!("models.{id}.{name}")
    } else {
        format!("models.\"{id}\".{name}")
    }
}

impl Values {
    pub(super) fn collect(figment: &Figment, sources: &Sources, problems: &mut Vec<Problem>) -> Self {
        let mut values = Self::default();
        let merged = figment
            .data()
            .unwrap_or_default()
            .remove(&Profile::Default)
            .unwrap_or_default();
        for (section, value) in &merged {
            let Value::Dict(_, inner) = value else {
                let origin = sources.origin(figment, &[section], value);
                problems.push(unknown_key(section, origin));
                continue;
            };
            for (name, value) in inner {
                match value {
                    Value::Dict(_, model) if section == "models" => {
                        let entries = values.models.entry(name.clone()).or_default();
                        for (leaf, value) in model {
                            let origin = sources.origin(figment, &["models", name, leaf], value);
                            if schema::MODEL_KEYS.iter().any(|key| key.name == leaf) {
                                let raw = raw_of(value);
                                entries.insert(leaf.clone(), Given { raw, origin });
                            } else {
                                problems.push(unknown_model_key(name, leaf, origin));
                            }
                        }
                    }
                    _ => {
                        let key = format!("{section}.{name}");
                        let origin = sources.origin(figment, &[section, name], value);
                        if schema::KEYS.iter().any(|known| known.name == key) {
                            let raw = raw_of(value);
                            values.keys.insert(key, Given { raw, origin });
                        } else {
                            problems.push(unknown_key(&key, origin));
                        }
                    }
                }
            }
        }
        values
    }

    /// A path in a file is relative to that file.
    pub(super) fn resolve_paths(&mut self) {
        for model in self.models.values_mut() {
            if let Some(Given {
                raw: Raw::Text(text),
                origin: Origin::File(file),
            }) = model.get_mut("path")
                && let Some(folder) = file.parent()
            {
                *text = folder.join(&*text).display().to_string();
            }
        }
        if let Some(Given {
            raw,
            origin: Origin::File(file),
        }) = self.keys.get_mut("policies.files")
            && let Some(folder) = file.parent()
            && let Some(paths) = words(raw)
        {
            let resolved = |path: &str| folder.join(path).display().to_string();
            *raw = Raw::List(paths.into_iter().map(resolved).collect());
        }
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        let entry = |key: String, given: Option<&Given>, default: Option<&str>| Entry {
            key,
            value: given
                .map(|given| given.raw.shown())
                .or_else(|| default.map(str::to_owned)),
            origin: given.map_or(Origin::Default, |given| given.origin.clone()),
        };
        let mut entries: Vec<Entry> = schema::KEYS
            .iter()
            .map(|key| entry(key.name.to_owned(), self.keys.get(key.name), key.default))
            .collect();
        for (id, model) in &self.models {
            for key in schema::MODEL_KEYS {
                entries.push(entry(model_key(id, key.name), model.get(key.name), key.default));
            }
        }
        entries
    }
}

fn unknown_key(key: &str, origin: Origin) -> Problem {
    if key == "models"
        || schema::KEYS
            .iter()
            .any(|known| known.name.split('.').next() == Some(key))
    {
        return Problem {
            kind: ProblemKind::Value,
            key: key.to_owned(),
            origin: Some(origin),
            reason: "a section, not a value".to_owned(),
            fix: format!("write [{key}] and its keys below it"),
        };
    }
    let suggestion = match &origin {
        Origin::Env(name) => {
            return Problem {
                kind: ProblemKind::Value,
                key: key.to_owned(),
                ..unknown_variable(name)
            };
        }
        Origin::Default | Origin::File(_) | Origin::Flag(_) => {
            closest(key, schema::KEYS.iter().map(|key| key.name))
        }
    };
    Problem {
        kind: ProblemKind::Value,
        key: key.to_owned(),
        origin: Some(origin),
        reason: "no such key".to_owned(),
        fix: match suggestion {
            Some(candidate) => format!("did you mean {candidate}?"),
            None => "remove it; `babelward config show` lists all keys".to_owned(),
        },
    }
}

fn unknown_model_key(id: &str, name: &str, origin: Origin) -> Problem {
    let suggestion = closest(name, schema::MODEL_KEYS.iter().map(|key| key.name));
    Problem {
        kind: ProblemKind::Value,
        key: model_key(id, name),
        origin: Some(origin),
        reason: "no such key".to_owned(),
        fix: match suggestion {
            Some(candidate) => format!("did you mean {}?", model_key(id, candidate)),
            None => {
                "a model has the keys path, base, roles, load, precision, pinned and guard_kind".to_owned()
            }
        },
    }
}
