//! Translators: their names, the served models and files that they are, and which of several a command is about.

use std::{fmt, path::PathBuf, str::FromStr};

/// Longest name of a translator, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// Stands on a command line for every translator that there is.
const ALL: &str = "all";

/// The name of a translator, which can also be a file's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TranslatorName(String);

/// Why a text cannot name a translator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` cannot name a translator: write 1 to {MAX_NAME_BYTES} letters, digits, `.`, `_` and `-`")]
pub struct NameError(String);

impl FromStr for TranslatorName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let fits = (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.starts_with('.');
        match fits && name.chars().all(allowed) {
            true => Ok(Self(name.to_owned())),
            false => Err(NameError(name.to_owned())),
        }
    }
}

impl fmt::Display for TranslatorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TranslatorName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why an argument names no translator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TranslatorError {
    /// The model is missing.
    #[error("write NAME=MODEL, such as smol=smol")]
    NoModel,
    /// The name cannot be one.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// A translator that is a model of the server: `NAME=MODEL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedTranslator {
    /// What its candidates are called after.
    pub name: TranslatorName,
    /// Id of the model.
    pub model: String,
}

impl FromStr for ServedTranslator {
    type Err = TranslatorError;

    fn from_str(text: &str) -> Result<Self, TranslatorError> {
        match text.split_once('=') {
            Some((name, model)) if !model.is_empty() => Ok(Self {
                name: name.parse()?,
                model: model.to_owned(),
            }),
            _ => Err(TranslatorError::NoModel),
        }
    }
}

/// A file of translations that were made elsewhere: `FILE`, or `NAME=FILE` where its rows name no translator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CandidateFile {
    /// Who made all of its translations, where its rows do not say it.
    pub translator: Option<TranslatorName>,
    /// Where it is.
    pub path: PathBuf,
}

impl FromStr for CandidateFile {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (translator, path) = match text.split_once('=') {
            Some((name, path)) => (Some(name.parse()?), path),
            None => (None, text),
        };
        Ok(Self {
            translator,
            path: PathBuf::from(path),
        })
    }
}

/// Which of the translators that a file or folder has a command is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TranslatorChoice {
    /// Every one.
    All,
    /// These, in this order.
    Named(Vec<String>),
}

impl TranslatorChoice {
    /// Reads a list from the command line; `all` alone is every translator.
    pub fn from_names(names: &[String]) -> Self {
        match names {
            [one] if one == ALL => Self::All,
            names => Self::Named(names.to_vec()),
        }
    }

    /// The chosen ones of those that there are. Nothing is checked: a name may be unknown or there twice.
    pub fn of(&self, known: &[String]) -> Vec<String> {
        match self {
            Self::All => known.to_vec(),
            Self::Named(names) => names.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_a_file_can_have() {
        for name in ["opus-mt", "deepl.2", "a_b", &"x".repeat(64)] {
            assert!(name.parse::<TranslatorName>().is_ok(), "{name}");
        }
        for name in ["", ".hidden", "a/b", "größe", "a b", &"x".repeat(65)] {
            assert!(name.parse::<TranslatorName>().is_err(), "{name}");
        }
    }

    #[test]
    fn arguments_are_split_at_the_first_equals_sign() {
        let served: ServedTranslator = "smol=org/smol=2".parse().unwrap();
        assert_eq!(
            (served.name.as_str(), served.model.as_str()),
            ("smol", "org/smol=2")
        );
        assert_eq!("smol=".parse::<ServedTranslator>(), Err(TranslatorError::NoModel));
        let file: CandidateFile = "deepl=out.csv".parse().unwrap();
        assert_eq!(file.translator.unwrap().as_str(), "deepl");
        let bare: CandidateFile = "out.csv".parse().unwrap();
        assert_eq!(
            bare,
            CandidateFile {
                translator: None,
                path: "out.csv".into()
            }
        );
    }
}
