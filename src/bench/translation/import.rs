//! Reads candidates and scores that were made elsewhere from files, and writes scores.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::Value;

use super::{CandidateKey, Metric, ScoreTable, Scores};
use crate::bench::{
    dataset::PromptId,
    table::{self, Fields, TableError, TableLocation},
    taxonomy::Language,
};

/// How many problems an error message lists; it counts the rest.
const SHOWN_PROBLEMS: usize = 20;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Some rows are wrong; all of them are listed.
    #[error("{path}: {} problem(s):{}", .problems.len(), list(.problems))]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// One line each, in the order of the file; at least one.
        problems: Vec<String>,
    },
}

fn list(problems: &[String]) -> String {
    let mut text: String = problems
        .iter()
        .take(SHOWN_PROBLEMS)
        .map(|problem| format!("\n  {problem}"))
        .collect();
    if problems.len() > SHOWN_PROBLEMS {
        text.push_str(&format!("\n  and {} more", problems.len() - SHOWN_PROBLEMS));
    }
    text
}

/// The texts of candidates.
pub type Texts = BTreeMap<CandidateKey, String>;

/// Reads candidates: long rows (`id`, `language`, `text` or `prompt`), or wide ones with a column per language. All are by
/// `translator`; where that is absent, each row names its translator in a column `translator`.
///
/// # Errors
/// [`ImportError`].
pub fn candidates(path: &Path, translator: Option<&str>) -> Result<Texts, ImportError> {
    let mut texts = Texts::new();
    rows(path, &mut |fields| {
        let id = id(fields)?;
        let translator = match translator {
            Some(name) => name.to_owned(),
            None => text(fields, "translator")?.to_owned(),
        };
        let mut add = |language, text: &str| {
            let key = CandidateKey {
                id: id.clone(),
                language,
                translator: translator.clone(),
            };
            match texts.insert(key, text.to_owned()) {
                Some(_) => Err(format!(
                    "id {id} has a translation of {translator} into {} already",
                    language.name()
                )),
                None => Ok(()),
            }
        };
        if fields.contains_key("language") {
            let column = if fields.contains_key("text") {
                "text"
            } else {
                "prompt"
            };
            return add(
                language(fields)?,
                fields.get(column).and_then(Value::as_str).unwrap_or_default(),
            );
        }
        let mut any = false;
        for language in Language::ALL {
            if let Some(Value::String(text)) = fields.get(language.code()) {
                any = true;
                add(language, text)?;
            }
        }
        match any {
            true => Ok(()),
            false => Err("has neither `language` and `text` nor a column per language".to_owned()),
        }
    })?;
    Ok(texts)
}

/// Reads scores: `id`, `language`, `translator`, and any of `comet`, `metricx` and `human`, as columns or, as in
/// `candidates.jsonl`, inside `scores`, where there may be none. They are added to the table.
///
/// # Errors
/// [`ImportError`]; a score that is there already with another value is one.
pub fn scores(path: &Path, table: &mut ScoreTable) -> Result<(), ImportError> {
    rows(path, &mut |fields| {
        let key = CandidateKey {
            id: id(fields)?,
            language: language(fields)?,
            translator: text(fields, "translator")?.to_owned(),
        };
        let nested = match fields.get("scores") {
            Some(Value::Object(scores)) => Some(scores),
            _ => None,
        };
        let fields = nested.unwrap_or(fields);
        let mut found = BTreeSet::new();
        for metric in Metric::ALL {
            let Some(value) = number(fields, metric.key())? else {
                continue;
            };
            if !metric.accepts(value) {
                return Err(format!(
                    "field `{}`: {value} is no {} score",
                    metric.key(),
                    metric.title()
                ));
            }
            found.insert(metric);
            let known = table.entry(key.clone()).or_default().insert(metric, value);
            if known.is_some_and(|known| known != value) {
                return Err(format!(
                    "field `{}`: there is another score already",
                    metric.key()
                ));
            }
        }
        match found.is_empty() && nested.is_none() {
            true => Err("has none of `comet`, `metricx` and `human`".to_owned()),
            false => Ok(()),
        }
    })
}

/// The table as lines of JSON that [`scores`] reads, one for each candidate.
///
/// # Errors
/// Never with our own types.
pub fn write_scores(table: &ScoreTable) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct ScoreLine<'a> {
        #[serde(flatten)]
        key: &'a CandidateKey,
        #[serde(flatten)]
        scores: &'a Scores,
    }
    let mut lines = String::new();
    for (key, scores) in table {
        lines += &serde_json::to_string(&ScoreLine { key, scores })?;
        lines.push('\n');
    }
    Ok(lines)
}

/// Calls `take` with each row. An error that it returns becomes a problem that names the row.
fn rows(path: &Path, take: &mut dyn FnMut(&Fields) -> Result<(), String>) -> Result<(), ImportError> {
    let mut problems = Vec::new();
    let mut problem = |place: TableLocation, message: String| problems.push(format!("{place}: {message}"));
    table::read(path, &mut |place, row| match row {
        Ok(fields) => {
            if let Err(message) = take(&fields) {
                problem(place, message);
            }
        }
        Err(bad) => problem(place, bad.to_string()),
    })?;
    match problems.is_empty() {
        true => Ok(()),
        false => Err(ImportError::Invalid {
            path: path.to_owned(),
            problems,
        }),
    }
}

fn id(fields: &Fields) -> Result<PromptId, String> {
    let found = match fields.get("id") {
        Some(Value::Number(number)) => number.as_u64().map(PromptId::Number),
        Some(Value::String(text)) if !text.is_empty() => Some(PromptId::of_text(text)),
        _ => None,
    };
    found.ok_or_else(|| "field `id`: must be a whole number or a text".to_owned())
}

fn language(fields: &Fields) -> Result<Language, String> {
    Language::parse(text(fields, "language")?).map_err(|unknown| format!("field `language`: {unknown}"))
}

fn text<'a>(fields: &'a Fields, name: &str) -> Result<&'a str, String> {
    match fields.get(name) {
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(text),
        _ => Err(format!("field `{name}`: must be a text")),
    }
}

/// The number in a column; in CSV files numbers are texts.
fn number(fields: &Fields, name: &str) -> Result<Option<f64>, String> {
    let found = match fields.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(_) => None,
    };
    found
        .map(Some)
        .ok_or_else(|| format!("field `{name}`: must be a number"))
}
