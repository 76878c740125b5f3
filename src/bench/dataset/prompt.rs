//! One prompt in the languages of a set, and what names it.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::bench::taxonomy::{Category, Language};

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
