//! Pairs of different languages.

use crate::bench::taxonomy::Language;

/// Two different languages that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanguagePair {
    /// The language that the tables name first.
    pub first: Language,
    /// The language that the tables name second.
    pub second: Language,
}

impl LanguagePair {
    /// All pairs of the benchmark's languages, in table order.
    pub fn all() -> impl Iterator<Item = Self> {
        Language::ALL.into_iter().flat_map(|first| {
            let later = Language::ALL.into_iter().filter(move |second| *second > first);
            later.map(move |second| Self { first, second })
        })
    }

    /// The pairs of these languages, in table order.
    pub fn of(languages: &[Language]) -> impl Iterator<Item = Self> {
        Self::all().filter(|pair| languages.contains(&pair.first) && languages.contains(&pair.second))
    }

    /// The pair as files name it, such as `en-de`.
    pub fn key(self) -> String {
        format!("{}-{}", self.first.code(), self.second.code())
    }
}
