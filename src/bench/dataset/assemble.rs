//! Puts the rows of files together by prompt, and finds what keeps the prompts from being parallel over the languages.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use serde_json::Value;

use super::{Problem, ProblemKind, PromptId, ReadOptions, Row, Wrapper, WrapperUse, wrapper::unwrapped};
use crate::bench::{
    table::{BadRow, Fields, TableLocation},
    taxonomy::{Category, Language},
};

/// Most bytes of one prompt: the protocol's limit of a message.
const MAX_PROMPT_BYTES: usize = 262_144;

/// Most bytes of an id: with the language it must fit into an item id of the protocol.
const MAX_ID_BYTES: usize = 96;

/// Most bytes of an attack type or a translator's name.
const MAX_NAME_BYTES: usize = 96;

/// A prompt with the places in the files that it came from.
pub(super) struct FoundRow {
    pub(super) row: Row,
    /// Index of the file.
    pub(super) file: usize,
    /// The row of the file that has the id first.
    pub(super) first: TableLocation,
    /// The row of the file that has the prompt in each language.
    pub(super) places: BTreeMap<Language, TableLocation>,
}

/// All prompts of the files, and all problems.
pub(super) struct Assembled {
    pub(super) found: Vec<FoundRow>,
    /// Languages of all rows, in the order of tables.
    pub(super) languages: Vec<Language>,
    /// Errors only, in the order of the files.
    pub(super) problems: Vec<Problem>,
    pub(super) wrapper: WrapperUse,
}

pub(super) struct Assembler<'a> {
    options: ReadOptions,
    /// The files' names. Problems name their file only where there are several.
    files: &'a [String],
    file: usize,
    found: Vec<FoundRow>,
    by_id: HashMap<String, usize>,
    /// Indices of rows whose prompts could not all be read. Languages that they lack are not reported: the cause is.
    incomplete: BTreeSet<usize>,
    /// With the index of the file, by which they are sorted.
    problems: Vec<(usize, Problem)>,
    wrapper: WrapperUse,
    /// The row that is being read.
    place: TableLocation,
    id: Option<String>,
}

impl<'a> Assembler<'a> {
    pub(super) fn new(files: &'a [String], options: ReadOptions) -> Self {
        Self {
            options,
            files,
            file: 0,
            found: Vec::new(),
            by_id: HashMap::new(),
            incomplete: BTreeSet::new(),
            problems: Vec::new(),
            wrapper: WrapperUse {
                prompts: 0,
                handling: options.wrapper,
            },
            place: TableLocation::Whole,
            id: None,
        }
    }

    /// Takes a row of the file with this index.
    pub(super) fn row(&mut self, file: usize, place: TableLocation, row: Result<Fields, BadRow>) {
        (self.file, self.place, self.id) = (file, place, None);
        match row {
            Ok(fields) => self.fields(&fields),
            Err(bad) => {
                let Problem {
                    kind, field, message, ..
                } = Problem::from_bad_row(place, &bad);
                self.problem(kind, &field, message);
            }
        }
    }

    fn problem(&mut self, kind: ProblemKind, field: &str, message: impl fmt::Display) {
        let several = self.files.len() > 1;
        let problem = Problem {
            kind,
            file: self
                .files
                .get(self.file)
                .filter(|_| several)
                .cloned()
                .unwrap_or_default(),
            location: self.place,
            id: self.id.clone(),
            field: field.to_owned(),
            message: message.to_string(),
        };
        self.problems.push((self.file, problem));
    }

    fn fields(&mut self, fields: &Fields) {
        let id = self.prompt_id(fields);
        self.id = id.as_ref().map(PromptId::to_string);
        let category = self.category(fields);
        let found = self.prompts(fields);
        let attack_type = self.name("attack_type", fields);
        let translator = self.name("translator", fields);
        let (Some(id), Some(category)) = (id, category) else {
            return;
        };
        let complete = !found.is_empty() && found.values().all(Option::is_some);
        let long = fields.contains_key("language");
        let row = Row {
            id,
            category,
            prompts: BTreeMap::new(),
            attack_type,
            translators: BTreeMap::new(),
        };
        let Some(at) = self.index_of(row, long) else {
            return;
        };
        if !complete {
            self.incomplete.insert(at);
        }
        for (language, prompt) in found.into_iter().filter_map(|(l, prompt)| Some((l, prompt?))) {
            let entry = &mut self.found[at];
            entry.places.insert(language, self.place);
            let translators = &mut entry.row.translators;
            translators.extend(translator.clone().map(|name| (language, name)));
            if entry.row.prompts.insert(language, prompt).is_some() {
                let message = format!("this id has a prompt in `{}` already", language.code());
                self.problem(ProblemKind::Duplicate, "language", message);
            }
        }
    }

    /// The index of the prompt that a row belongs to: a new one, or one that has been read in another language.
    fn index_of(&mut self, row: Row, long: bool) -> Option<usize> {
        let key = row.id.to_string();
        let Some(at) = self.by_id.get(&key).copied() else {
            self.by_id.insert(key, self.found.len());
            self.found.push(FoundRow {
                row,
                file: self.file,
                first: self.place,
                places: BTreeMap::new(),
            });
            return Some(self.found.len() - 1);
        };
        let known = &self.found[at];
        let first = match known.file == self.file {
            true => known.first.to_string(),
            false => format!("{}, {}", self.files[known.file], known.first),
        };
        if !long {
            let message = format!("{} is used in {first} already", row.id);
            self.problem(ProblemKind::Duplicate, "id", message);
            return None;
        }
        let (category, attack_type) = (known.row.category, known.row.attack_type.clone());
        if category != row.category {
            let message = format!(
                "is `{:?}`, but {first} has `{category:?}` for the same id",
                row.category
            );
            self.problem(ProblemKind::Conflict, "category", message);
        }
        if attack_type != row.attack_type {
            let message = format!("differs from {first}, which has the same id");
            self.problem(ProblemKind::Conflict, "attack_type", message);
        }
        Some(at)
    }

    fn prompt_id(&mut self, fields: &Fields) -> Option<PromptId> {
        match fields.get("id") {
            Some(Value::Number(number)) if number.is_u64() => number.as_u64().map(PromptId::Number),
            Some(Value::String(text)) if (1..=MAX_ID_BYTES).contains(&text.len()) => {
                Some(PromptId::of_text(text))
            }
            None | Some(Value::Null) => {
                self.problem(ProblemKind::Schema, "id", "is missing");
                None
            }
            Some(_) => {
                let expected = format!("must be a whole number or a text of 1 to {MAX_ID_BYTES} bytes");
                self.problem(ProblemKind::Schema, "id", expected);
                None
            }
        }
    }

    fn category(&mut self, fields: &Fields) -> Option<Category> {
        let key = self.text("category", fields)?;
        match Category::parse(key) {
            Ok(category) => Some(category),
            Err(unknown) => {
                self.problem(ProblemKind::UnknownCategory, "category", unknown);
                None
            }
        }
    }

    /// The texts of a row by language; `None` for a text that cannot be used.
    fn prompts(&mut self, fields: &Fields) -> BTreeMap<Language, Option<String>> {
        let mut prompts = BTreeMap::new();
        if fields.contains_key("language") || fields.contains_key("prompt") {
            let prompt = self.prompt("prompt", fields);
            prompts.extend(self.language(fields).map(|language| (language, prompt)));
            return prompts;
        }
        for language in Language::ALL {
            if fields.get(language.code()).is_some_and(|value| !value.is_null()) {
                prompts.insert(language, self.prompt(language.code(), fields));
            }
        }
        if prompts.is_empty() {
            self.problem(
                ProblemKind::Schema,
                "",
                "has neither `language` and `prompt` nor a column en, de, es, fr or it",
            );
        }
        prompts
    }

    fn language(&mut self, fields: &Fields) -> Option<Language> {
        if let (Some(language), None) = (self.options.language, fields.get("language")) {
            return Some(language);
        }
        if !fields.contains_key("language") {
            let message =
                "is missing; if the whole file is in one language, name it, such as --data-language en";
            self.problem(ProblemKind::Schema, "language", message);
            return None;
        }
        match Language::parse(self.text("language", fields)?) {
            Ok(language) => Some(language),
            Err(unknown) => {
                self.problem(ProblemKind::UnknownLanguage, "language", unknown);
                None
            }
        }
    }

    fn prompt(&mut self, field: &str, fields: &Fields) -> Option<String> {
        let mut prompt = self.text(field, fields)?;
        if let Some(inside) = unwrapped(prompt) {
            self.wrapper.prompts += 1;
            if self.options.wrapper == Wrapper::Strip {
                prompt = inside;
            }
        }
        let (kind, message) = if prompt.is_empty() {
            (ProblemKind::Empty, "has nothing inside its wrapper".to_owned())
        } else if prompt.len() > MAX_PROMPT_BYTES {
            let message = format!("has {} bytes, the limit is {MAX_PROMPT_BYTES}", prompt.len());
            (ProblemKind::TooLong, message)
        } else {
            return Some(prompt.to_owned());
        };
        self.problem(kind, field, message);
        None
    }

    /// A short text, or nothing where the column is absent, null or blank.
    fn name(&mut self, field: &str, fields: &Fields) -> Option<String> {
        match fields.get(field) {
            Some(Value::String(text)) if text.len() <= MAX_NAME_BYTES => {
                Some(text.trim().to_owned()).filter(|text| !text.is_empty())
            }
            None | Some(Value::Null) => None,
            Some(_) => {
                let message = format!("must be a text of at most {MAX_NAME_BYTES} bytes");
                self.problem(ProblemKind::Schema, field, message);
                None
            }
        }
    }

    /// A text that is not blank.
    fn text<'f>(&mut self, field: &str, fields: &'f Fields) -> Option<&'f str> {
        let (kind, message) = match fields.get(field) {
            Some(Value::String(text)) if !text.trim().is_empty() => return Some(text),
            Some(Value::String(_)) => (ProblemKind::Empty, "is empty"),
            None | Some(Value::Null) => (ProblemKind::Schema, "is missing"),
            Some(_) => (ProblemKind::Schema, "must be a text"),
        };
        self.problem(kind, field, message);
        None
    }

    pub(super) fn finish(mut self) -> Assembled {
        let languages: BTreeSet<Language> = self
            .found
            .iter()
            .flat_map(|found| found.row.prompts.keys().copied())
            .collect();
        for at in 0..self.found.len() {
            if !self.incomplete.contains(&at) {
                self.report_missing(at, &languages);
            }
        }
        if self.found.is_empty() && self.problems.is_empty() {
            (self.place, self.id) = (TableLocation::Line(1), None);
            self.problem(ProblemKind::NoRows, "", "the file has no rows");
        }
        self.problems
            .sort_by_key(|(file, problem)| (*file, problem.location));
        Assembled {
            found: self.found,
            languages: languages.into_iter().collect(),
            problems: self.problems.into_iter().map(|(_, problem)| problem).collect(),
            wrapper: self.wrapper,
        }
    }

    /// Reports the languages that other prompts have and this one lacks.
    fn report_missing(&mut self, at: usize, languages: &BTreeSet<Language>) {
        let FoundRow { row, file, first, .. } = &self.found[at];
        (self.file, self.place) = (*file, *first);
        let id = row.id.to_string();
        let has = |language: &&Language| row.prompts.contains_key(language);
        let (present, missing): (Vec<&Language>, Vec<&Language>) = languages.iter().partition(has);
        self.id = Some(id.clone());
        if present.len() < missing.len() {
            let names: Vec<_> = present.iter().map(|language| language.name()).collect();
            let message = format!("id {id} has a prompt in {} only", names.join(" and "));
            return self.problem(ProblemKind::Extra, "id", message);
        }
        for language in missing {
            let message = format!("id {id} has no prompt in {}, other rows have", language.name());
            self.problem(ProblemKind::Missing, language.code(), message);
        }
    }
}
