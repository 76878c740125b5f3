//! A growing text: its bytes as they come, and where the guard looks at it.
//!
//! Positions of looks are a function of the text alone (and of the guard's tokenizer, which counts words), so that the same text
//! in other chunks is looked at in the same places. To that end a word is counted only once what follows it has come.

use std::ops::RangeInclusive;

/// Tokens between two looks that a cadence may have.
pub const CADENCE_TOKENS: RangeInclusive<usize> = 8..=512;

/// Most code points of a word. Scripts without spaces are cut by this and by their full stops.
const LONGEST_WORD: usize = 32;

/// The end of a sentence counts once this share of the cadence's tokens has come since the previous look, so that short
/// sentences, abbreviations and lists do not each cost a look.
const SENTENCE_SHARE: usize = 4;

/// End a sentence if white space follows, also behind closing marks: the stops of Latin, Arabic, Devanagari, Armenian, Ethiopic
/// and Burmese script.
const STOPS: [char; 12] = [
    '.', '!', '?', '\u{2026}', '\u{61f}', '\u{6d4}', '\u{964}', '\u{965}', '\u{589}', '\u{1362}', '\u{104a}',
    '\u{104b}',
];

/// End a sentence whatever follows, because their scripts have no spaces: the stops of Chinese and Japanese.
const WIDE_STOPS: [char; 5] = ['\u{3002}', '\u{ff01}', '\u{ff1f}', '\u{ff0e}', '\u{ff61}'];

/// Quotation marks and brackets that stand behind a full stop and belong to its sentence.
const CLOSING: [char; 14] = [
    '"', '\'', ')', ']', '}', '*', '\u{201d}', '\u{2019}', '\u{bb}', '\u{203a}', '\u{300d}', '\u{300f}',
    '\u{ff09}', '\u{3011}',
];

/// How often the guard looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cadence {
    /// Tokens between two looks, in [`CADENCE_TOKENS`].
    pub tokens: usize,
    /// Whether it also looks at the ends of sentences and lines.
    pub sentence_end: bool,
}

impl Default for Cadence {
    fn default() -> Self {
        Self {
            tokens: 64,
            sentence_end: true,
        }
    }
}

/// Finds the positions of looks in a text that grows.
#[derive(Debug)]
pub struct LookPlanner {
    cadence: Cadence,
    /// Bytes of the words that have been counted.
    counted: usize,
    /// Tokens of those since the previous look.
    tokens: usize,
}

impl LookPlanner {
    /// A planner for a text of which nothing has come.
    pub fn new(cadence: Cadence) -> Self {
        Self {
            cadence,
            counted: 0,
            tokens: 0,
        }
    }

    /// The next position to look at, in bytes from the beginning of `text`, which is all that has come; `None` until more has.
    /// Each position is returned once, in rising order; all are at the end of a word, and none is at the end of `text`. `count`
    /// gives the tokens of a word with the white space before it, at most 32 code points; every word counts as at least one.
    pub fn next(&mut self, text: &str, count: impl Fn(&str) -> usize) -> Option<usize> {
        loop {
            let word = first_word(text.get(self.counted..)?)?;
            self.counted += word.len();
            self.tokens += count(counted_part(word)).max(1);
            let is_sentence = || {
                self.cadence.sentence_end
                    && self.tokens * SENTENCE_SHARE >= self.cadence.tokens
                    && ends_sentence(word, &text[self.counted..])
            };
            if self.tokens >= self.cadence.tokens || is_sentence() {
                self.tokens = 0;
                return Some(self.counted);
            }
        }
    }
}

/// The first word of a text with the white space before it; `None` while its end is not certain.
fn first_word(text: &str) -> Option<&str> {
    let (mut has_begun, mut has_stopped) = (false, false);
    for (number, (at, character)) in text.char_indices().enumerate() {
        let continues_stop = WIDE_STOPS.contains(&character) || CLOSING.contains(&character);
        if number == LONGEST_WORD
            || (has_begun && character.is_whitespace())
            || (has_stopped && !continues_stop)
        {
            return Some(&text[..at]);
        }
        has_begun |= !character.is_whitespace();
        has_stopped |= WIDE_STOPS.contains(&character);
    }
    None
}

/// The words of a whole text, each with the white space before it. The last one has all that is left, so that nothing of the text is
/// missing.
pub(super) fn words(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let word = match first_word(text) {
            Some(word) => word,
            None if text.is_empty() => return None,
            None => text,
        };
        text = &text[word.len()..];
        Some(word)
    })
}

/// The part of a word whose tokens count: without the line breaks before it and the punctuation behind it. Tokenizers join these
/// with each other and with what follows, which may not have come.
fn counted_part(word: &str) -> &str {
    let behind_breaks = word.rsplit('\n').next().unwrap_or(word);
    behind_breaks.trim_end_matches(|character: char| !character.is_alphanumeric())
}

/// Whether a sentence or line ends between a word and what follows it.
fn ends_sentence(word: &str, after: &str) -> bool {
    let bare = word.trim_end_matches(CLOSING);
    let before_space = after.starts_with(char::is_whitespace);
    bare.ends_with(WIDE_STOPS) || after.starts_with('\n') || (before_space && bare.ends_with(STOPS))
}

/// A text of which bytes arrive, whole code points or not.
#[derive(Debug, Default)]
pub struct GrowingText {
    text: String,
    /// The beginning of a code point whose other bytes have not come, at most three bytes.
    partial: Vec<u8>,
}

/// A text is not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("byte {at} of the text is not UTF-8")]
pub struct NotUtf8 {
    /// Number of bytes before the first that is wrong.
    pub at: usize,
}

impl GrowingText {
    /// Appends bytes.
    ///
    /// # Errors
    /// When they are not UTF-8; the text is then as before.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), NotUtf8> {
        let mut joined = Vec::new();
        let bytes = if self.partial.is_empty() {
            bytes
        } else {
            joined.extend_from_slice(&self.partial);
            joined.extend_from_slice(bytes);
            &joined
        };
        let (whole, partial) = match std::str::from_utf8(bytes) {
            Ok(whole) => (whole, &[][..]),
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                let wrong = NotUtf8 {
                    at: self.text.len() + valid.len(),
                };
                if error.error_len().is_some() {
                    return Err(wrong);
                }
                (std::str::from_utf8(valid).map_err(|_| wrong)?, rest)
            }
        };
        self.text.push_str(whole);
        self.partial = partial.to_vec();
        Ok(())
    }

    /// The whole code points that have come.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// All bytes that have come, with those of an incomplete code point.
    pub fn received(&self) -> usize {
        self.text.len() + self.partial.len()
    }

    /// Checks that the text may end here.
    ///
    /// # Errors
    /// When its last code point is incomplete.
    pub fn finish(&self) -> Result<(), NotUtf8> {
        if self.partial.is_empty() {
            Ok(())
        } else {
            Err(NotUtf8 { at: self.text.len() })
        }
    }
}

#[cfg(test)]
#[path = "growing_tests.rs"]
pub(super) mod tests;
