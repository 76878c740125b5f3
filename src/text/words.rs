//! Splits byte-level text into words one after the other, so that work on a long text can stop at any word and needs little
//! memory. The words are the same as those that the `tokenizers` crate finds in the whole text at once.
//!
//! Text with components that are not supported here goes through the crate as a whole, see [`super::pipeline`].

use serde_json::Value;
use tokenizers::utils::SysRegex;
use unicode_normalization::{IsNormalized, char::canonical_combining_class, is_nfc_quick};

use super::{byte_level::to_char, error::TokenizerError, pre::GPT2};

/// Least bytes of the parts in which text is composed.
const PART_BYTES: usize = 4 << 10;

/// One step of a pre-tokeniser. Its matches, and the text between them, become pieces.
enum Step {
    Pattern(SysRegex),
    /// Each digit is a match.
    Digits,
}

/// A pre-tokeniser whose last step spells bytes as characters.
pub(super) struct ByteWords {
    steps: Vec<Step>,
    /// Whether text is brought into Unicode normal form C first.
    pub(super) composes: bool,
    alphabet: [char; 256],
}

impl ByteWords {
    /// The splitter for components in the form of `tokenizer.json`; `None` if they do anything that is not supported here.
    pub(super) fn from_json(normalizer: &Value, pre_tokenizer: &Value) -> Option<Self> {
        let composes = match normalizer["type"].as_str() {
            None if normalizer.is_null() => false,
            Some("NFC") => true,
            _ => return None,
        };
        let list = match pre_tokenizer["type"].as_str()? {
            "Sequence" => pre_tokenizer["pretokenizers"].as_array()?.as_slice(),
            _ => std::slice::from_ref(pre_tokenizer),
        };
        let (last, list) = list.split_last()?;
        let mut steps = list.iter().map(Step::from_json).collect::<Option<Vec<_>>>()?;
        if last["type"] != "ByteLevel" || last["add_prefix_space"] != false {
            return None;
        }
        // If the key is missing, the pattern is used.
        if last["use_regex"] != false {
            steps.push(Step::Pattern(SysRegex::new(GPT2).ok()?));
        }
        Some(Self {
            steps,
            composes,
            alphabet: std::array::from_fn(|byte| to_char(u8::try_from(byte).unwrap_or(u8::MAX))),
        })
    }

    /// Calls `take` with each word of a text, in order. With [`ByteWords::composes`], the text must have been composed.
    pub(super) fn each(
        &self,
        text: &str,
        take: &mut dyn FnMut(&str) -> Result<(), TokenizerError>,
    ) -> Result<(), TokenizerError> {
        cut(&self.steps, text, take)
    }

    /// Writes a word in the byte-level alphabet to `out`.
    pub(super) fn spell(&self, word: &str, out: &mut String) {
        out.clear();
        out.extend(word.bytes().map(|byte| self.alphabet[usize::from(byte)]));
    }
}

impl Step {
    fn from_json(json: &Value) -> Option<Self> {
        match json["type"].as_str()? {
            "Digits" if json["individual_digits"] == true => Some(Self::Digits),
            "Split" if json["behavior"] == "Isolated" && json["invert"] != true => {
                let pattern = json["pattern"]["Regex"].as_str()?;
                SysRegex::new(pattern).ok().map(Self::Pattern)
            }
            _ => None,
        }
    }
}

fn cut(
    steps: &[Step],
    text: &str,
    take: &mut dyn FnMut(&str) -> Result<(), TokenizerError>,
) -> Result<(), TokenizerError> {
    let Some((step, rest)) = steps.split_first() else {
        return take(text);
    };
    let mut from = 0;
    let mut piece = |start: usize, end: usize| {
        for (start, end) in [(from, start), (start, end)] {
            if start < end {
                cut(rest, &text[start..end], take)?;
            }
        }
        from = end;
        Ok(())
    };
    match step {
        Step::Pattern(pattern) => {
            for (start, end) in pattern.find_iter(text) {
                piece(start, end)?;
            }
        }
        Step::Digits => {
            for (start, digit) in text.char_indices().filter(|(_, c)| c.is_numeric()) {
                piece(start, start + digit.len_utf8())?;
            }
        }
    }
    piece(text.len(), text.len())
}

/// Splits a text into parts that can be brought into normal form C one by one: each begins with a character that is never
/// joined or reordered with anything before it (a starter with `NFC_Quick_Check=Yes`, UAX #15, section 9.1).
pub(super) fn composable_parts(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let later = rest.char_indices().skip_while(|(at, _)| *at < PART_BYTES);
        let stands_alone = |c: char| {
            c.is_ascii()
                || (canonical_combining_class(c) == 0
                    && is_nfc_quick(std::iter::once(c)) == IsNormalized::Yes)
        };
        let end = later
            .into_iter()
            .find(|(_, c)| stands_alone(*c))
            .map_or(rest.len(), |(at, _)| at);
        let (part, others) = rest.split_at(end);
        rest = others;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokenizers::NormalizedString;

    use super::*;

    fn composed(text: &str) -> String {
        let mut normalized = NormalizedString::from(text);
        normalized.nfc();
        normalized.get().to_owned()
    }

    proptest! {
        #[test]
        fn parts_compose_as_the_whole_does(units in prop::collection::vec(
            prop_oneof![
                "(?s).{0,40}",
                "[a-zA-Z]{0,60}",
                "[\u{300}-\u{36f}]{0,40}",
                "[\u{1100}-\u{11ff}가-힣]{0,40}",
                "[αάᾳ\u{345}\u{301}Å\u{212b}\u{1d15e}]{0,40}",
            ], 0..400)) {
            let text = units.concat();
            let parts: Vec<&str> = composable_parts(&text).collect();
            prop_assert_eq!(parts.concat(), text.clone());
            let composed_parts: String = parts.into_iter().map(composed).collect();
            prop_assert_eq!(composed_parts, composed(&text));
        }
    }
}
