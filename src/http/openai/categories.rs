//! OpenAI's categories of moderation, and which of them a guard's category is.
//!
//! The definitions that are compared are OpenAI's (platform.openai.com, "Moderation", content classifications) and those of the
//! guards' model cards. docs/openai.md has the table and says what it loses.

use serde::{
    Serialize,
    ser::{SerializeMap as _, Serializer},
};

/// A category of OpenAI's moderations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is OpenAI's category of this name")]
pub(super) enum Category {
    Harassment,
    HarassmentThreatening,
    Hate,
    HateThreatening,
    Illicit,
    IllicitViolent,
    SelfHarm,
    SelfHarmIntent,
    SelfHarmInstructions,
    Sexual,
    SexualMinors,
    Violence,
    ViolenceGraphic,
}

impl Category {
    /// All of them. Every answer has a key for each.
    pub(super) const ALL: [Self; 13] = [
        Self::Harassment,
        Self::HarassmentThreatening,
        Self::Hate,
        Self::HateThreatening,
        Self::Illicit,
        Self::IllicitViolent,
        Self::SelfHarm,
        Self::SelfHarmIntent,
        Self::SelfHarmInstructions,
        Self::Sexual,
        Self::SexualMinors,
        Self::Violence,
        Self::ViolenceGraphic,
    ];

    /// The key in answers.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Harassment => "harassment",
            Self::HarassmentThreatening => "harassment/threatening",
            Self::Hate => "hate",
            Self::HateThreatening => "hate/threatening",
            Self::Illicit => "illicit",
            Self::IllicitViolent => "illicit/violent",
            Self::SelfHarm => "self-harm",
            Self::SelfHarmIntent => "self-harm/intent",
            Self::SelfHarmInstructions => "self-harm/instructions",
            Self::Sexual => "sexual",
            Self::SexualMinors => "sexual/minors",
            Self::Violence => "violence",
            Self::ViolenceGraphic => "violence/graphic",
        }
    }
}

/// A value for each of OpenAI's categories, written as an object with all thirteen keys.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PerCategory<T>([T; 13]);

impl<T> PerCategory<T> {
    /// The value of each category.
    pub(super) fn of(value: impl FnMut(Category) -> T) -> Self {
        Self(Category::ALL.map(value))
    }
}

impl<T: Serialize> Serialize for PerCategory<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(Category::ALL.len()))?;
        for (category, value) in Category::ALL.iter().zip(&self.0) {
            map.serialize_entry(category.key(), value)?;
        }
        map.end()
    }
}

/// The categories of guards by their names, with OpenAI's categories that are nearest by their definitions. Where there is none,
/// the guard's category has no counterpart.
const COUNTERPARTS: [(&str, &[Category]); 34] = [
    // Llama Guard 3 and 2, PolyGuard.
    (
        "Violent Crimes",
        &[Category::Illicit, Category::IllicitViolent, Category::Violence],
    ),
    ("Non-Violent Crimes", &[Category::Illicit]),
    ("Sex Crimes", &[Category::Illicit, Category::Sexual]),
    (
        "Child Exploitation",
        &[Category::Illicit, Category::Sexual, Category::SexualMinors],
    ),
    ("Defamation", &[]),
    ("Specialized Advice", &[]),
    ("Privacy", &[]),
    ("Intellectual Property", &[]),
    (
        "Indiscriminate Weapons",
        &[Category::Illicit, Category::IllicitViolent],
    ),
    ("Hate", &[Category::Hate]),
    ("Self-Harm", &[Category::SelfHarm]),
    ("Sexual Content", &[Category::Sexual]),
    ("Elections", &[]),
    ("Code Interpreter Abuse", &[Category::Illicit]),
    // Qwen3Guard.
    (
        "Violent",
        &[Category::Illicit, Category::IllicitViolent, Category::Violence],
    ),
    ("Non-violent Illegal Acts", &[Category::Illicit]),
    ("Sexual Content or Sexual Acts", &[Category::Sexual]),
    ("PII", &[]),
    ("Suicide & Self-Harm", &[Category::SelfHarm]),
    ("Unethical Acts", &[]),
    ("Politically Sensitive Topics", &[]),
    ("Copyright Violation", &[]),
    ("Jailbreak", &[]),
    // Granite Guardian's risks; all but harm are asked about by a policy of that name.
    ("harm", &[]),
    ("social_bias", &[]),
    ("jailbreak", &[]),
    ("profanity", &[]),
    ("sexual_content", &[Category::Sexual]),
    ("unethical_behavior", &[]),
    ("violence", &[Category::Violence]),
    // ShieldGemma, which names one where it was asked about one alone.
    (
        "Dangerous Content",
        &[Category::Illicit, Category::IllicitViolent, Category::SelfHarm],
    ),
    ("Harassment", &[Category::Harassment]),
    ("Hate Speech", &[Category::Hate]),
    ("Sexually Explicit Information", &[Category::Sexual]),
];

/// OpenAI's categories that a guard's category is, by its name; empty for one without a counterpart, and for a name that only its
/// policy knows. A policy may name its categories by OpenAI's keys, and each is then that category and the one that it is part of.
pub(super) fn counterparts(name: &str) -> Vec<Category> {
    let is_of = |category: &Category| {
        let key = category.key();
        let part = name.strip_prefix(key);
        part.is_some_and(|part| part.is_empty() || part.starts_with('/'))
    };
    if Category::ALL.iter().any(|category| category.key() == name) {
        return Category::ALL.into_iter().filter(is_of).collect();
    }
    let found = COUNTERPARTS.iter().find(|(known, _)| *known == name);
    found.map_or_else(Vec::new, |(_, categories)| categories.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::GuardKind;

    #[test]
    fn every_category_of_every_guard_is_in_the_table() {
        for kind in GuardKind::ALL {
            for category in kind.native_policy().categories() {
                let is_known = COUNTERPARTS.iter().any(|(known, _)| *known == category.name);
                assert!(
                    is_known,
                    "{kind}: say in COUNTERPARTS and in docs/openai.md what `{}` is",
                    category.name
                );
            }
        }
    }

    #[test]
    fn a_name_is_in_the_table_once() {
        for (index, (name, _)) in COUNTERPARTS.iter().enumerate() {
            assert!(
                COUNTERPARTS[..index].iter().all(|(earlier, _)| earlier != name),
                "{name}"
            );
        }
    }

    #[test]
    fn a_child_comes_with_its_parent() {
        for (name, categories) in COUNTERPARTS {
            for category in categories {
                let Some((parent, _)) = category.key().split_once('/') else {
                    continue;
                };
                assert!(
                    categories.iter().any(|other| other.key() == parent),
                    "{name} is {} and not {parent}",
                    category.key()
                );
            }
        }
    }

    #[test]
    fn the_table_is_in_the_documentation() {
        let page = include_str!("../../../docs/openai.md");
        for (name, categories) in COUNTERPARTS {
            let keys: Vec<_> = categories
                .iter()
                .map(|category| format!("`{}`", category.key()))
                .collect();
            let told = match keys.is_empty() {
                true => "none".to_owned(),
                false => keys.join(", "),
            };
            let row = format!("| `{name}`");
            let line = page.lines().find(|line| line.starts_with(&row));
            let line = line.unwrap_or_else(|| panic!("`{name}` is not in docs/openai.md"));
            assert!(line.contains(&format!("| {told} |")), "{line}\n{told}");
        }
    }

    #[test]
    fn a_policy_may_have_openais_own_categories() {
        for category in Category::ALL {
            assert!(counterparts(category.key()).contains(&category));
        }
        assert_eq!(
            counterparts("hate/threatening"),
            [Category::Hate, Category::HateThreatening]
        );
        assert_eq!(counterparts("hate"), [Category::Hate]);
        assert_eq!(counterparts("hate/other"), []);
        assert_eq!(counterparts("Hate"), [Category::Hate]);
    }

    #[test]
    fn an_answer_has_all_thirteen_keys() {
        let written = serde_json::to_value(PerCategory::of(|category| category == Category::Hate)).unwrap();
        let written = written.as_object().unwrap();
        assert_eq!(written.len(), 13);
        for category in Category::ALL {
            assert_eq!(written[category.key()], category == Category::Hate);
        }
    }
}
