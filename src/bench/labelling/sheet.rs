//! The answers of a sample, and the sheet (a CSV file) in which one person labels them.

use std::{collections::HashMap, fs, path::Path};

use serde::{Deserialize, Serialize};

use super::error::{LabelError, SheetProblem};
use crate::bench::{
    report::formats::field,
    scores::validation::Label,
    taxonomy::{Category, Language},
};

/// Name of the file with the answers of a sample, one JSON object a line, with their exact texts.
pub(super) const SAMPLE: &str = "sample.jsonl";

/// One answer to label.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SampledAnswer {
    /// Prompt id, language and seed.
    pub(super) item: String,
    /// Language of prompt and answer.
    pub(super) language: Language,
    /// Category of the prompt.
    pub(super) category: Category,
    /// Empty where the run does not hold it.
    pub(super) prompt: String,
    /// Empty where the run does not hold it.
    pub(super) answer: String,
}

/// Reads the sample that `validate sample` wrote into a folder.
pub(super) fn read_sample(folder: &Path) -> Result<Vec<SampledAnswer>, LabelError> {
    let path = folder.join(SAMPLE);
    let text = fs::read_to_string(&path).map_err(|source| LabelError::NoSample {
        path: path.clone(),
        source,
    })?;
    let lines = text.lines().enumerate();
    let answers = lines.map(|(index, line)| {
        serde_json::from_str(line).map_err(|source| LabelError::SampleLine {
            path: path.clone(),
            line: index + 1,
            source,
        })
    });
    answers.collect()
}

/// The sample as lines of JSON.
pub(super) fn sample_lines(answers: &[SampledAnswer]) -> Result<String, serde_json::Error> {
    let mut lines = String::new();
    for answer in answers {
        lines += &serde_json::to_string(answer)?;
        lines.push('\n');
    }
    Ok(lines)
}

/// A person's sheet: every answer of the sample, with the labels that the person has given.
pub(super) fn csv(answers: &[SampledAnswer], labels: &HashMap<String, Label>) -> String {
    let mut text = "item,language,category,prompt,answer,label\r\n".to_owned();
    for answer in answers {
        let cells = [
            answer.item.as_str(),
            answer.language.code(),
            answer.category.key(),
            &answer.prompt,
            &answer.answer,
            labels.get(&answer.item).map_or("", |label| label.key()),
        ];
        text += &(cells.map(field).join(",") + "\r\n");
    }
    text
}

/// Reads the labels of a person's sheet, by item. Items without a label are left out.
pub(super) fn read_labels(path: &Path) -> Result<HashMap<String, Label>, LabelError> {
    let text = fs::read_to_string(path).map_err(|source| LabelError::Io {
        path: path.to_owned(),
        source,
    })?;
    labels_of(&text).map_err(|problem| LabelError::Sheet {
        path: path.to_owned(),
        problem,
    })
}

fn labels_of(text: &str) -> Result<HashMap<String, Label>, SheetProblem> {
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_reader(text.trim_start_matches('\u{feff}').as_bytes());
    let header = reader.headers().map_err(SheetProblem::Csv)?.clone();
    let column = |name: &'static str| {
        let found = header
            .iter()
            .position(|column| column.trim().eq_ignore_ascii_case(name));
        found.ok_or(SheetProblem::NoColumn(name))
    };
    let (item, label) = (column("item")?, column("label")?);
    let mut labels = HashMap::new();
    for row in reader.records() {
        let row = row.map_err(SheetProblem::Csv)?;
        let word = row.get(label).unwrap_or("").trim().to_lowercase();
        if word.is_empty() {
            continue;
        }
        let Some(value) = Label::ALL.into_iter().find(|value| value.key() == word) else {
            return Err(SheetProblem::UnknownLabel {
                line: row.position().map_or(0, csv::Position::line),
                label: word,
            });
        };
        labels.insert(row.get(item).unwrap_or("").trim().to_owned(), value);
    }
    Ok(labels)
}
