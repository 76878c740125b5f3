//! Holds the bundled demo prompts (`data/demo_prompts.jsonl`) to what `docs/demo-data.md` promises: M-ALERT's
//! wide schema, every category in every language, and text that is plausibly in the language its column names.
//! The category list is spelt out here again on purpose, so that a slip in the crate's own list shows.

use std::collections::{BTreeMap, HashSet};
use std::error::Error;
use std::path::Path;

use serde::Deserialize;

type TestResult = Result<(), Box<dyn Error>>;

/// One line of the file: a prompt in five parallel languages. Any other column is an error.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: u32,
    category: String,
    en: String,
    de: String,
    es: String,
    fr: String,
    it: String,
}

impl Row {
    /// The five texts, in the order of [`LANGUAGES`].
    fn texts(&self) -> [&str; 5] {
        [&self.en, &self.de, &self.es, &self.fr, &self.it]
    }
}

/// The micro categories in taxonomy order, spelt as the dataset spells them (arXiv 2412.15035, table of scores).
const CATEGORIES: [&str; 32] = [
    "crime_cyber",
    "crime_injury",
    "crime_kidnapp",
    "crime_other",
    "crime_privacy",
    "crime_propaganda",
    "crime_tax",
    "crime_theft",
    "hate_body",
    "hate_disabled",
    "hate_ethnic",
    "hate_lgbtq+",
    "hate_other",
    "hate_poor",
    "hate_religion",
    "hate_women",
    "self_harm_other",
    "self_harm_suicide",
    "self_harm_thin",
    "sex_harrasment",
    "sex_other",
    "sex_porn",
    "substance_alcohol",
    "substance_cannabis",
    "substance_drug",
    "substance_other",
    "substance_tobacco",
    "weapon_biological",
    "weapon_chemical",
    "weapon_firearm",
    "weapon_other",
    "weapon_radioactive",
];

/// What tells one language's prompts from another's without a language model.
struct Language {
    code: &'static str,
    /// Every non-ASCII character the language may use: all are precomposed, so the text is NFC.
    beyond_ascii: &'static str,
    /// Frequent words, none of which is frequent in another of the five.
    frequent: &'static str,
}

const LANGUAGES: [Language; 5] = [
    Language {
        code: "en",
        beyond_ascii: "",
        frequent: "the of to is how why that for who do my some and be with from it can write are without",
    },
    Language {
        code: "de",
        beyond_ascii: "ÄÖÜäöüß",
        frequent: "der die das ein eine einen und ist zu von nicht wie warum ich den dem mit auf für sich manche \
                   sind werden ohne als dass",
    },
    Language {
        code: "es",
        beyond_ascii: "¿¡ÁÉÍÓÚÑáéíóúüñ",
        frequent: "el los las por para cómo qué muy puedo sin algunas escribe está unos cuál mis después",
    },
    Language {
        code: "fr",
        beyond_ascii: "ÀÂÇÈÉÊÎÔŒàâçèéêëîïôùûœ",
        frequent: "les des est pour dans qui du et pas mes aux quand sur mon au pourquoi écris comment puis quels",
    },
    Language {
        code: "it",
        beyond_ascii: "ÀÈÉÌÒÙàèéìòù",
        frequent: "gli che di è per sono perché della dei nel nella alla degli posso potrebbe scrivi dal dall ai",
    },
];

fn rows() -> Result<Vec<Row>, Box<dyn Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/demo_prompts.jsonl");
    let text = std::fs::read_to_string(path)?;
    let mut rows = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let row = serde_json::from_str(line).map_err(|error| format!("line {}: {error}", index + 1))?;
        rows.push(row);
    }
    Ok(rows)
}

/// How often each language's frequent words occur in `text`, in the order of [`LANGUAGES`].
fn frequent_word_hits(text: &str) -> [usize; 5] {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric()).collect();
    LANGUAGES.map(|language| {
        let frequent: HashSet<&str> = language.frequent.split_whitespace().collect();
        words.iter().filter(|word| frequent.contains(*word)).count()
    })
}

#[test]
fn every_category_has_at_least_two_rows() -> TestResult {
    let rows = rows()?;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &rows {
        assert!(
            CATEGORIES.contains(&row.category.as_str()),
            "row {}: unknown category {}",
            row.id,
            row.category
        );
        *counts.entry(&row.category).or_default() += 1;
    }
    for category in CATEGORIES {
        let count = counts.get(category).copied().unwrap_or(0);
        assert!(count >= 2, "{category} has {count} rows");
    }
    assert!(rows.len() >= 64, "{} rows", rows.len());
    Ok(())
}

#[test]
fn the_first_rows_are_one_per_category_in_taxonomy_order() -> TestResult {
    let rows = rows()?;
    let first: Vec<&str> = rows
        .iter()
        .take(CATEGORIES.len())
        .map(|row| row.category.as_str())
        .collect();
    assert_eq!(first, CATEGORIES);
    Ok(())
}

#[test]
fn ids_increase() -> TestResult {
    for pair in rows()?.windows(2) {
        assert!(
            pair[0].id < pair[1].id,
            "id {} is followed by {}",
            pair[0].id,
            pair[1].id
        );
    }
    Ok(())
}

#[test]
fn no_prompt_occurs_twice() -> TestResult {
    let rows = rows()?;
    for (column, language) in LANGUAGES.iter().enumerate() {
        let mut seen = HashSet::new();
        for row in &rows {
            let text = row.texts()[column].to_lowercase();
            assert!(
                seen.insert(text),
                "row {}: {} text occurs earlier",
                row.id,
                language.code
            );
        }
    }
    Ok(())
}

#[test]
fn translations_are_not_the_english_text() -> TestResult {
    for row in rows()? {
        let [english, translations @ ..] = row.texts();
        for (text, language) in translations.iter().zip(&LANGUAGES[1..]) {
            assert_ne!(
                *text, english,
                "row {}: {} repeats the English text",
                row.id, language.code
            );
        }
    }
    Ok(())
}

#[test]
fn each_prompt_is_one_sentence_of_5_to_25_words() -> TestResult {
    for row in rows()? {
        for (text, language) in row.texts().into_iter().zip(&LANGUAGES) {
            let at = format!("row {} {}: {text:?}", row.id, language.code);
            assert_eq!(text.trim(), text, "{at} has outer white space");
            assert!(!text.contains("  "), "{at} has a double space");
            let words = text.split_whitespace().filter(|word| *word != "?").count();
            assert!((5..=25).contains(&words), "{at} has {words} words");
            let ends = text.matches(['.', '?', '!']).count();
            assert!(
                ends == 1 && text.ends_with(['.', '?']),
                "{at} is not one sentence"
            );
        }
    }
    Ok(())
}

#[test]
fn questions_are_questions_in_every_language() -> TestResult {
    for row in rows()? {
        let question = row.en.ends_with('?');
        for (text, language) in row.texts().into_iter().zip(&LANGUAGES) {
            let at = format!("row {} {}: {text:?}", row.id, language.code);
            assert_eq!(
                text.ends_with('?'),
                question,
                "{at} differs from the English text in kind"
            );
            assert_eq!(
                text.starts_with('¿'),
                question && language.code == "es",
                "{at}: inverted mark"
            );
            assert_eq!(
                text.ends_with(" ?"),
                question && language.code == "fr",
                "{at}: space before the mark"
            );
        }
    }
    Ok(())
}

#[test]
fn characters_are_precomposed_and_of_the_language() -> TestResult {
    for row in rows()? {
        for (text, language) in row.texts().into_iter().zip(&LANGUAGES) {
            let combining = text.chars().find(|c| ('\u{0300}'..='\u{036F}').contains(c));
            assert_eq!(
                combining, None,
                "row {} {}: combining mark",
                row.id, language.code
            );
            let stray = text
                .chars()
                .find(|c| !matches!(c, ' '..='~') && !language.beyond_ascii.contains(*c));
            assert_eq!(
                stray, None,
                "row {} {}: character outside the language",
                row.id, language.code
            );
        }
    }
    Ok(())
}

#[test]
fn the_word_lists_share_no_word() {
    let mut seen = HashSet::new();
    for word in LANGUAGES
        .iter()
        .flat_map(|language| language.frequent.split_whitespace())
    {
        assert!(seen.insert(word), "{word} is in two lists, or twice in one");
    }
}

#[test]
fn each_column_is_written_in_its_language() -> TestResult {
    for row in rows()? {
        for (own, text) in row.texts().into_iter().enumerate() {
            let hits = frequent_word_hits(text);
            let at = format!("row {} {}: {text:?}", row.id, LANGUAGES[own].code);
            for (other, language) in LANGUAGES.iter().enumerate().filter(|(other, _)| *other != own) {
                assert!(
                    hits[own] > hits[other],
                    "{at} reads as {} ({hits:?})",
                    language.code
                );
            }
        }
    }
    Ok(())
}
