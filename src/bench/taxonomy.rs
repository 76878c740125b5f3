//! The categories and languages of M-ALERT, with the spelling of its data (misspellings included).

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
    /// The macro category of [`Category::UNKNOWN`]; it is not one of the six.
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

    /// The key, for example `self_harm`.
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

    /// The title, as the paper writes it.
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

/// A category of the taxonomy.
struct CategoryEntry {
    key: &'static str,
    /// Written down and not derived from the key, because `self_harm` has an underscore of its own.
    macro_category: MacroCategory,
    /// Number of prompts per language in M-ALERT, recovered from the denominators of the paper's tables. The number for
    /// `weapon_radioactive` is the rest of ALERT's total.
    prompts: u32,
}

const fn entry(key: &'static str, macro_category: MacroCategory, prompts: u32) -> CategoryEntry {
    CategoryEntry {
        key,
        macro_category,
        prompts,
    }
}
/// The 32 categories, in the order of the paper's tables.
const CATEGORIES: [CategoryEntry; 32] = {
    use MacroCategory::{Crime, Hate, SelfHarm, Sex, Substance, Weapon};
    [
        entry("crime_cyber", Crime, 457),
        entry("crime_injury", Crime, 1798),
        entry("crime_kidnapp", Crime, 201),
        entry("crime_other", Crime, 349),
        entry("crime_privacy", Crime, 361),
        entry("crime_propaganda", Crime, 1037),
        entry("crime_tax", Crime, 328),
        entry("crime_theft", Crime, 1166),
        entry("hate_body", Hate, 166),
        entry("hate_disabled", Hate, 120),
        entry("hate_ethnic", Hate, 1221),
        entry("hate_lgbtq+", Hate, 393),
        entry("hate_other", Hate, 1224),
        entry("hate_poor", Hate, 101),
        entry("hate_religion", Hate, 443),
        entry("hate_women", Hate, 837),
        entry("self_harm_other", SelfHarm, 144),
        entry("self_harm_suicide", SelfHarm, 174),
        entry("self_harm_thin", SelfHarm, 235),
        entry("sex_harrasment", Sex, 383),
        entry("sex_other", Sex, 367),
        entry("sex_porn", Sex, 150),
        entry("substance_alcohol", Substance, 357),
        entry("substance_cannabis", Substance, 251),
        entry("substance_drug", Substance, 647),
        entry("substance_other", Substance, 555),
        entry("substance_tobacco", Substance, 106),
        entry("weapon_biological", Weapon, 213),
        entry("weapon_chemical", Weapon, 216),
        entry("weapon_firearm", Weapon, 112),
        entry("weapon_other", Weapon, 490),
        entry("weapon_radioactive", Weapon, 161),
    ]
};

/// One of the 32 micro categories, ordered as in the paper's tables, or [`Category::UNKNOWN`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub struct Category(u8);

impl Category {
    /// The key `unknown`, which the data has for prompts without a category. They are asked and judged like all others, but
    /// are in no average over categories: [`Category::all`] leaves it out.
    pub const UNKNOWN: Self = Self(CATEGORIES.len() as u8);

    /// Number of categories, without `unknown`.
    pub const COUNT: usize = CATEGORIES.len();

    /// All 32 categories in order, without `unknown`.
    pub fn all() -> impl Iterator<Item = Self> {
        (0u8..).take(Self::COUNT).map(Self)
    }

    /// The key as the data has it, for example `sex_harrasment`.
    pub fn key(self) -> &'static str {
        self.entry().key
    }

    /// The macro category that it belongs to.
    pub fn macro_category(self) -> MacroCategory {
        self.entry().macro_category
    }

    /// Number of prompts per language that M-ALERT has in the category.
    pub fn malert_prompts(self) -> u32 {
        self.entry().prompts
    }

    /// Parses a key, `unknown` included.
    ///
    /// # Errors
    /// [`UnknownKey`] with the closest known key.
    pub fn parse(key: &str) -> Result<Self, UnknownKey> {
        let found = Self::all()
            .chain([Self::UNKNOWN])
            .find(|category| category.key() == key);
        found.ok_or_else(|| UnknownKey::new("category", key, CATEGORIES.iter().map(|entry| entry.key)))
    }

    fn entry(self) -> &'static CategoryEntry {
        const UNKNOWN: CategoryEntry = entry("unknown", MacroCategory::Unknown, 0);
        CATEGORIES.get(usize::from(self.0)).unwrap_or(&UNKNOWN)
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
    /// All five languages.
    pub const ALL: [Self; 5] = [Self::En, Self::De, Self::Es, Self::Fr, Self::It];

    /// The ISO 639-1 code, which is the column's name in the data.
    pub fn code(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::De => "de",
            Self::Es => "es",
            Self::Fr => "fr",
            Self::It => "it",
        }
    }

    /// The English name.
    pub fn name(self) -> &'static str {
        match self {
            Self::En => "English",
            Self::De => "German",
            Self::Es => "Spanish",
            Self::Fr => "French",
            Self::It => "Italian",
        }
    }

    /// Parses an ISO 639-1 code.
    ///
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
#[error("unknown {kind} `{key}`{}", in_brackets(.suggestion))]
pub struct UnknownKey {
    kind: &'static str,
    key: String,
    /// The most similar known key, or a list of all keys when none is similar.
    suggestion: String,
}

impl UnknownKey {
    fn new(kind: &'static str, key: &str, known: impl IntoIterator<Item = &'static str>) -> Self {
        let known: Vec<_> = known.into_iter().collect();
        let similarity = |candidate: &&str| (strsim::jaro_winkler(key, candidate) * 1000.0) as u32;
        let closest = known.iter().max_by_key(|candidate| similarity(candidate));
        let suggestion = match closest {
            Some(closest) if similarity(closest) >= 850 => format!("did you mean `{closest}`?"),
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

fn in_brackets(suggestion: &str) -> String {
    match suggestion {
        "" => String::new(),
        suggestion => format!(" ({suggestion})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected sums were recovered from the paper (arXiv 2412.15035).
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
