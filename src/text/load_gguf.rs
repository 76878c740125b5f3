//! Loads the tokenizer in a GGUF file's `tokenizer.ggml.*` keys.
//!
//! Three models are supported: `gpt2` (byte-level BPE with merges), `llama` (SentencePiece BPE, where merges
//! follow from scores) and `gemma4` (merges over SentencePiece's spellings).
//! Keys: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer>.

use std::collections::HashSet;

use tokenizers::models::bpe::Vocab;

use super::{
    added::{AddedKind, AddedToken, is_markup},
    byte_level::ByteAlphabet,
    error::{TokenizerError, invalid},
    parts::{END_SPELLINGS, Parts, TokenBytes},
    pipeline::{BpeSpec, Pipeline, PlainEncoder, PreTokenizers, Spelling},
    pre::{PreFacts, PreTokenizer},
    spm::{ScoredMerges, piece_bytes},
};
use crate::{
    digest,
    gguf::{Gguf, Value},
};

/// The types of tokens in `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    types: Vec<TokenType>,
}

/// How tokens are found: `tokenizer.ggml.model`, and `tokenizer.ggml.pre` for models with merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Model {
    Merges(PreFacts),
    Scores,
}

/// Reads everything that a tokenizer needs.
pub(super) fn parts(gguf: &Gguf) -> Result<Parts, TokenizerError> {
    let model = Model::read(gguf)?;
    let facts = Settings::read(gguf, model)?;
    let vocabulary = Vocabulary::read(gguf, &facts)?;
    let plain = match model {
        Model::Merges(pre) => {
            PlainEncoder::Pipeline(Box::new(ranked(gguf, &vocabulary, pre, facts.unknown)?))
        }
        Model::Scores => PlainEncoder::Scored(Box::new(scored(gguf, &vocabulary, &facts)?)),
    };
    Ok(Parts {
        added: vocabulary.added(strips_whitespace_after(gguf)),
        bytes: vocabulary.bytes(model.spells_as_sentence_piece()),
        plain,
        bos_for_raw: if facts.adds_bos { facts.bos } else { None },
        digest: digest_of(gguf, &vocabulary, &facts),
        end_tokens: facts.end_tokens,
        strips_leading_space: facts.adds_space,
    })
}

impl Model {
    fn read(gguf: &Gguf) -> Result<Self, TokenizerError> {
        let pre = match gguf.get_str("tokenizer.ggml.model") {
            None => {
                return Err(invalid(
                    "tokenizer.ggml.model is missing: the file has no tokenizer",
                ));
            }
            Some("llama") => return Ok(Self::Scores),
            Some("gpt2") => gguf.get_str("tokenizer.ggml.pre").ok_or_else(|| {
                invalid("tokenizer.ggml.pre is missing: convert the model again with a current converter")
            })?,
            Some("gemma4") => "gemma4",
            Some(other) => {
                return Err(invalid(format!(
                    "tokenizer.ggml.model is `{other}`; `gpt2`, `llama` and `gemma4` are supported"
                )));
            }
        };
        PreTokenizer::by_name(pre).map(Self::Merges).ok_or_else(|| {
            let supported = PreTokenizer::supported();
            invalid(format!(
                "tokenizer.ggml.pre is `{pre}`, which is not supported; supported are {supported}"
            ))
        })
    }

    fn spells_as_sentence_piece(self) -> bool {
        match self {
            Self::Merges(facts) => facts.pre == PreTokenizer::Gemma4,
            Self::Scores => true,
        }
    }
}

/// The values of the smaller keys.
struct Settings {
    bos: Option<u32>,
    unknown: Option<u32>,
    /// End tokens that the file declares.
    end_tokens: Vec<u32>,
    /// Whether raw text begins with the bos token. There is no such setting for eos: a prompt that has ended cannot be
    /// continued, so `tokenizer.ggml.add_eos_token` is not read.
    adds_bos: bool,
    /// Whether a space is added in front of text.
    adds_space: bool,
}

impl Settings {
    fn read(gguf: &Gguf, model: Model) -> Result<Self, TokenizerError> {
        let id = |key: &str| token_id(gguf, &format!("tokenizer.ggml.{key}_token_id"));
        let flag = |key: &str| gguf.get_bool(&format!("tokenizer.ggml.{key}"));
        let mut end_tokens = Vec::new();
        for key in ["eos", "eot", "eom"] {
            end_tokens.extend(id(key)?);
        }
        let (adds_bos, adds_space) = match model {
            // Converters have written false for Gemma 4, which needs the bos token.
            Model::Merges(facts) if facts.pre == PreTokenizer::Gemma4 => (true, false),
            Model::Merges(facts) => (flag("add_bos_token").unwrap_or(facts.adds_bos), false),
            Model::Scores => (
                flag("add_bos_token").unwrap_or(true),
                flag("add_space_prefix").unwrap_or(true),
            ),
        };
        Ok(Self {
            bos: id("bos")?,
            unknown: id("unknown")?,
            end_tokens,
            adds_bos,
            adds_space,
        })
    }
}

impl<'a> Vocabulary<'a> {
    fn read(gguf: &'a Gguf, facts: &Settings) -> Result<Self, TokenizerError> {
        let tokens = strings(gguf, "tokenizer.ggml.tokens")?
            .ok_or_else(|| invalid("tokenizer.ggml.tokens is missing"))?;
        let mut types = match gguf.get("tokenizer.ggml.token_type").and_then(Value::as_array) {
            None => vec![TokenType::Normal; tokens.len()],
            Some(types) => types
                .iter()
                .map(|t| match t.as_i64() {
                    Some(2) => TokenType::Unknown,
                    Some(3) => TokenType::Control,
                    Some(4) => TokenType::UserDefined,
                    Some(5) => TokenType::Unused,
                    Some(6) => TokenType::Byte,
                    _ => TokenType::Normal,
                })
                .collect(),
        };
        if types.len() != tokens.len() {
            return Err(invalid(format!(
                "tokenizer.ggml.token_type has {} entries for {} tokens",
                types.len(),
                tokens.len()
            )));
        }
        // Some converters declare special tokens as normal ones.
        for (id, (text, kind)) in tokens.iter().zip(&mut types).enumerate() {
            let declared = || {
                facts
                    .bos
                    .iter()
                    .chain(&facts.end_tokens)
                    .any(|&d| d as usize == id)
            };
            let special = is_markup(text) && (declared() || END_SPELLINGS.contains(text));
            if *kind == TokenType::Normal && special {
                *kind = TokenType::Control;
            }
        }
        Ok(Self { tokens, types })
    }

    fn iter(&self) -> impl Iterator<Item = (u32, &'a str, TokenType)> {
        self.tokens
            .iter()
            .zip(&self.types)
            .enumerate()
            .map(|(id, (text, kind))| (id as u32, *text, *kind))
    }

    /// Ids by spelling. A spelling that occurs twice keeps its first id.
    fn ids(&self) -> Vocab {
        let mut vocab = Vocab::with_capacity(self.tokens.len());
        for (id, text, _) in self.iter() {
            if !text.is_empty() {
                vocab.entry(text.to_owned()).or_insert(id);
            }
        }
        vocab
    }

    fn added(&self, strips_after: bool) -> Vec<AddedToken> {
        let kind_of = |text: &str, kind| match kind {
            TokenType::Control => Some(AddedKind::Control),
            TokenType::UserDefined => Some(AddedKind::of_user_defined(text)),
            _ => None,
        };
        self.iter()
            .filter(|(_, text, _)| !text.is_empty())
            .filter_map(|(id, text, kind)| {
                kind_of(text, kind).map(|kind| AddedToken {
                    id,
                    text: text.to_owned(),
                    kind,
                    lstrip: false,
                    rstrip: strips_after && !["<unk>", "<s>", "<|endoftext|>"].contains(&text),
                })
            })
            .collect()
    }

    fn bytes(&self, sentence_piece: bool) -> TokenBytes {
        let alphabet = ByteAlphabet::new();
        let mut bytes = TokenBytes::default();
        for (_, text, kind) in self.iter() {
            bytes.push(|out| match kind {
                TokenType::Control | TokenType::Unknown | TokenType::Unused => {}
                TokenType::UserDefined => out.extend_from_slice(text.as_bytes()),
                TokenType::Normal | TokenType::Byte if sentence_piece => piece_bytes(text, out),
                TokenType::Normal | TokenType::Byte => alphabet.decode(text, out),
            });
        }
        bytes
    }
}

fn ranked(
    gguf: &Gguf,
    vocabulary: &Vocabulary<'_>,
    facts: PreFacts,
    unknown: Option<u32>,
) -> Result<Pipeline, TokenizerError> {
    let merges = strings(gguf, "tokenizer.ggml.merges")?
        .ok_or_else(|| invalid("tokenizer.ggml.merges is missing"))?
        .iter()
        .enumerate()
        .map(|(rank, merge)| split_merge(merge).ok_or_else(|| invalid(format!("merge {rank} is not a pair"))))
        .collect::<Result<Vec<_>, _>>()?;
    let never: HashSet<&str> = vocabulary
        .iter()
        .filter(|(_, text, kind)| match kind {
            TokenType::Control | TokenType::Unused | TokenType::Unknown => true,
            TokenType::UserDefined => AddedKind::of_user_defined(text) != AddedKind::Text,
            TokenType::Normal | TokenType::Byte => false,
        })
        .map(|(_, text, _)| text)
        .collect();
    let vocab = vocabulary.ids();
    let spells_bytes = facts.pre == PreTokenizer::Gemma4;
    let unknown = unknown.filter(|_| spells_bytes).and_then(|id| {
        let text = vocabulary.tokens.get(id as usize)?;
        Some((*text).to_owned())
    });
    let words = BpeSpec {
        vocab,
        merges,
        unknown,
        fuse_unknown: spells_bytes,
        byte_fallback: spells_bytes,
        ignore_merges: facts.ignore_merges,
    }
    .build(&never)?;
    let pre_tokenizer = facts.pre.pre_tokenizer();
    Pipeline::new(
        &facts.pre.normalizer(),
        PreTokenizers {
            first: &pre_tokenizer,
            later: &pre_tokenizer,
        },
        words,
        if spells_bytes {
            Spelling::SentencePiece
        } else {
            Spelling::ByteLevel
        },
    )
}

/// Splits a merge as GGUF spells it: two tokens with a space between them. The first token may begin with a space.
pub(super) fn split_merge(merge: &str) -> Option<(String, String)> {
    let start = merge.chars().next()?.len_utf8();
    let at = start + merge.get(start..)?.find(' ')?;
    let (left, right) = (merge.get(..at)?, merge.get(at + 1..)?);
    (!left.is_empty() && !right.is_empty()).then(|| (left.to_owned(), right.to_owned()))
}

fn scored(
    gguf: &Gguf,
    vocabulary: &Vocabulary<'_>,
    facts: &Settings,
) -> Result<ScoredMerges, TokenizerError> {
    let scores = gguf
        .get("tokenizer.ggml.scores")
        .and_then(Value::as_array)
        .ok_or_else(|| invalid("tokenizer.ggml.scores is missing"))?;
    if scores.len() != vocabulary.tokens.len() {
        return Err(invalid(format!(
            "tokenizer.ggml.scores has {} entries for {} tokens",
            scores.len(),
            vocabulary.tokens.len()
        )));
    }
    let mut merges = ScoredMerges::new(facts.unknown, facts.adds_space);
    for ((id, text, kind), score) in vocabulary.iter().zip(scores) {
        // Special tokens must not result from merging.
        if matches!(kind, TokenType::Normal | TokenType::Byte) {
            merges.add(id, text, score.as_f64().map_or(f32::NAN, |s| s as f32))?;
        }
    }
    Ok(merges)
}

/// Whether whitespace after special tokens belongs to them. This is so for Phi-3, whose GGUF files have no key for it.
fn strips_whitespace_after(gguf: &Gguf) -> bool {
    let name = gguf.get_str("general.name").unwrap_or("").to_lowercase();
    name.contains("phi-3") || name.contains("phi3")
}

fn strings<'a>(gguf: &'a Gguf, key: &str) -> Result<Option<Vec<&'a str>>, TokenizerError> {
    let Some(value) = gguf.get(key) else {
        return Ok(None);
    };
    let wrong = || invalid(format!("{key} is not an array of strings"));
    let array = value.as_array().ok_or_else(wrong)?;
    let strings: Option<Vec<&str>> = array.iter().map(Value::as_str).collect();
    strings.map(Some).ok_or_else(wrong)
}

fn token_id(gguf: &Gguf, key: &str) -> Result<Option<u32>, TokenizerError> {
    match gguf.get(key) {
        None => Ok(None),
        Some(value) => value
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .map(Some)
            .ok_or_else(|| invalid(format!("{key} is not a token id"))),
    }
}

fn digest_of(gguf: &Gguf, vocabulary: &Vocabulary<'_>, facts: &Settings) -> String {
    let mut everything: Vec<u8> = vocabulary.types.iter().map(|t| *t as u8).collect();
    let mut text = |text: &str| {
        everything.extend((text.len() as u64).to_le_bytes());
        everything.extend(text.as_bytes());
    };
    for key in ["tokenizer.ggml.model", "tokenizer.ggml.pre"] {
        text(gguf.get_str(key).unwrap_or(""));
    }
    text(&format!(
        "{} {} {:?} {:?} {:?} {}",
        facts.adds_bos,
        facts.adds_space,
        facts.end_tokens,
        facts.bos,
        facts.unknown,
        strips_whitespace_after(gguf)
    ));
    for token in &vocabulary.tokens {
        text(token);
    }
    for key in ["tokenizer.ggml.merges", "tokenizer.ggml.scores"] {
        for value in gguf.get(key).and_then(Value::as_array).unwrap_or(&[]) {
            match value {
                Value::String(merge) => text(merge),
                other => text(&other.as_f64().unwrap_or(0.0).to_string()),
            }
        }
    }
    digest::of_bytes(everything)
}
