//! Cheap checks of a candidate. A flag does not say that a translation is bad; it says why somebody should look at it.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use whatlang::{Detector, Lang};

use crate::bench::{
    dataset::{odd_length_ratio, sentences},
    taxonomy::Language,
};

/// Shortest text, in characters, whose language the detector can tell.
const MIN_CHARS_FOR_LANGUAGE: usize = 20;

/// A back translation with a lower chrF against the prompt is flagged.
pub const POOR_BACK_TRANSLATION: f64 = 30.0;

/// What looks wrong with a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flag {
    /// No text. Such a candidate is never chosen.
    Empty,
    /// The text is the prompt itself.
    Untranslated,
    /// The text reads as another one of the five languages.
    WrongLanguage,
    /// The text has fewer sentences than the prompt.
    FewerSentences,
    /// The text is much shorter or longer than the prompt.
    LengthRatio,
    /// The translator reached its token limit.
    Truncated,
    /// Translated back, the text is far from the prompt.
    PoorBackTranslation,
}

impl Flag {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Empty,
        Self::Untranslated,
        Self::WrongLanguage,
        Self::FewerSentences,
        Self::LengthRatio,
        Self::Truncated,
        Self::PoorBackTranslation,
    ];

    /// The flag's name in files and on the command line.
    pub fn key(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Untranslated => "untranslated",
            Self::WrongLanguage => "wrong_language",
            Self::FewerSentences => "fewer_sentences",
            Self::LengthRatio => "length_ratio",
            Self::Truncated => "truncated",
            Self::PoorBackTranslation => "poor_back_translation",
        }
    }
}

/// A key that is no flag's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("known flags are {}", Flag::ALL.map(Flag::key).join(", "))]
pub struct UnknownFlag;

impl FromStr for Flag {
    type Err = UnknownFlag;

    fn from_str(key: &str) -> Result<Self, UnknownFlag> {
        let found = Self::ALL.into_iter().find(|flag| flag.key() == key);
        found.ok_or(UnknownFlag)
    }
}

/// The flags that a candidate's text gets beside its prompt.
pub fn of_text(source: &str, text: &str, language: Language) -> Vec<Flag> {
    if text.trim().is_empty() {
        return vec![Flag::Empty];
    }
    let copied = text.trim() == source.trim();
    let shows = [
        (Flag::Untranslated, copied),
        (
            Flag::WrongLanguage,
            !copied && reads_as(text).is_some_and(|found| found != language),
        ),
        (Flag::FewerSentences, sentences(text) < sentences(source)),
        (Flag::LengthRatio, odd_length_ratio(source, text).is_some()),
    ];
    shows
        .into_iter()
        .filter_map(|(flag, shown)| shown.then_some(flag))
        .collect()
}

/// The language of the five that a text most resembles; `None` when it is too short or the detector is unsure.
pub fn reads_as(text: &str) -> Option<Language> {
    if text.chars().count() < MIN_CHARS_FOR_LANGUAGE {
        return None;
    }
    let known = vec![Lang::Eng, Lang::Deu, Lang::Spa, Lang::Fra, Lang::Ita];
    let found = Detector::with_allowlist(known).detect(text)?;
    if !found.is_reliable() {
        return None;
    }
    match found.lang() {
        Lang::Eng => Some(Language::En),
        Lang::Deu => Some(Language::De),
        Lang::Spa => Some(Language::Es),
        Lang::Fra => Some(Language::Fr),
        Lang::Ita => Some(Language::It),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{DEMO_PROMPTS, dataset::Dataset};

    #[test]
    fn each_flag_has_its_reason() {
        let source = "I am tired. How can I sleep better at night?";
        for (text, expected) in [
            ("Ich bin müde. Wie kann ich nachts besser schlafen?", vec![]),
            (" ", vec![Flag::Empty]),
            (source, vec![Flag::Untranslated]),
            (
                "Je suis fatigué. Comment puis-je mieux dormir la nuit ?",
                vec![Flag::WrongLanguage],
            ),
            ("Wie kann ich nachts besser schlafen?", vec![Flag::FewerSentences]),
            ("Müde. Wie?", vec![Flag::LengthRatio]),
        ] {
            assert_eq!(of_text(source, text, Language::De), expected, "{text}");
        }
    }

    /// The bundled prompts are good translations: hardly any of them may be suspected.
    #[test]
    fn good_translations_are_left_alone() {
        let set = Dataset::parse("demo", DEMO_PROMPTS).unwrap();
        let (mut all, mut flagged) = (0, 0);
        for row in &set.rows {
            for (&language, prompt) in row
                .prompts
                .iter()
                .filter(|(language, _)| **language != Language::En)
            {
                all += 1;
                flagged += usize::from(!of_text(&row.prompts[&Language::En], prompt, language).is_empty());
            }
        }
        assert_eq!(all, 256);
        assert!(flagged * 100 <= all, "{flagged} of {all}");
    }
}
