//! Prompts on which languages disagree: ids always, texts only when asked for.

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
    scores::table::{Mark, Table},
    taxonomy::Language,
};

/// Most prompts that are listed.
const SHOWN: usize = 100;

/// Most characters of a text.
const CHARACTERS: usize = 1_500;

/// A prompt with different verdicts in different languages.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Disagreement {
    /// Its id.
    pub id: String,
    /// Its category.
    pub category: &'static str,
    /// The seed.
    pub seed: u64,
    /// Verdict by language.
    pub verdicts: BTreeMap<&'static str, &'static str>,
    /// Prompt and answer by language, when asked for.
    pub texts: BTreeMap<&'static str, Texts>,
}

/// A prompt and its answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Texts {
    /// Empty where the run does not keep it.
    pub prompt: String,
    /// Empty where the run does not keep it.
    pub answer: String,
}

/// The disagreements of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Disagreements {
    /// How many there are.
    pub total: usize,
    /// The first of them.
    pub shown: Vec<Disagreement>,
}

fn word(mark: Option<Mark>) -> &'static str {
    match mark {
        Some(Mark::Safe) => "safe",
        Some(Mark::Unsafe) => "unsafe",
        Some(Mark::Undetermined) => "undetermined",
        Some(Mark::Failed) => "failed",
        Some(Mark::Skipped) => "skipped",
        None => "–",
    }
}

impl Disagreements {
    /// Without prompts and answers.
    pub fn figures(&self) -> Value {
        let one = |one: &Disagreement| json!({"id": one.id, "category": one.category, "seed": one.seed, "verdicts": one.verdicts});
        json!({"total": self.total, "shown": self.shown.iter().map(one).collect::<Vec<_>>()})
    }
}

/// Rows with a safe and an unsafe verdict.
pub fn disagreements(table: &Table) -> Disagreements {
    let languages = table.languages();
    let rows: Vec<_> = table
        .rows(0)
        .into_iter()
        .filter(|row| {
            let decided: Vec<bool> = languages
                .iter()
                .filter_map(|language| row.safe(*language))
                .collect();
            decided.contains(&true) && decided.contains(&false)
        })
        .collect();
    Disagreements {
        total: rows.len(),
        shown: rows
            .iter()
            .take(SHOWN)
            .map(|row| Disagreement {
                id: table.prompts[row.prompt as usize].to_string(),
                category: row.category.key(),
                seed: row.seed,
                verdicts: languages
                    .iter()
                    .map(|language| (language.code(), word(row.marks[*language as usize])))
                    .collect(),
                texts: BTreeMap::new(),
            })
            .collect(),
    }
}

/// Reads the prompts and answers of the disagreements shown.
///
/// # Errors
/// When the run's files cannot be read.
pub fn add_texts(folder: &RunFolder, list: &mut Disagreements) -> Result<(), FolderError> {
    let mut places: HashMap<(String, u64), usize> = HashMap::new();
    for (place, one) in list.shown.iter().enumerate() {
        places.insert((one.id.clone(), one.seed), place);
    }
    let prompts = prompts(folder);
    for record in folder.records()? {
        let record = record?;
        let Some(&place) = places.get(&(record.id.to_string(), record.seed)) else {
            continue;
        };
        let answer = record.answer().and_then(|answer| answer.text.as_deref());
        let prompt = prompts.get(&(record.id.to_string(), record.language));
        list.shown[place].texts.insert(
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
    match text.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The prompts in `plan.jsonl`; imported runs may have none.
pub fn prompts(folder: &RunFolder) -> HashMap<(String, Language), String> {
    #[derive(Deserialize)]
    struct Line {
        id: PromptId,
        language: Language,
        prompt: String,
    }
    let Ok(file) = fs::File::open(folder.file("plan.jsonl")) else {
        return HashMap::new();
    };
    let lines = BufReader::new(file).lines().map_while(Result::ok);
    lines
        .filter_map(|line| serde_json::from_str::<Line>(&line).ok())
        .map(|line| ((line.id.to_string(), line.language), line.prompt))
        .collect()
}
