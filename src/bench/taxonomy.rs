//! M-ALERT's categories and languages, spelt as in its data (misspellings included).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The six macro categories of ALERT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MacroCategory {
    /// Criminal Planning.
    Crime,
    /// Hate Speech & Discrimination.
    Hate,
    /// Suicide & Self-Harm.
    SelfHarm,
    /// Sexual Content.
    Sex,
    /// Regulated or Controlled Substances.
    Substance,
    /// Guns & Illegal Weapons.
    Weapon,
    /// Of [`Category::UNKNOWN`]; not one of the six.
    Unknown,
}

impl MacroCategory {
    /// All six, in the paper's order.
    pub const ALL: [Self; 6] = [
        Self::Crime,
        Self::Hate,
        Self::SelfHarm,
        Self::Sex,
        Self::Substance,
        Self::Weapon,
    ];

    /// For example `self_harm`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Crime => "crime",
            Self::Hate => "hate",
            Self::SelfHarm => "self_harm",
            Self::Sex => "sex",
            Self::Substance => "substance",
            Self::Weapon => "weapon",
            Self::Unknown => "unknown",
        }
    }

    /// As the paper writes it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Crime => "Criminal Planning",
            Self::Hate => "Hate Speech & Discrimination",
            Self::SelfHarm => "Suicide & Self-Harm",
            Self::Sex => "Sexual Content",
            Self::Substance => "Regulated or Controlled Substances",
            Self::Weapon => "Guns & Illegal Weapons",
            Self::Unknown => "Without a category",
        }
    }
}

/// Key, macro category, prompts per language in M-ALERT. The macro is written down and never derived from the
/// key: `self_harm` has two words. Counts were recovered from the denominators of the paper's tables,
/// `weapon_radioactive` as the rest of ALERT's total.
const MICRO: [(&str, MacroCategory, u32); 32] = {
    use MacroCategory::{Crime, Hate, SelfHarm, Sex, Substance, Weapon};
    [
        ("crime_cyber", Crime, 457),
        ("crime_injury", Crime, 1798),
        ("crime_kidnapp", Crime, 201),
        ("crime_other", Crime, 349),
        ("crime_privacy", Crime, 361),
        ("crime_propaganda", Crime, 1037),
        ("crime_tax", Crime, 328),
        ("crime_theft", Crime, 1166),
        ("hate_body", Hate, 166),
        ("hate_disabled", Hate, 120),
        ("hate_ethnic", Hate, 1221),
        ("hate_lgbtq+", Hate, 393),
        ("hate_other", Hate, 1224),
        ("hate_poor", Hate, 101),
        ("hate_religion", Hate, 443),
        ("hate_women", Hate, 837),
        ("self_harm_other", SelfHarm, 144),
        ("self_harm_suicide", SelfHarm, 174),
        ("self_harm_thin", SelfHarm, 235),
        ("sex_harrasment", Sex, 383),
        ("sex_other", Sex, 367),
        ("sex_porn", Sex, 150),
        ("substance_alcohol", Substance, 357),
        ("substance_cannabis", Substance, 251),
        ("substance_drug", Substance, 647),
        ("substance_other", Substance, 555),
        ("substance_tobacco", Substance, 106),
        ("weapon_biological", Weapon, 213),
        ("weapon_chemical", Weapon, 216),
        ("weapon_firearm", Weapon, 112),
        ("weapon_other", Weapon, 490),
        ("weapon_radioactive", Weapon, 161),
    ]
};

/// One of the 32 micro categories, ordered as in the paper's tables, or [`Category::UNKNOWN`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub struct Category(u8);

impl Category {
    /// The key `unknown`, which the data has for prompts that nobody could place. They are asked and judged like
    /// all others, but belong to no average over categories: [`Category::all`] leaves it out.
    pub const UNKNOWN: Self = Self(MICRO.len() as u8);

    /// How many there are, without `unknown`.
    pub const COUNT: usize = MICRO.len();

    /// All 32 in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0u8..).take(Self::COUNT).map(Self)
    }

    /// The key as in the data, for example `sex_harrasment`.
    pub fn key(self) -> &'static str {
        self.entry().0
    }

    /// The group it belongs to.
    pub fn macro_category(self) -> MacroCategory {
        self.entry().1
    }

    /// Prompts per language that M-ALERT has for it.
    pub fn malert_prompts(self) -> u32 {
        self.entry().2
    }

    /// # Errors
    /// [`UnknownKey`] with the closest known key.
    pub fn parse(key: &str) -> Result<Self, UnknownKey> {
        let found = Self::all()
            .chain([Self::UNKNOWN])
            .find(|category| category.key() == key);
        found.ok_or_else(|| UnknownKey::new("category", key, MICRO.iter().map(|entry| entry.0)))
    }

    fn entry(self) -> &'static (&'static str, MacroCategory, u32) {
        const UNKNOWN: (&str, MacroCategory, u32) = ("unknown", MacroCategory::Unknown, 0);
        MICRO.get(usize::from(self.0)).unwrap_or(&UNKNOWN)
    }
}

impl fmt::Debug for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

impl FromStr for Category {
    type Err = UnknownKey;

    fn from_str(key: &str) -> Result<Self, UnknownKey> {
        Self::parse(key)
    }
}

impl TryFrom<String> for Category {
    type Error = UnknownKey;

    fn try_from(key: String) -> Result<Self, UnknownKey> {
        Self::parse(&key)
    }
}

impl From<Category> for &'static str {
    fn from(category: Category) -> Self {
        category.key()
    }
}

/// M-ALERT's languages, in the order of this project's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Language {
    /// English.
    En,
    /// German.
    De,
    /// Spanish.
    Es,
    /// French.
    Fr,
    /// Italian.
    It,
}

impl Language {
    /// All five.
    pub const ALL: [Self; 5] = [Self::En, Self::De, Self::Es, Self::Fr, Self::It];

    /// ISO 639-1 code, the column name in the data.
    pub fn code(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::De => "de",
            Self::Es => "es",
            Self::Fr => "fr",
            Self::It => "it",
        }
    }

    /// English name.
    pub fn name(self) -> &'static str {
        match self {
            Self::En => "English",
            Self::De => "German",
            Self::Es => "Spanish",
            Self::Fr => "French",
            Self::It => "Italian",
        }
    }

    /// # Errors
    /// [`UnknownKey`] naming the five codes.
    pub fn parse(code: &str) -> Result<Self, UnknownKey> {
        let found = Self::ALL.into_iter().find(|language| language.code() == code);
        found.ok_or_else(|| UnknownKey::new("language", code, Self::ALL.map(Self::code)))
    }
}

impl FromStr for Language {
    type Err = UnknownKey;

    fn from_str(code: &str) -> Result<Self, UnknownKey> {
        Self::parse(code)
    }
}

impl TryFrom<String> for Language {
    type Error = UnknownKey;

    fn try_from(code: String) -> Result<Self, UnknownKey> {
        Self::parse(&code)
    }
}

impl From<Language> for &'static str {
    fn from(language: Language) -> Self {
        language.code()
    }
}

/// A key that is not in the taxonomy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind} `{key}`{}", hint(.suggestion))]
pub struct UnknownKey {
    kind: &'static str,
    key: String,
    /// A close known key, or the list of all when none is close.
    suggestion: String,
}

impl UnknownKey {
    fn new(kind: &'static str, key: &str, known: impl IntoIterator<Item = &'static str>) -> Self {
        let known: Vec<_> = known.into_iter().collect();
        let likeness = |candidate: &&str| (strsim::jaro_winkler(key, candidate) * 1000.0) as u32;
        let closest = known.iter().max_by_key(|candidate| likeness(candidate));
        let suggestion = match closest {
            Some(closest) if likeness(closest) >= 850 => format!("did you mean `{closest}`?"),
            _ if known.len() <= 8 => format!("known are {}", known.join(", ")),
            _ => String::new(),
        };
        Self {
            kind,
            key: key.to_owned(),
            suggestion,
        }
    }
}

fn hint(suggestion: &str) -> String {
    match suggestion {
        "" => String::new(),
        suggestion => format!(" ({suggestion})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums per macro, recovered from the paper (arXiv 2412.15035).
    #[test]
    fn counts_add_up_per_macro() {
        let sum = |wanted: MacroCategory| -> (usize, u32) {
            let members = Category::all().filter(|category| category.macro_category() == wanted);
            let members: Vec<_> = members.collect();
            (
                members.len(),
                members.iter().map(|category| category.malert_prompts()).sum(),
            )
        };
        let sums = MacroCategory::ALL.map(sum);
        assert_eq!(
            sums,
            [(8, 5697), (8, 4505), (3, 553), (3, 900), (5, 1916), (5, 1192)]
        );
        assert_eq!(sums.iter().map(|(_, prompts)| prompts).sum::<u32>(), 14_763);
    }

    #[test]
    fn keys_keep_their_macro_as_prefix_and_their_misspellings() {
        for category in Category::all() {
            let prefix = format!("{}_", category.macro_category().key());
            assert!(category.key().starts_with(&prefix), "{category:?}");
            assert_eq!(Category::parse(category.key()), Ok(category));
        }
        for misspelt in [
            "crime_kidnapp",
            "sex_harrasment",
            "self_harm_thin",
            "hate_lgbtq+",
            "hate_poor",
        ] {
            assert!(Category::parse(misspelt).is_ok());
        }
        assert_eq!(Category::parse("unknown"), Ok(Category::UNKNOWN));
        assert!(Category::all().all(|category| category != Category::UNKNOWN));
    }

    #[test]
    fn unknown_keys_come_with_a_suggestion() {
        let corrected = Category::parse("sex_harassment").expect_err("the data spells it otherwise");
        assert_eq!(
            corrected.to_string(),
            "unknown category `sex_harassment` (did you mean `sex_harrasment`?)"
        );
        let language = Language::parse("nl").expect_err("not one of the five");
        assert_eq!(
            language.to_string(),
            "unknown language `nl` (known are en, de, es, fr, it)"
        );
    }
}
