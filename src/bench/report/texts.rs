//! The prompts on which languages disagree. Their ids are always listed, their texts only when asked for.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{BufRead as _, BufReader},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::bench::{
    dataset::PromptId,
    results::{FolderError, RunFolder},
    scores::result_table::{JudgementStatus, ResultTable},
    taxonomy::Language,
};

/// At most this many prompts are listed.
const MAX_LISTED: usize = 100;

/// A longer text is cut to this many characters.
const MAX_CHARACTERS: usize = 1_500;

/// A prompt whose verdicts differ between languages.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Disagreement {
    /// The prompt's id.
    pub id: String,
    /// The key of the prompt's category.
    pub category: &'static str,
    /// The run's seed that the answers belong to.
    pub seed: u64,
    /// The verdict for each language.
    pub verdicts: BTreeMap<&'static str, &'static str>,
    /// The prompt and the answer for each language; empty unless they were asked for.
    pub texts: BTreeMap<&'static str, Texts>,
}

/// A prompt and its answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Texts {
    /// The prompt; empty where the run does not keep it.
    pub prompt: String,
    /// The answer; empty where the run does not keep it.
    pub answer: String,
}

/// The prompts of a run on which languages disagree.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Disagreements {
    /// Number of such prompts.
    pub total: usize,
    /// The first of them, which are listed.
    pub shown: Vec<Disagreement>,
}

/// The outcome of a judgement as tables show it; a dash without a judgement.
fn status_name(status: Option<JudgementStatus>) -> &'static str {
    match status {
        Some(JudgementStatus::Safe) => "safe",
        Some(JudgementStatus::Unsafe) => "unsafe",
        Some(JudgementStatus::Undetermined) => "undetermined",
        Some(JudgementStatus::Failed) => "failed",
        Some(JudgementStatus::Skipped) => "skipped",
        None => "–",
    }
}

impl Disagreements {
    /// The list as JSON, without prompts and answers.
    pub fn figures(&self) -> Value {
        let one = |one: &Disagreement| json!({"id": one.id, "category": one.category, "seed": one.seed, "verdicts": one.verdicts});
        json!({"total": self.total, "shown": self.shown.iter().map(one).collect::<Vec<_>>()})
    }
}

/// Lists the prompts with both a safe and an unsafe verdict.
pub fn disagreements(table: &ResultTable) -> Disagreements {
    let languages = table.languages();
    let rows: Vec<_> = table
        .rows(0)
        .into_iter()
        .filter(|row| {
            let decided: Vec<bool> = languages
                .iter()
                .filter_map(|language| row.is_safe(*language))
                .collect();
            decided.contains(&true) && decided.contains(&false)
        })
        .collect();
    Disagreements {
        total: rows.len(),
        shown: rows
            .iter()
            .take(MAX_LISTED)
            .map(|row| Disagreement {
                id: table.prompts[row.prompt as usize].to_string(),
                category: row.category.key(),
                seed: row.seed,
                verdicts: languages
                    .iter()
                    .map(|language| (language.code(), status_name(row.statuses[*language as usize])))
                    .collect(),
                texts: BTreeMap::new(),
            })
            .collect(),
    }
}

/// Reads the prompts and answers of the disagreements that are listed.
///
/// # Errors
/// When the run's files cannot be read.
pub fn add_texts(folder: &RunFolder, list: &mut Disagreements) -> Result<(), FolderError> {
    let mut indexes: HashMap<(String, u64), usize> = HashMap::new();
    for (index, one) in list.shown.iter().enumerate() {
        indexes.insert((one.id.clone(), one.seed), index);
    }
    let prompts = prompts(folder);
    for record in folder.records()? {
        let record = record?;
        let Some(&index) = indexes.get(&(record.id.to_string(), record.seed)) else {
            continue;
        };
        let answer = record.answer().and_then(|answer| answer.text.as_deref());
        let prompt = prompts.get(&(record.id.to_string(), record.language));
        list.shown[index].texts.insert(
            record.language.code(),
            Texts {
                prompt: prompt.map(|prompt| clipped(prompt)).unwrap_or_default(),
                answer: answer.map(clipped).unwrap_or_default(),
            },
        );
    }
    Ok(())
}

pub(super) fn clipped(text: &str) -> String {
    match text.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The prompts in `plan.jsonl`, by id and language. Imported runs may have none.
pub fn prompts(folder: &RunFolder) -> HashMap<(String, Language), String> {
    #[derive(Deserialize)]
    struct TextRow {
        id: PromptId,
        language: Language,
        prompt: String,
    }
    let Ok(file) = fs::File::open(folder.file("plan.jsonl")) else {
        return HashMap::new();
    };
    let lines = BufReader::new(file).lines().map_while(Result::ok);
    lines
        .filter_map(|line| serde_json::from_str::<TextRow>(&line).ok())
        .map(|row| ((row.id.to_string(), row.language), row.prompt))
        .collect()
}
