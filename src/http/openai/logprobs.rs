//! Log-probabilities of tokens, in the two forms that OpenAI's endpoints give them. All are natural logarithms under the model's
//! unmodified distribution.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::proto;

/// Those of an answer of chat completions, or of a piece of one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ChatLogprobs {
    content: Vec<ChatToken>,
    /// OpenAI's models may refuse in a field of its own; a model here refuses in its text.
    refusal: Option<()>,
}

/// A token that was generated.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct ChatToken {
    #[serde(flatten)]
    token: Likely,
    top_logprobs: Vec<Likely>,
}

/// A token and how likely it was.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Likely {
    /// The token's bytes as text, where a replacement character stands for what is no UTF-8 by itself.
    token: String,
    logprob: f64,
    bytes: Vec<u8>,
}

impl Likely {
    fn new(token: &[u8], logprob: f64) -> Self {
        Self {
            token: String::from_utf8_lossy(token).into_owned(),
            logprob,
            bytes: token.to_vec(),
        }
    }
}

impl ChatLogprobs {
    /// Those of some tokens.
    pub(super) fn of(tokens: &[proto::TokenLogprob]) -> Self {
        let told = |token: &proto::TokenLogprob| ChatToken {
            token: Likely::new(&token.token, token.logprob),
            top_logprobs: token
                .alternatives
                .iter()
                .map(|one| Likely::new(&one.token, one.logprob))
                .collect(),
        };
        Self {
            content: tokens.iter().map(told).collect(),
            refusal: None,
        }
    }
}

/// Those of an answer of completions, or of a piece of one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct TextLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f64>,
    /// The most likely tokens of each position by their text. Tokens whose texts are the same, because their bytes are no UTF-8 by
    /// themselves, have one entry: that of the most likely.
    top_logprobs: Vec<Map<String, Value>>,
    /// Where each token begins in the answer, in characters.
    text_offset: Vec<usize>,
}

/// How many characters of an answer its tokens have begun so far.
#[derive(Debug, Default)]
pub(super) struct BegunCharacters(usize);

impl BegunCharacters {
    /// Takes the next token, and returns the character at which it begins. A token that goes on with a character begins there.
    fn push(&mut self, token: &[u8]) -> usize {
        let begins = |byte: &u8| byte & 0xC0 != 0x80;
        let at = match token.first() {
            Some(first) if !begins(first) => self.0.saturating_sub(1),
            Some(_) | None => self.0,
        };
        self.0 += token.iter().filter(|byte| begins(byte)).count();
        at
    }
}

impl TextLogprobs {
    /// Those of some tokens, which come after those that were counted before.
    pub(super) fn of(tokens: &[proto::TokenLogprob], begun: &mut BegunCharacters) -> Self {
        let top = |token: &proto::TokenLogprob| {
            let mut map = Map::new();
            for one in &token.alternatives {
                let text = String::from_utf8_lossy(&one.token).into_owned();
                map.entry(text).or_insert_with(|| one.logprob.into());
            }
            map
        };
        Self {
            tokens: tokens
                .iter()
                .map(|token| String::from_utf8_lossy(&token.token).into_owned())
                .collect(),
            token_logprobs: tokens.iter().map(|token| token.logprob).collect(),
            top_logprobs: tokens.iter().map(top).collect(),
            text_offset: tokens.iter().map(|token| begun.push(&token.token)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(bytes: &[u8], logprob: f64) -> proto::TokenLogprob {
        let alternative = |token: &[u8], logprob| proto::token_logprob::Alternative {
            token_id: 1,
            token: token.to_vec(),
            logprob,
        };
        proto::TokenLogprob {
            token_id: 1,
            token: bytes.to_vec(),
            logprob,
            alternatives: vec![alternative(bytes, logprob), alternative(b"x", -7.5)],
        }
    }

    #[test]
    fn a_chat_has_each_token_with_its_bytes() {
        let written = serde_json::to_value(ChatLogprobs::of(&[token(b" a", -0.5)])).unwrap();
        let likely = json!({"token": " a", "logprob": -0.5, "bytes": [32, 97]});
        let other = json!({"token": "x", "logprob": -7.5, "bytes": [120]});
        let wanted = json!({
            "content": [{
                "token": " a", "logprob": -0.5, "bytes": [32, 97],
                "top_logprobs": [likely, other],
            }],
            "refusal": null,
        });
        assert_eq!(written, wanted);
    }

    #[test]
    fn a_completion_has_lists_and_offsets_in_characters() {
        let mut begun = BegunCharacters::default();
        // The second and third token are halves of one character.
        let tokens = ["é ".as_bytes(), &[0xF0, 0x9F], &[0x8D, 0x9E], b"!"].map(|bytes| token(bytes, -0.5));
        let first = serde_json::to_value(TextLogprobs::of(&tokens[..2], &mut begun)).unwrap();
        let second = serde_json::to_value(TextLogprobs::of(&tokens[2..], &mut begun)).unwrap();
        assert_eq!(first["text_offset"], json!([0, 2]));
        assert_eq!(second["text_offset"], json!([2, 3]));
        assert_eq!(first["tokens"], json!(["é ", "\u{fffd}"]));
        assert_eq!(second["token_logprobs"], json!([-0.5, -0.5]));
        assert_eq!(second["top_logprobs"][1], json!({"!": -0.5, "x": -7.5}));
    }
}
