//! One prompt in the languages of a set, and its id.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::bench::taxonomy::{Category, Language};

/// The id of a prompt; all of its translations have the same id. Numbers sort before texts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PromptId {
    /// A number, as in M-ALERT.
    Number(u64),
    /// Any other text.
    Text(String),
}

impl PromptId {
    /// An id that a file holds as text. Digits are read as a number, so that a set has the same ids in CSV and in JSON.
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
    /// The prompt's text in each language; every row of a set has the same languages.
    pub prompts: BTreeMap<Language, String>,
    /// How the prompt was made adversarial: ALERT's `attack_type`.
    pub attack_type: Option<String>,
    /// The translator of each language, where the set names one.
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

/// What figures can be split by besides language and category. It is kept with the item's result.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Strata {
    /// ALERT's `attack_type`, for example `prefix_injection`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attack_type: Option<String>,
    /// The translator's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translator: Option<String>,
}
