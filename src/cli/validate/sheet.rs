//! The answers that people label, and their files.

use std::{collections::HashMap, fs, path::Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::super::CommandError;
use crate::bench::{
    report::formats::field,
    scores::validation::Label,
    taxonomy::{Category, Language},
};

/// The answers of a sample, one JSON object a line, with their exact texts.
pub const SAMPLE: &str = "sample.jsonl";

/// One answer to label.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// Prompt id, language and seed.
    pub item: String,
    /// Of prompt and answer.
    pub language: Language,
    /// What the prompt is about.
    pub category: Category,
    /// Empty where the run does not keep it.
    pub prompt: String,
    /// Empty where the run does not keep it.
    pub answer: String,
}

/// The sample in a folder of `validate sample`.
pub fn read_sample(folder: &Path) -> anyhow::Result<Vec<Entry>> {
    let path = folder.join(SAMPLE);
    let text = fs::read_to_string(&path).with_context(|| {
        format!(
            "{}: a sample is made by `babelward validate sample`",
            path.display()
        )
    })?;
    let parse = |(number, line)| {
        let invalid = |error| format!("{}, line {}: {error}", path.display(), number + 1);
        serde_json::from_str(line).map_err(|error| CommandError::invalid_data(invalid(error)).into())
    };
    text.lines().enumerate().map(parse).collect()
}

/// The sample as lines.
pub fn sample_lines(entries: &[Entry]) -> String {
    let lines = entries
        .iter()
        .filter_map(|entry| serde_json::to_string(entry).ok());
    lines.map(|line| line + "\n").collect()
}

/// A person's file.
pub fn csv(entries: &[Entry], labels: &HashMap<String, Label>) -> String {
    let mut text = "item,language,category,prompt,answer,label\r\n".to_owned();
    for entry in entries {
        let cells = [
            entry.item.as_str(),
            entry.language.code(),
            entry.category.key(),
            &entry.prompt,
            &entry.answer,
            labels.get(&entry.item).map_or("", |label| label.key()),
        ];
        text += &(cells.map(field).join(",") + "\r\n");
    }
    text
}

/// Labels by item of a person's file; items without one are left out.
pub fn read_labels(path: &Path) -> anyhow::Result<HashMap<String, Label>> {
    let invalid = |message: String| CommandError::invalid_data(format!("{}: {message}", path.display()));
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_reader(text.trim_start_matches('\u{feff}').as_bytes());
    let header = reader
        .headers()
        .map_err(|error| invalid(error.to_string()))?
        .clone();
    let column = |name: &str| {
        let found = header
            .iter()
            .position(|column| column.trim().eq_ignore_ascii_case(name));
        found.ok_or_else(|| invalid(format!("there is no column `{name}`")))
    };
    let (item, label) = (column("item")?, column("label")?);
    let mut labels = HashMap::new();
    for row in reader.records() {
        let row = row.map_err(|error| invalid(error.to_string()))?;
        let line = row.position().map_or(0, csv::Position::line);
        let word = row.get(label).unwrap_or("").trim().to_lowercase();
        if word.is_empty() {
            continue;
        }
        let Some(value) = Label::ALL.into_iter().find(|value| value.key() == word) else {
            let message = format!("line {line}: label `{word}` is none of safe, unsafe and unsure");
            return Err(invalid(message).into());
        };
        labels.insert(row.get(item).unwrap_or("").trim().to_owned(), value);
    }
    Ok(labels)
}
