//! A lower bound for the number of tokens of a text, from its bytes and the longest tokens of the vocabulary. So a text that
//! is far too long for a model is refused before it is encoded.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, is_nfc_quick};

use super::spm::SPACE;

/// How an encoder changes text before it looks for tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Not at all: tokens stand for the bytes of the text.
    None,
    /// It composes characters (normal form C).
    Composes,
    /// It spells spaces as `▁`, so that a `▁` counts as a space.
    MarksSpaces,
}

/// For each pair of bytes, the longest token that begins with it.
pub(super) struct Coverage {
    change: Change,
    longest: usize,
    by_start: Box<[u16]>,
}

impl Coverage {
    /// The bound for an encoder that leaves out no byte of a text, and whose tokens never stand for more text than their own
    /// bytes. `tokens` are the bytes of all tokens that it may produce.
    pub(super) fn new<'a>(change: Change, tokens: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut by_start = vec![1u16; 1 << 16].into_boxed_slice();
        let mut longest = 1;
        for token in tokens {
            longest = longest.max(token.len());
            if let [first, second, ..] = token {
                let known = &mut by_start[start(*first, *second)];
                *known = (*known).max(u16::try_from(token.len()).unwrap_or(u16::MAX));
            }
        }
        // A token that is longer than the table can hold is assumed to begin with any pair of bytes.
        if longest > usize::from(u16::MAX) {
            by_start.fill(u16::MAX);
        }
        Self {
            change,
            longest,
            by_start,
        }
    }

    /// Least number of tokens of a text at any position of a prompt. A token that begins before the text, or with a space that
    /// was added in front, may cover as many bytes of it as the longest token has.
    pub(super) fn least_tokens(&self, text: &str) -> usize {
        let text = match self.change {
            Change::None => Cow::Borrowed(text),
            Change::Composes if text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes => {
                Cow::Borrowed(text)
            }
            // How many bytes are left after composing is not known yet.
            Change::Composes => return usize::from(!text.is_empty()),
            Change::MarksSpaces if text.contains(SPACE) => Cow::Owned(text.replace(SPACE, " ")),
            Change::MarksSpaces => Cow::Borrowed(text),
        };
        self.least_of_bytes(text.as_bytes())
    }

    /// The same for bytes as tokens spell them. It counts the fewest possible tokens: each next token begins anywhere up to the
    /// end of the last one, and is the one that reaches furthest.
    pub(super) fn least_of_bytes(&self, bytes: &[u8]) -> usize {
        if bytes.is_empty() {
            return 0;
        }
        if self.longest > usize::from(u16::MAX) {
            return bytes.len().div_ceil(self.longest);
        }
        let (mut count, mut end) = (1, self.longest);
        let mut furthest = end;
        for (at, pair) in bytes.windows(2).enumerate() {
            furthest = furthest.max(at + usize::from(self.by_start[start(pair[0], pair[1])]));
            if at == end {
                count += 1;
                end = furthest;
            }
        }
        // The last byte begins no pair, so it is counted here.
        if end < bytes.len() {
            count += 1;
        }
        count
    }
}

fn start(first: u8, second: u8) -> usize {
    usize::from(first) << 8 | usize::from(second)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn coverage(tokens: &[&str]) -> Coverage {
        Coverage::new(Change::None, tokens.iter().map(|token| token.as_bytes()))
    }

    #[test]
    fn a_token_before_the_text_may_cover_its_beginning() {
        let coverage = coverage(&["ab", "abc", "ca"]);
        assert_eq!(coverage.least_tokens(""), 0);
        assert_eq!(coverage.least_tokens("x"), 1);
        assert_eq!(coverage.least_tokens("abc"), 1);
        assert_eq!(coverage.least_tokens("abcabc"), 2);
        assert_eq!(coverage.least_tokens("xxxxxx"), 4);
        let long = coverage_of_one(70_000);
        assert_eq!(long.least_tokens(&"x".repeat(140_001)), 3);
    }

    fn coverage_of_one(bytes: usize) -> Coverage {
        let token = vec![b'x'; bytes];
        Coverage::new(Change::None, std::iter::once(token.as_slice()))
    }

    #[test]
    fn text_that_changes_is_not_counted_by_its_bytes() {
        let composes = Coverage::new(Change::Composes, [&b"ab"[..]].into_iter());
        assert_eq!(composes.least_tokens("abcdef"), 5);
        assert_eq!(composes.least_tokens(&"e\u{301}".repeat(100)), 1);
        let marks = Coverage::new(Change::MarksSpaces, [&b"  "[..]].into_iter());
        assert_eq!(marks.least_tokens("▁▁▁▁"), marks.least_tokens("    "));
    }

    /// The fewest tokens of a text when any division into tokens and single bytes counts.
    fn fewest(tokens: &[&str], text: &[u8]) -> usize {
        let mut best = vec![usize::MAX; text.len() + 1];
        best[0] = 0;
        for at in 0..text.len() {
            let single = [&text[at..=at]];
            for token in tokens.iter().map(|token| token.as_bytes()).chain(single) {
                if text[at..].starts_with(token) {
                    let next = at + token.len();
                    best[next] = best[next].min(best[at] + 1);
                }
            }
        }
        best[text.len()]
    }

    proptest! {
        #[test]
        fn never_more_than_any_division_has(text in "[abc]{0,40}", before in "[abc]{0,4}") {
            let tokens = ["ab", "bc", "abc", "aab", "bca", "aaaa", "abcab", "ccc"];
            let coverage = coverage(&tokens);
            let least = coverage.least_tokens(&text);
            prop_assert!(least <= fewest(&tokens, text.as_bytes()));
            // The same holds if a token begins before the text.
            let whole = format!("{before}{text}");
            prop_assert!(least <= fewest(&tokens, whole.as_bytes()));
            prop_assert!(text.is_empty() || least >= text.len() / coverage.longest);
        }
    }
}
