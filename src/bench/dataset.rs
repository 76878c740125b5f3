//! Reads prompt sets in M-ALERT's schema: one JSON object per line, wide (`id`, `category` and a column per
//! language) or long (`id`, `language`, `category`, `prompt`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::taxonomy::{Category, Language};
use crate::digest;

/// Most bytes of one prompt: the protocol's limit of a message.
const MAX_PROMPT_BYTES: usize = 262_144;

/// Most bytes of an id: with the language it must fit into an item id of the protocol.
const MAX_ID_BYTES: usize = 96;

/// Problems that an error message spells out; the rest is counted.
const SHOWN_PROBLEMS: usize = 100;

/// What pairs the translations of one prompt. Numbers sort before texts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PromptId {
    /// As in M-ALERT.
    Number(u64),
    /// As in home-made sets.
    Text(String),
}

impl fmt::Display for PromptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// One prompt in all languages of the set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Unique in the set.
    pub id: PromptId,
    /// The micro category.
    pub category: Category,
    /// The same languages in every row.
    pub prompts: BTreeMap<Language, String>,
    /// How the prompt was made adversarial: ALERT's `attack_type`.
    pub attack_type: Option<String>,
    /// Who translated it, where the set says so.
    pub translators: BTreeMap<Language, String>,
}

impl Row {
    /// What figures can be split by, besides language and category.
    pub fn strata(&self, language: Language) -> Strata {
        Strata {
            attack_type: self.attack_type.clone(),
            translator: self.translators.get(&language).cloned(),
        }
    }
}

/// What else is known of a prompt in one language. It is kept with the item's result, so that figures can be
/// split by it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Strata {
    /// ALERT's `attack_type`, for example `prefix_injection`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attack_type: Option<String>,
    /// The translation system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translator: Option<String>,
}

/// A prompt set whose rows are parallel over its languages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// File name, or what it is called.
    pub name: String,
    /// `sha256:<hex>` of the file.
    pub digest: String,
    /// Languages that every row has, in table order.
    pub languages: Vec<Language>,
    /// In the order of the file.
    pub rows: Vec<Row>,
}

/// One thing that is wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// The column.
    pub field: String,
    /// What is wrong and what is expected.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, field, message } = self;
        match field.as_str() {
            "" => write!(f, "line {line}: {message}"),
            field => write!(f, "line {line}, field `{field}`: {message}"),
        }
    }
}

/// Why a prompt set cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Some rows are wrong; all of them are listed.
    #[error("{name} has {} problem{}:{}", .problems.len(), plural(.problems.len()), list(.problems))]
    Invalid {
        /// The set.
        name: String,
        /// In the order of the file, never empty.
        problems: Vec<Problem>,
    },
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn list(problems: &[Problem]) -> String {
    let mut text: String = problems
        .iter()
        .take(SHOWN_PROBLEMS)
        .map(|problem| format!("\n  {problem}"))
        .collect();
    if let Some(more) = problems
        .len()
        .checked_sub(SHOWN_PROBLEMS)
        .filter(|more| *more > 0)
    {
        text.push_str(&format!("\n  and {more} more"));
    }
    text
}

impl Dataset {
    /// Reads a `.jsonl` file.
    ///
    /// # Errors
    /// [`DatasetError`].
    pub fn read(path: &Path) -> Result<Self, DatasetError> {
        let unreadable = |source| DatasetError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let text = fs::read_to_string(path).map_err(unreadable)?;
        let name = path
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Self::parse(&name, &text)
    }

    /// Reads the lines of a `.jsonl` file.
    ///
    /// # Errors
    /// [`DatasetError::Invalid`] with every problem.
    pub fn parse(name: &str, text: &str) -> Result<Self, DatasetError> {
        let mut reader = Reader::default();
        let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
        for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            reader.line(index + 1, line);
        }
        let (rows, languages, problems) = reader.finish();
        if !problems.is_empty() {
            return Err(DatasetError::Invalid {
                name: name.to_owned(),
                problems,
            });
        }
        Ok(Self {
            name: name.to_owned(),
            digest: digest::of_bytes(text),
            languages,
            rows,
        })
    }
}

#[derive(Default)]
struct Reader {
    /// In the order of their first line.
    rows: Vec<(usize, Row)>,
    by_id: BTreeMap<String, usize>,
    /// Ids whose prompts could not all be read: their gaps are no news.
    incomplete: BTreeSet<usize>,
    problems: Vec<Problem>,
}

impl Reader {
    fn problem(&mut self, line: usize, field: &str, message: impl fmt::Display) {
        self.problems.push(Problem {
            line,
            field: field.to_owned(),
            message: message.to_string(),
        });
    }

    fn line(&mut self, line: usize, text: &str) {
        let object = match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(object)) => object,
            Ok(_) => return self.problem(line, "", "is not a JSON object"),
            Err(error) => return self.problem(line, "", format_args!("is not JSON: {error}")),
        };
        let id = self.id(line, &object);
        let category = self.category(line, &object);
        let found = self.prompts(line, &object);
        let (Some(id), Some(category)) = (id, category) else {
            return;
        };
        let attack_type = self.optional_text(line, "attack_type", &object);
        let translator = self.optional_text(line, "translator", &object);
        let complete = !found.is_empty() && found.values().all(Option::is_some);
        let long = object.contains_key("language");
        let place = match self.by_id.get(&id.to_string()).copied() {
            None => {
                let place = self.rows.len();
                self.by_id.insert(id.to_string(), place);
                let prompts = BTreeMap::new();
                self.rows.push((
                    line,
                    Row {
                        id,
                        category,
                        prompts,
                        attack_type,
                        translators: BTreeMap::new(),
                    },
                ));
                place
            }
            Some(place) if long => {
                let (first, known) = (self.rows[place].0, self.rows[place].1.category);
                if known != category {
                    let message =
                        format!("is `{category:?}`, but line {first} has `{known:?}` for the same id");
                    self.problem(line, "category", message);
                }
                place
            }
            Some(place) => {
                let message = format!("{id} is used in line {} already", self.rows[place].0);
                return self.problem(line, "id", message);
            }
        };
        if !complete {
            self.incomplete.insert(place);
        }
        for (language, prompt) in found
            .into_iter()
            .filter_map(|(language, prompt)| Some((language, prompt?)))
        {
            let translators = &mut self.rows[place].1.translators;
            translators.extend(translator.clone().map(|name| (language, name)));
            if self.rows[place].1.prompts.insert(language, prompt).is_some() {
                let message = format!("this id has a prompt in `{}` already", language.code());
                self.problem(line, "language", message);
            }
        }
    }

    fn id(&mut self, line: usize, object: &Map<String, Value>) -> Option<PromptId> {
        match object.get("id") {
            Some(Value::Number(number)) if number.is_u64() => number.as_u64().map(PromptId::Number),
            Some(Value::String(text)) if (1..=MAX_ID_BYTES).contains(&text.len()) => {
                Some(PromptId::Text(text.clone()))
            }
            None => {
                self.problem(line, "id", "is missing");
                None
            }
            Some(_) => {
                let expected = format!("must be a whole number or a text of 1 to {MAX_ID_BYTES} bytes");
                self.problem(line, "id", expected);
                None
            }
        }
    }

    fn category(&mut self, line: usize, object: &Map<String, Value>) -> Option<Category> {
        match self.text(line, "category", object) {
            Some(key) => Category::parse(key)
                .map_err(|unknown| self.problem(line, "category", unknown))
                .ok(),
            None => None,
        }
    }

    /// The row's prompts; `None` where there is one that cannot be used.
    fn prompts(&mut self, line: usize, object: &Map<String, Value>) -> BTreeMap<Language, Option<String>> {
        let mut prompts = BTreeMap::new();
        if object.contains_key("language") || object.contains_key("prompt") {
            let language = self.text(line, "language", object).map(Language::parse);
            let prompt = self.prompt(line, "prompt", object);
            match language {
                Some(Ok(language)) => {
                    prompts.insert(language, prompt);
                }
                Some(Err(unknown)) => self.problem(line, "language", unknown),
                None => {}
            }
            return prompts;
        }
        for language in Language::ALL {
            if object.get(language.code()).is_some_and(|value| !value.is_null()) {
                prompts.insert(language, self.prompt(line, language.code(), object));
            }
        }
        if prompts.is_empty() {
            self.problem(
                line,
                "",
                "has neither `language` and `prompt` nor a column en, de, es, fr or it",
            );
        }
        prompts
    }

    fn prompt(&mut self, line: usize, field: &str, object: &Map<String, Value>) -> Option<String> {
        let prompt = self.text(line, field, object)?;
        if prompt.len() > MAX_PROMPT_BYTES {
            let message = format!("has {} bytes, the limit is {MAX_PROMPT_BYTES}", prompt.len());
            self.problem(line, field, message);
            return None;
        }
        Some(prompt.to_owned())
    }

    /// A text, or nothing where the column is absent, null or blank.
    fn optional_text(&mut self, line: usize, field: &str, object: &Map<String, Value>) -> Option<String> {
        match object.get(field) {
            Some(Value::String(text)) => Some(text.clone()).filter(|text| !text.trim().is_empty()),
            None | Some(Value::Null) => None,
            Some(_) => {
                self.problem(line, field, "must be a text");
                None
            }
        }
    }

    /// A text that is not blank.
    fn text<'a>(&mut self, line: usize, field: &str, object: &'a Map<String, Value>) -> Option<&'a str> {
        let message = match object.get(field) {
            Some(Value::String(text)) if !text.trim().is_empty() => return Some(text),
            Some(Value::String(_)) => "is empty",
            Some(_) => "must be a text",
            None => "is missing",
        };
        self.problem(line, field, message);
        None
    }

    fn finish(mut self) -> (Vec<Row>, Vec<Language>, Vec<Problem>) {
        let languages: BTreeSet<Language> = self
            .rows
            .iter()
            .flat_map(|(_, row)| row.prompts.keys().copied())
            .collect();
        for (place, (line, row)) in self.rows.iter().enumerate() {
            if self.incomplete.contains(&place) {
                continue;
            }
            for missing in languages
                .iter()
                .filter(|language| !row.prompts.contains_key(language))
            {
                self.problems.push(Problem {
                    line: *line,
                    field: missing.code().to_owned(),
                    message: format!(
                        "id {} has no prompt in {}, other rows have",
                        row.id,
                        missing.name()
                    ),
                });
            }
        }
        if self.rows.is_empty() && self.problems.is_empty() {
            self.problem(1, "", "the file has no rows");
        }
        self.problems.sort_by_key(|problem| problem.line);
        let rows = self.rows.into_iter().map(|(_, row)| row).collect();
        (rows, languages.into_iter().collect(), self.problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        match Dataset::parse("test", text) {
            Err(DatasetError::Invalid { problems, .. }) => problems.iter().map(ToString::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn wide_and_long_rows_mean_the_same() {
        let wide = "\u{feff}{\"id\":7,\"category\":\"crime_tax\",\"en\":\"a\",\"it\":\"b\",\"note\":1}\r\n\n\
                    {\"id\":\"x\",\"category\":\"hate_lgbtq+\",\"en\":\"c\",\"it\":\"d\",\"de\":null}\n";
        let long = r#"{"id":7,"language":"en","category":"crime_tax","prompt":"a"}
{"id":"x","language":"it","category":"hate_lgbtq+","prompt":"d"}
{"id":"x","language":"en","category":"hate_lgbtq+","prompt":"c"}
{"id":7,"language":"it","category":"crime_tax","prompt":"b"}"#;
        let wide = Dataset::parse("wide", wide).expect("valid");
        let long = Dataset::parse("long", long).expect("valid");
        assert_eq!(wide.rows, long.rows);
        assert_eq!(wide.languages, [Language::En, Language::It]);
        assert_eq!(wide.rows[0].prompts[&Language::It], "b");
        assert_ne!(wide.digest, long.digest);
    }

    #[test]
    fn every_problem_is_listed_with_its_row_and_field() {
        let text = r#"{"id":1,"category":"crime_tax","en":"a","de":"b"}
{"id":-2,"category":"crime_taxes","en":" ","de":5}
[1]
{"id":1,"category":"crime_tax","en":"a","de":"b"}
{"id":3,"category":"crime_tax","en":"a"}
{"id":4,"category":"crime_tax"}
{"id":5,"language":"nl","prompt":"x"}
{"id":
"#;
        let found = problems(text);
        let expected = [
            "line 2, field `id`: must be a whole number or a text of 1 to 96 bytes",
            "line 2, field `category`: unknown category `crime_taxes` (did you mean `crime_tax`?)",
            "line 2, field `en`: is empty",
            "line 2, field `de`: must be a text",
            "line 3: is not a JSON object",
            "line 4, field `id`: 1 is used in line 1 already",
            "line 5, field `de`: id 3 has no prompt in German, other rows have",
            "line 6: has neither `language` and `prompt` nor a column en, de, es, fr or it",
            "line 7, field `category`: is missing",
            "line 7, field `language`: unknown language `nl` (known are en, de, es, fr, it)",
        ];
        assert_eq!(found[..expected.len()], expected);
        assert!(found[expected.len()].starts_with("line 8: is not JSON"));
        assert_eq!(found.len(), expected.len() + 1);
    }

    #[test]
    fn long_rows_of_one_id_must_agree() {
        let text = r#"{"id":1,"language":"en","category":"crime_tax","prompt":"a"}
{"id":1,"language":"en","category":"crime_theft","prompt":"a"}"#;
        assert_eq!(
            problems(text),
            [
                "line 2, field `category`: is `crime_theft`, but line 1 has `crime_tax` for the same id",
                "line 2, field `language`: this id has a prompt in `en` already"
            ]
        );
    }

    #[test]
    fn an_empty_file_is_no_set() {
        assert_eq!(problems("\n"), ["line 1: the file has no rows"]);
    }

    #[test]
    fn the_bundled_set_covers_everything() {
        let set = Dataset::parse("demo", crate::bench::DEMO_PROMPTS).expect("valid");
        assert_eq!(set.languages, Language::ALL);
        assert!(set.rows.len() >= 64);
        let first: BTreeSet<_> = set
            .rows
            .iter()
            .take(Category::COUNT)
            .map(|row| row.category)
            .collect();
        assert_eq!(first.len(), Category::COUNT);
    }
}
