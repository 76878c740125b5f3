//! Reads prompt sets in M-ALERT's schema: wide rows (`id`, `category` and a column per language) or long ones (`id`,
//! `language`, `category`, `prompt`), from JSON lines, JSON, CSV, TSV or Parquet.

mod assemble;
mod check;
mod problem;
mod text;
mod wrapper;
mod write;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use self::assemble::{Assembled, Assembler};
pub use self::{
    check::{CategoryCount, CheckReport, Expect},
    problem::{DatasetError, Problem, ProblemKind},
    text::{length_ratio_is_odd, sentences},
    wrapper::{Wrapper, WrapperUse, unwrapped},
    write::write_long,
};
use super::{
    table::{self, TableInfo},
    taxonomy::{Category, Language},
};
use crate::digest;

/// What pairs the translations of one prompt. Numbers sort before texts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PromptId {
    /// As in M-ALERT.
    Number(u64),
    /// As in home-made sets.
    Text(String),
}

impl PromptId {
    /// An id that stands in a file as text. Digits are the number that they write, so that a set's ids are the same
    /// from CSV and from JSON.
    pub fn of_text(text: &str) -> Self {
        match text.parse::<u64>() {
            Ok(number) if number.to_string() == text => Self::Number(number),
            _ => Self::Text(text.to_owned()),
        }
    }
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
    /// `sha256:<hex>` of the file; of several files, that of their digests, one per line.
    pub digest: String,
    /// What became of ALERT's instruction wrapper.
    pub wrapper: WrapperUse,
    /// Languages that every row has, in table order.
    pub languages: Vec<Language>,
    /// In the order of the file.
    pub rows: Vec<Row>,
}

/// Where a set is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// What to call it.
    pub name: String,
    /// Its files, in order; together they are one set.
    pub files: Vec<PathBuf>,
}

impl Source {
    /// A single file, called by its name.
    pub fn file(path: &Path) -> Self {
        Self {
            name: file_name(path),
            files: vec![path.to_owned()],
        }
    }
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// How to read a set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// What to do with ALERT's instruction wrapper.
    pub wrapper: Wrapper,
    /// The language of rows that do not say it: ALERT's own files are English and have no column for it.
    pub language: Option<Language>,
}

impl Dataset {
    /// Reads a file.
    ///
    /// # Errors
    /// [`DatasetError`].
    pub fn read(path: &Path) -> Result<Self, DatasetError> {
        Self::open(&Source::file(path), ReadOptions::default())
    }

    /// Reads all files of a set.
    ///
    /// # Errors
    /// [`DatasetError`].
    pub fn open(source: &Source, options: ReadOptions) -> Result<Self, DatasetError> {
        Self::whole(Files::read(source, options)?)
    }

    /// Reads JSON lines.
    ///
    /// # Errors
    /// [`DatasetError::Invalid`] with every problem.
    pub fn parse(name: &str, text: &str) -> Result<Self, DatasetError> {
        Self::whole(Files::parse(name, text, ReadOptions::default()))
    }

    fn whole(files: Files) -> Result<Self, DatasetError> {
        let Assembled {
            found,
            languages,
            problems,
            wrapper,
        } = files.assembled;
        if !problems.is_empty() {
            return Err(DatasetError::Invalid {
                name: files.name,
                problems,
            });
        }
        Ok(Self {
            name: files.name,
            digest: files.digest,
            wrapper,
            languages,
            rows: found.into_iter().map(|found| found.row).collect(),
        })
    }
}

/// A set as it was read, errors and all.
struct Files {
    name: String,
    digest: String,
    /// Names and formats.
    tables: Vec<(String, TableInfo)>,
    assembled: Assembled,
}

impl Files {
    fn read(source: &Source, options: ReadOptions) -> Result<Self, DatasetError> {
        let names: Vec<_> = source.files.iter().map(|path| file_name(path)).collect();
        let mut assembler = Assembler::new(&names, options);
        let mut tables = Vec::new();
        let mut digests = Vec::new();
        for (index, (path, name)) in source.files.iter().zip(&names).enumerate() {
            let info = table::read(path, &mut |place, row| assembler.row(index, place, row))?;
            tables.push((name.clone(), info));
            let digest = digest::of_file(path).map_err(|source| table::TableError::Io {
                path: path.clone(),
                source,
            })?;
            digests.push(digest);
        }
        Ok(Self {
            name: source.name.clone(),
            digest: match digests.as_slice() {
                [only] => only.clone(),
                several => digest::of_bytes(several.join("\n")),
            },
            assembled: assembler.finish(),
            tables,
        })
    }

    fn parse(name: &str, text: &str, options: ReadOptions) -> Self {
        let names = [name.to_owned()];
        let mut assembler = Assembler::new(&names, options);
        table::read_json_lines(text, &mut |place, row| assembler.row(0, place, row));
        Self {
            name: name.to_owned(),
            digest: digest::of_bytes(text),
            tables: Vec::new(),
            assembled: assembler.finish(),
        }
    }
}
