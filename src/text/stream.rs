//! Turns tokens into text while they arrive, in whole code points, and finds stop strings.

use std::sync::Arc;

use super::tokenizer::Tokenizer;
use crate::engine::StopCondition;

/// Turns tokens into text as they arrive. Holds back bytes that are not a complete code point yet, and text that may be the
/// beginning of a stop string. All text together is that of [`Tokenizer::decode`] for all tokens, up to the stop string that
/// is complete first (of two that end together, the longer one).
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    stops: StopStrings,
    /// Whether no text has been decoded yet, so that a leading space may have to be removed.
    at_start: bool,
    /// Bytes at the beginning of an incomplete code point.
    pending: Vec<u8>,
}

impl TextStream {
    /// A stream that ends before the first of these stop strings.
    pub fn new(tokenizer: Arc<Tokenizer>, stop: &[String]) -> Self {
        Self {
            tokenizer,
            stops: StopStrings::new(stop),
            at_start: true,
            pending: Vec::new(),
        }
    }

    /// Takes the next token, and returns the text that is certain now, which may be empty.
    pub fn push(&mut self, token: u32) -> String {
        let bytes = self.tokenizer.token_bytes(token);
        let bytes = match bytes.first() {
            Some(b' ') if self.at_start && self.tokenizer.strips_leading_space() => &bytes[1..],
            _ => bytes,
        };
        self.at_start &= self.tokenizer.token_bytes(token).is_empty();
        self.pending.extend_from_slice(bytes);
        let text = take_whole(&mut self.pending);
        self.stops.push(&text)
    }

    /// Bytes that tokens have brought and that are not text yet.
    pub fn held_bytes(&self) -> usize {
        self.stops.held_bytes() + self.pending.len()
    }

    /// The stop string that was found, if any. There is no text after it.
    pub fn stopped(&self) -> Option<&str> {
        self.stops.stopped()
    }

    /// Ends the stream, and returns the text that was held back, with incomplete code points replaced by U+FFFD.
    pub fn finish(&mut self) -> String {
        if self.stopped().is_some() {
            return String::new();
        }
        let rest = String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned();
        let mut text = self.stops.finish();
        text.push_str(&rest);
        text
    }
}

/// Removes the complete code points from the front of `bytes` and returns them. Bytes that can never become one are replaced
/// by U+FFFD, as [`String::from_utf8_lossy`] does for the whole text.
fn take_whole(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut taken = 0;
    loop {
        let rest = &bytes[taken..];
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                taken = bytes.len();
                break;
            }
            Err(error) => {
                text.push_str(&String::from_utf8_lossy(&rest[..error.valid_up_to()]));
                taken += error.valid_up_to();
                match error.error_len() {
                    Some(invalid) => {
                        text.push(char::REPLACEMENT_CHARACTER);
                        taken += invalid;
                    }
                    None => break,
                }
            }
        }
    }
    bytes.drain(..taken);
    text
}

/// Finds stop strings in text that arrives in pieces: the one that is complete first, of two that end together the longer one.
pub struct StopStrings {
    stops: Vec<String>,
    found: Option<usize>,
    /// Text that may be the beginning of a stop string.
    held: String,
}

impl StopStrings {
    /// For these stop strings.
    pub fn new(stops: &[String]) -> Self {
        Self {
            stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(),
            found: None,
            held: String::new(),
        }
    }

    /// The stop string that was found, if any. There is no text after it.
    pub fn stopped(&self) -> Option<&str> {
        self.found.and_then(|i| self.stops.get(i)).map(String::as_str)
    }

    /// Bytes that may be the beginning of a stop string.
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Ends the text, and returns what was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Takes text, and returns the text that is certainly in front of any stop string.
    pub fn push(&mut self, text: &str) -> String {
        if self.found.is_some() {
            return String::new();
        }
        self.held.push_str(text);
        // The match that ends first, whatever the pieces; of several, the one that begins first.
        let first = self
            .stops
            .iter()
            .enumerate()
            .filter_map(|(i, stop)| self.held.find(stop.as_str()).map(|at| (at + stop.len(), at, i)))
            .min();
        if let Some((_, at, index)) = first {
            self.found = Some(index);
            let mut before = std::mem::take(&mut self.held);
            before.truncate(at);
            return before;
        }
        let keep = self
            .stops
            .iter()
            .map(|s| overlap(&self.held, s))
            .max()
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }
}

/// Length of the longest suffix of `text` that is a proper prefix of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices()
        .map(|(at, _)| at)
        .rev()
        .find(|&at| text.ends_with(&stop[..at]))
        .unwrap_or(0)
}

/// Finds the same stop strings on the engine's thread.
pub struct StopMatcher(TextStream);

impl StopMatcher {
    /// A condition that ends the sequence at the token which completes one of these strings; `None` without strings.
    pub fn new(tokenizer: Arc<Tokenizer>, stop: &[String]) -> Option<Self> {
        let stream = TextStream::new(tokenizer, stop);
        (!stream.stops.stops.is_empty()).then_some(Self(stream))
    }
}

impl StopCondition for StopMatcher {
    fn push(&mut self, token: u32) -> bool {
        self.0.push(token);
        self.0.stopped().is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::test_files::{llama_cpp_vocabulary, smollm2};

    /// All text of a stream, the stop string that it found, and the index of the token at which it did.
    fn run(
        tokenizer: &Arc<Tokenizer>,
        tokens: &[u32],
        stop: &[String],
    ) -> (String, Option<String>, Option<usize>) {
        let mut stream = TextStream::new(tokenizer.clone(), stop);
        let mut text = String::new();
        let mut at = None;
        for (index, &token) in tokens.iter().enumerate() {
            text += &stream.push(token);
            if at.is_none() && stream.stopped().is_some() {
                at = Some(index);
            }
        }
        text += &stream.finish();
        (text, stream.stopped().map(str::to_owned), at)
    }

    /// The definition on the whole text: the stop string that ends first, and of two the longer one.
    fn expected(text: &str, stop: &[String]) -> (String, Option<String>) {
        for end in (0..=text.len()).filter(|&i| text.is_char_boundary(i)) {
            let found = stop
                .iter()
                .filter(|s| !s.is_empty() && text[..end].ends_with(s.as_str()));
            if let Some(found) = found.max_by_key(|s| s.len()) {
                return (text[..end - found.len()].to_owned(), Some(found.clone()));
            }
        }
        (text.to_owned(), None)
    }

    #[test]
    fn code_points_come_whole() {
        let tokenizer = smollm2();
        let tokens = tokenizer.encode_plain("a🙂b").unwrap();
        assert!(
            tokens.len() > 3,
            "the emoji must span tokens for this test to mean something"
        );
        let mut stream = TextStream::new(tokenizer.clone(), &[]);
        let deltas: Vec<String> = tokens.iter().map(|&t| stream.push(t)).collect();
        assert_eq!(deltas.concat(), "a🙂b");
        assert!(
            deltas
                .iter()
                .all(|d| d.is_empty() || ["a", "🙂", "b"].contains(&d.as_str()))
        );
        assert_eq!(stream.finish(), "");
        // The tokens end inside of the emoji.
        let (text, ..) = run(&tokenizer, &tokens[..tokens.len() - 2], &[]);
        assert_eq!(text, "a\u{fffd}");
    }

    #[test]
    fn special_tokens_are_no_text() {
        let tokenizer = smollm2();
        let mut tokens = tokenizer.encode_plain("one").unwrap();
        tokens.push(tokenizer.special_id("<|im_end|>").unwrap());
        tokens.extend(tokenizer.encode_plain(" two").unwrap());
        assert_eq!(run(&tokenizer, &tokens, &[]).0, "one two");
    }

    #[test]
    fn text_behind_a_possible_stop_is_held_back() {
        let tokenizer = smollm2();
        let stop = ["END".to_owned()];
        let mut stream = TextStream::new(tokenizer.clone(), &stop);
        let push = |stream: &mut TextStream, text: &str| -> String {
            let tokens = tokenizer.encode_plain(text).unwrap();
            tokens.iter().map(|&t| stream.push(t)).collect()
        };
        assert_eq!(push(&mut stream, "xE"), "x");
        assert_eq!(push(&mut stream, "N"), "");
        assert_eq!(push(&mut stream, "N"), "ENN");
        assert_eq!(push(&mut stream, "E"), "");
        assert_eq!(push(&mut stream, "ND and more"), "");
        assert_eq!(stream.stopped(), Some("END"));
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn a_leading_space_goes_where_encoding_adds_one() {
        let tokenizer = Arc::new(Tokenizer::open(&llama_cpp_vocabulary("llama-spm")).unwrap());
        for text in ["Hello world", " Hello", "  two", "🙂 x", "\n\nsafe"] {
            let tokens = tokenizer.encode_plain(text).unwrap();
            assert_eq!(run(&tokenizer, &tokens, &[]).0, text);
            assert_eq!(tokenizer.decode(&tokens), text);
        }
    }

    #[test]
    fn no_stop_strings_no_matcher() {
        assert!(StopMatcher::new(smollm2(), &[]).is_none());
        assert!(StopMatcher::new(smollm2(), &[String::new()]).is_none());
    }

    proptest! {
        #[test]
        fn deltas_join_to_the_decoded_text(tokens in prop::collection::vec(0u32..49160, 0..40)) {
            let tokenizer = smollm2();
            prop_assert_eq!(run(&tokenizer, &tokens, &[]).0, tokenizer.decode(&tokens));
        }

        #[test]
        fn stops_do_not_depend_on_token_borders(
            text in "[ab🙂 ]{0,24}",
            cuts in prop::collection::vec(0usize..24, 0..6),
            stop in prop::collection::vec("[ab🙂]{0,3}", 0..4),
        ) {
            let tokenizer = smollm2();
            // The same text in other tokens: encoded in pieces.
            let letters: Vec<char> = text.chars().collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(letters.len())).collect();
            cuts.extend([0, letters.len()]);
            cuts.sort_unstable();
            let tokens: Vec<u32> = cuts
                .windows(2)
                .flat_map(|w| tokenizer.encode_plain(&letters[w[0]..w[1]].iter().collect::<String>()).unwrap())
                .collect();
            let (before, found, at) = run(&tokenizer, &tokens, &stop);
            prop_assert_eq!((before, found), expected(&text, &stop));
            // The condition on the engine's thread stops at the same token.
            if let Some(mut matcher) = StopMatcher::new(tokenizer, &stop) {
                prop_assert_eq!(tokens.iter().position(|&t| matcher.push(t)), at);
            }
        }
    }
}
