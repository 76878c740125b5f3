//! Finds what is wrong with a text by itself, or beside its English original.

use unicode_normalization::{IsNormalized, is_nfc, is_nfc_quick};

use super::ProblemKind;

/// Shortest English prompt, in characters, that lengths of translations are compared with.
const MIN_CHARS: usize = 20;

/// Usual lengths of a translation, as a multiple of the English length in characters. German, Spanish, French and Italian are
/// mostly 1.0 to 1.4 times as long; outside of these bounds something is missing or was added.
const LENGTH_RATIOS: std::ops::RangeInclusive<f64> = 0.5..=2.2;

/// The characters of Windows-1252 from 0x80 on, where it differs from Latin-1; 0 where nothing is defined.
const WINDOWS_1252: [char; 32] = [
    '\u{20ac}', '\0', '\u{201a}', '\u{192}', '\u{201e}', '\u{2026}', '\u{2020}', '\u{2021}', '\u{2c6}',
    '\u{2030}', '\u{160}', '\u{2039}', '\u{152}', '\0', '\u{17d}', '\0', '\0', '\u{2018}', '\u{2019}',
    '\u{201c}', '\u{201d}', '\u{2022}', '\u{2013}', '\u{2014}', '\u{2dc}', '\u{2122}', '\u{161}', '\u{203a}',
    '\u{153}', '\0', '\u{17e}', '\u{178}',
];

/// Problems of the characters of a text.
pub(super) fn problems(text: &str) -> Vec<(ProblemKind, String)> {
    let mut found = Vec::new();
    let control = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    if let Some(character) = text.chars().find(|c| control(*c)) {
        let message = format!("has the control character U+{:04X}", u32::from(character));
        found.push((ProblemKind::ControlCharacter, message));
    }
    if text.is_ascii() {
        return found;
    }
    let lost = text.matches('\u{fffd}').count();
    if lost > 0 {
        let message = format!("has {lost} replacement character(s) U+FFFD");
        found.push((ProblemKind::ReplacementCharacter, message));
    }
    if let Some((wrong, right)) = mojibake(text) {
        let message = format!("`{wrong}` looks like `{right}` in a wrong encoding");
        found.push((ProblemKind::Mojibake, message));
    }
    let normal = match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => true,
        IsNormalized::No => false,
        IsNormalized::Maybe => is_nfc(text),
    };
    if !normal {
        let message = "is not in Unicode normal form C: the same word has other bytes".to_owned();
        found.push((ProblemKind::NotNfc, message));
    }
    found
}

/// The first characters of a text that look like the UTF-8 bytes of one character, read as Windows-1252 or Latin-1; and that
/// character.
fn mojibake(text: &str) -> Option<(String, char)> {
    let mut rest = text.chars();
    while let Some(first) = rest.next() {
        let length = match byte_of(first) {
            Some(0xc2..=0xdf) => 2,
            Some(0xe1..=0xef) => 3,
            _ => continue,
        };
        let characters: Vec<char> = [first].into_iter().chain(rest.clone().take(length - 1)).collect();
        let bytes: Option<Vec<u8>> = characters.iter().map(|c| byte_of(*c)).collect();
        let Some(bytes) = bytes else { continue };
        if let Some(right) = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.chars().next())
        {
            return Some((characters.into_iter().collect(), right));
        }
    }
    None
}

/// The byte that a character above ASCII is in Windows-1252, or in Latin-1.
fn byte_of(character: char) -> Option<u8> {
    let place = WINDOWS_1252.iter().position(|known| *known == character);
    match place.filter(|_| character != '\0') {
        Some(place) => u8::try_from(0x80 + place).ok(),
        None => u8::try_from(u32::from(character))
            .ok()
            .filter(|byte| *byte >= 0x80),
    }
}

/// How many sentences a text has. A sentence ends with `.`, `!`, `?` or `…` at the end of the text or before a word that begins
/// like a sentence; a rest without such an end is one more. A point after a single letter (`z. B.`, `U. S.`) ends no sentence.
/// Longer abbreviations before a capital letter are counted as ends, wrongly.
pub fn sentences(text: &str) -> usize {
    let mut count = 0;
    // Characters of the word that is being read, and whether the sentence has a word yet.
    let (mut word, mut open) = (0, false);
    let mut characters = text.trim().chars().peekable();
    while let Some(character) = characters.next() {
        if character.is_alphanumeric() {
            (word, open) = (word + 1, true);
            continue;
        }
        let initial = character == '.' && word == 1;
        word = 0;
        if !matches!(character, '.' | '!' | '?' | '…') || !open || (initial && characters.peek().is_some())
        {
            continue;
        }
        let ends = characters.peek().copied().is_none_or(|next| {
            let apart = next.is_whitespace() || matches!(next, '"' | '\'' | '»' | '”' | '“' | ')');
            let begins = |c: char| c.is_uppercase() || c.is_numeric();
            apart
                && characters
                    .clone()
                    .find(|c| c.is_alphanumeric())
                    .is_none_or(begins)
        });
        if ends {
            count += 1;
            open = false;
        }
    }
    count + usize::from(open)
}

/// The ratio of a translation's length to the English length, where it is out of the usual bounds.
pub fn odd_length_ratio(english: &str, translation: &str) -> Option<f64> {
    let chars = english.trim().chars().count();
    if chars < MIN_CHARS {
        return None;
    }
    let ratio = translation.trim().chars().count() as f64 / chars as f64;
    (!LENGTH_RATIOS.contains(&ratio)).then_some(ratio)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<ProblemKind> {
        problems(text).into_iter().map(|(kind, _)| kind).collect()
    }

    #[test]
    fn ordinary_text_is_in_order() {
        for text in [
            "How do I cook rice?",
            "Wie heißt der größte Fluß? »Rhein« – oder „Elbe“",
            "¿Qué es un árbol? ¡Dímelo!",
            "À l’époque, « ça » coûtait 3 €… Noël, cœur",
            "Perché così? È già là.",
            "日本語の文章",
        ] {
            assert_eq!(kinds(text), [], "{text}");
        }
    }

    #[test]
    fn wrong_encodings_are_found_with_what_was_meant() {
        for (wrong, right) in [
            ("MÃ¼ller", 'ü'),
            ("donâ€™t", '’'),
            ("cafÃ©", 'é'),
            ("3 â‚¬", '€'),
            ("Ãœber", 'Ü'),
        ] {
            assert_eq!(mojibake(wrong).map(|(_, right)| right), Some(right), "{wrong}");
            assert_eq!(kinds(wrong), [ProblemKind::Mojibake], "{wrong}");
        }
        for fine in ["Müller", "don’t", "São Paulo", "AÇÃO", "Â", "à la", "3 €"] {
            assert_eq!(mojibake(fine), None, "{fine}");
        }
    }

    #[test]
    fn other_damage_is_significant() {
        assert_eq!(kinds("caf\u{fffd}"), [ProblemKind::ReplacementCharacter]);
        assert_eq!(kinds("cafe\u{301}"), [ProblemKind::NotNfc]);
        assert_eq!(kinds("a\u{0}b"), [ProblemKind::ControlCharacter]);
        assert_eq!(kinds("a\tb\n"), []);
    }

    #[test]
    fn sentences_are_counted_in_all_five_languages() {
        for (text, expected) in [
            ("", 0),
            ("How do I do it", 1),
            ("I am fat. Why not stop eating?", 2),
            ("Pourquoi ne pas arrêter de manger ?", 1),
            ("¿Por qué? ¡No lo sé!", 2),
            ("Es kostet 3.50 Euro, z. B. hier.", 1),
            ("Wait... what?!", 1),
            ("¿Quién? Yo.", 2),
            ("", 0),
            ("Er sagte: „Nein.“ Dann ging er.", 2),
        ] {
            assert_eq!(sentences(text), expected, "{text}");
        }
    }

    #[test]
    fn lengths_are_compared_where_they_say_something() {
        assert_eq!(odd_length_ratio("Short.", "Viel länger als das Original."), None);
        let english = "How can I learn to cook a good meal?";
        assert_eq!(
            odd_length_ratio(english, "Wie kann ich lernen, gut zu kochen?"),
            None
        );
        assert!(odd_length_ratio(english, "Wie?").is_some_and(|ratio| ratio < 0.2));
    }
}
