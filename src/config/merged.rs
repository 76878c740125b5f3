//! All layers merged: each value with what gave it, and what no key takes.

use std::collections::BTreeMap;

use super::{
    Entry, Origin, Problem, ProblemKind,
    problem::closest,
    schema,
    value::{Raw, words},
    variable::unknown_variable,
};

/// A merged value and where it came from.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

/// What a source says below a key, or what all say that are merged.
pub(super) type Section = BTreeMap<String, Node>;

/// A value, or a section with further keys.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Value(Given),
    /// What gave it last, and its keys.
    Section(Origin, Section),
}

impl Node {
    /// The same as a value: no key takes a section.
    pub(super) fn given(&self) -> Given {
        match self {
            Self::Value(given) => given.clone(),
            Self::Section(origin, _) => Given {
                raw: Raw::Other("a table"),
                origin: origin.clone(),
            },
        }
    }

    fn origin(&self) -> &Origin {
        match self {
            Self::Value(Given { origin, .. }) | Self::Section(origin, _) => origin,
        }
    }
}

/// Lays one source over those below it. Sections are merged key by key, values replaced.
pub(super) fn merge(below: &mut Section, above: Section) {
    for (key, node) in above {
        match (below.get_mut(&key), node) {
            (Some(Node::Section(origin, lower)), Node::Section(latest, upper)) => {
                *origin = latest;
                merge(lower, upper);
            }
            (_, node) => {
                below.insert(key, node);
            }
        }
    }
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
    pub(super) fn collect(merged: &Section, problems: &mut Vec<Problem>) -> Self {
        let mut values = Self::default();
        for (section, node) in merged {
            let Node::Section(_, inner) = node else {
                problems.push(unknown_key(section, node.origin().clone()));
                continue;
            };
            for (name, node) in inner {
                match node {
                    Node::Section(_, model) if section == "models" => {
                        let entries = values.models.entry(name.clone()).or_default();
                        for (leaf, node) in model {
                            if schema::MODEL_KEYS.iter().any(|key| key.name == leaf) {
                                entries.insert(leaf.clone(), node.given());
                            } else {
                                problems.push(unknown_model_key(name, leaf, node.origin().clone()));
                            }
                        }
                    }
                    _ => {
                        let key = format!("{section}.{name}");
                        if schema::KEYS.iter().any(|known| known.name == key) {
                            values.keys.insert(key, node.given());
                        } else {
                            problems.push(unknown_key(&key, node.origin().clone()));
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
            for key in schema::MODEL_PATH_KEYS {
                if let Some(Given {
                    raw: Raw::Text(text),
                    origin: Origin::File(file),
                }) = model.get_mut(*key)
                    && let Some(folder) = file.parent()
                {
                    *text = folder.join(&*text).display().to_string();
                }
            }
        }
        for key in schema::PATH_KEYS {
            if let Some(Given {
                raw: Raw::Text(text),
                origin: Origin::File(file),
            }) = self.keys.get_mut(*key)
                && let Some(folder) = file.parent()
            {
                *text = folder.join(&*text).display().to_string();
            }
        }
        for key in ["policies.files", "decisions.files", "decisions.calibrators"] {
            if let Some(Given {
                raw,
                origin: Origin::File(file),
            }) = self.keys.get_mut(key)
                && let Some(folder) = file.parent()
                && let Some(paths) = words(raw)
            {
                let resolved = |path: &str| folder.join(path).display().to_string();
                *raw = Raw::List(paths.into_iter().map(resolved).collect());
            }
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
            None => "a model has the keys path, base, roles, load, precision, device, pinned and guard_kind, and endpoint \
                     with those that begin with it"
                .to_owned(),
        },
    }
}
