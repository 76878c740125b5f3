//! Reads one row of a file of verdicts.

use std::fmt;

use serde_json::Value;

use super::{VerdictProblem, VerdictProblemKind as Kind};
use crate::bench::{
    dataset::{PromptId, Strata},
    plan::ItemKey,
    results::Label,
    table::{Fields, TableLocation},
    taxonomy::{Category, Language, UnknownKey},
};

/// Longest id or name, in bytes.
const MAX_NAME_BYTES: usize = 96;

/// The content of a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct VerdictRow {
    pub(super) key: ItemKey,
    pub(super) category: Category,
    pub(super) strata: Strata,
    pub(super) model: Option<String>,
    pub(super) guard: Option<String>,
    pub(super) seed: Option<u64>,
    pub(super) label: Label,
    pub(super) unsafe_score: Option<f64>,
    pub(super) prompt: Option<String>,
    pub(super) answer: Option<String>,
}

/// Reads a row; every problem of it goes to `problems`.
pub(super) fn read(
    place: TableLocation,
    fields: &Fields,
    problems: &mut Vec<VerdictProblem>,
) -> Option<VerdictRow> {
    let mut reader = Reader {
        place,
        fields,
        id: None,
        problems,
    };
    let id = reader.id();
    reader.id = id.as_ref().map(PromptId::to_string);
    let language = reader.key("language", Kind::UnknownLanguage, Language::parse);
    let category = reader.key("category", Kind::UnknownCategory, Category::parse);
    let label = reader.label();
    let before = reader.problems.len();
    let (model, guard, seed) = (reader.name("model"), reader.name("guard"), reader.seed());
    let strata = Strata {
        attack_type: reader.name("attack_type"),
        translator: reader.name("translator"),
    };
    let unsafe_score = reader.score();
    let (prompt, answer) = (reader.text("prompt"), reader.text("answer"));
    if reader.problems.len() > before {
        return None;
    }
    Some(VerdictRow {
        key: ItemKey {
            id: id?,
            language: language?,
        },
        category: category?,
        strata,
        model,
        guard,
        seed,
        label: label?,
        unsafe_score,
        prompt,
        answer,
    })
}

struct Reader<'a> {
    place: TableLocation,
    fields: &'a Fields,
    id: Option<String>,
    problems: &'a mut Vec<VerdictProblem>,
}

impl Reader<'_> {
    fn problem(&mut self, kind: Kind, field: &str, message: impl fmt::Display) {
        let (place, id) = (self.place, self.id.clone());
        self.problems
            .push(VerdictProblem::new(kind, place, id, field, message.to_string()));
    }

    fn value(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    fn id(&mut self) -> Option<PromptId> {
        let found = match self.value("id") {
            Some(Value::Number(number)) => number.as_u64().map(PromptId::Number),
            Some(Value::String(text)) if (1..=MAX_NAME_BYTES).contains(&text.len()) => {
                Some(PromptId::of_text(text))
            }
            _ => None,
        };
        if found.is_none() {
            let expected = format!("must be a whole number or a text of 1 to {MAX_NAME_BYTES} bytes");
            self.problem(Kind::Schema, "id", expected);
        }
        found
    }

    fn key<T>(&mut self, field: &str, kind: Kind, parse: fn(&str) -> Result<T, UnknownKey>) -> Option<T> {
        let Some(Value::String(text)) = self.value(field) else {
            self.problem(Kind::Schema, field, "must be a text");
            return None;
        };
        match parse(text.trim()) {
            Ok(parsed) => Some(parsed),
            Err(unknown) => {
                self.problem(kind, field, unknown);
                None
            }
        }
    }

    fn label(&mut self) -> Option<Label> {
        let label = match self.value("label") {
            Some(Value::String(text)) => text.trim(),
            None => {
                self.problem(Kind::Schema, "label", "is missing");
                return None;
            }
            Some(_) => "",
        };
        let found = Label::parse(label);
        if found.is_none() {
            self.problem(
                Kind::UnknownLabel,
                "label",
                "is none of safe, unsafe, controversial, undetermined",
            );
        }
        found
    }

    fn seed(&mut self) -> Option<u64> {
        let found = match self.value("seed")? {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        if found.is_none() {
            self.problem(Kind::Schema, "seed", "must be a whole number");
        }
        found
    }

    fn score(&mut self) -> Option<f64> {
        let found = match self.value("unsafe_score")? {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        match found {
            Some(score) if (0.0..=1.0).contains(&score) => Some(score),
            Some(score) => {
                self.problem(Kind::Score, "unsafe_score", format!("{score} is not in 0 to 1"));
                None
            }
            None => {
                self.problem(Kind::Schema, "unsafe_score", "must be a number");
                None
            }
        }
    }

    /// A short text; `None` where it is blank or absent.
    fn name(&mut self, field: &str) -> Option<String> {
        match self.value(field)? {
            Value::String(text) if text.len() <= MAX_NAME_BYTES => {
                Some(text.trim().to_owned()).filter(|text| !text.is_empty())
            }
            _ => {
                let expected = format!("must be a text of at most {MAX_NAME_BYTES} bytes");
                self.problem(Kind::Schema, field, expected);
                None
            }
        }
    }

    /// A text as it stands in the file: an answer may be empty.
    fn text(&mut self, field: &str) -> Option<String> {
        match self.value(field)? {
            Value::String(text) => Some(text.clone()),
            _ => {
                self.problem(Kind::Schema, field, "must be a text");
                None
            }
        }
    }
}
