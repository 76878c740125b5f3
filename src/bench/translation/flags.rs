//! Cheap looks at a candidate. None of them says that a translation is bad; each says why somebody should look.

use serde::{Deserialize, Serialize};
use whatlang::{Detector, Lang};

use crate::bench::{
    dataset::{length_ratio_is_odd, sentences},
    taxonomy::Language,
};

/// Texts with fewer characters say too little about their language.
const MIN_CHARS_FOR_LANGUAGE: usize = 20;

/// Below this chrF the way back did not lead home.
pub const POOR_BACK_TRANSLATION: f64 = 30.0;

/// What looks wrong with a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flag {
    /// No text. Such a candidate is never chosen.
    Empty,
    /// The prompt itself.
    Untranslated,
    /// It reads as another language of the five.
    WrongLanguage,
    /// Fewer sentences than the prompt.
    FewerSentences,
    /// Much shorter or longer than the prompt.
    LengthRatio,
    /// The translator reached its token limit.
    Truncated,
    /// Translated back, it is far from the prompt.
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

    /// As in files and on the command line.
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

/// What a candidate's text alone shows, beside the prompt.
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
        (Flag::LengthRatio, length_ratio_is_odd(source, text).is_some()),
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
