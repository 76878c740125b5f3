//! Tokenizers from a GGUF file's `tokenizer.ggml.*` keys.
//!
//! Two models are understood: `gpt2` (byte-level BPE with merges) and `llama` (SentencePiece BPE, where
//! merges follow from scores). Keys: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer>.

use std::collections::HashSet;

use serde_json::json;
use tokenizers::models::bpe::{BPE, Vocab};

use super::{
    added::{AddedKind, AddedToken},
    byte_level::{ByteAlphabet, to_char},
    pipeline::{BpeSpec, Pipeline, component, invalid},
    pre::PreTokenizer,
    tokenizer::{Parts, TokenBytes, TokenizerError},
};
use crate::{
    digest,
    gguf::{Gguf, Value},
};

/// SentencePiece's space.
pub(super) const SPACE: char = '▁';

/// `tokenizer.ggml.token_type`.
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

/// Reads everything a tokenizer needs.
pub(super) fn parts(gguf: &Gguf) -> Result<Parts, TokenizerError> {
    let model = gguf
        .get_str("tokenizer.ggml.model")
        .ok_or_else(|| invalid("tokenizer.ggml.model is missing: the file has no tokenizer"))?;
    let vocabulary = Vocabulary::read(gguf)?;
    let (pipeline, adds_bos, adds_space) = match model {
        "gpt2" => byte_level(gguf, &vocabulary)?,
        "llama" => sentence_piece(gguf, &vocabulary)?,
        other => {
            return Err(invalid(format!(
                "tokenizer.ggml.model is `{other}`; `gpt2` and `llama` are supported"
            )));
        }
    };
    let id = |key: &str| token_id(gguf, key);
    let bos = id("tokenizer.ggml.bos_token_id")?;
    let adds_bos = gguf.get_bool("tokenizer.ggml.add_bos_token").unwrap_or(adds_bos);
    let mut end_tokens = Vec::new();
    for key in ["eos", "eot", "eom"] {
        end_tokens.extend(id(&format!("tokenizer.ggml.{key}_token_id"))?);
    }
    let swallows = swallows_whitespace(gguf);
    Ok(Parts {
        added: vocabulary.added(swallows),
        bytes: vocabulary.bytes(model == "llama"),
        pipeline,
        bos_for_raw: if adds_bos { bos } else { None },
        digest: digest_of(gguf, &vocabulary, &end_tokens, adds_bos, adds_space),
        end_tokens,
        strips_leading_space: adds_space,
    })
}

impl<'a> Vocabulary<'a> {
    fn read(gguf: &'a Gguf) -> Result<Self, TokenizerError> {
        let tokens = strings(gguf, "tokenizer.ggml.tokens")?
            .ok_or_else(|| invalid("tokenizer.ggml.tokens is missing"))?;
        let types = match gguf.get("tokenizer.ggml.token_type").and_then(Value::as_array) {
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
        Ok(Self { tokens, types })
    }

    fn iter(&self) -> impl Iterator<Item = (u32, &'a str, TokenType)> {
        self.tokens
            .iter()
            .zip(&self.types)
            .enumerate()
            .map(|(id, (text, kind))| (id as u32, *text, *kind))
    }

    /// Spelling to id; a spelling that appears twice keeps its first id.
    fn ids(&self, wanted: impl Fn(TokenType) -> bool) -> Vocab {
        let mut vocab = Vocab::with_capacity(self.tokens.len());
        for (id, text, kind) in self.iter() {
            if wanted(kind) && !text.is_empty() {
                vocab.entry(text.to_owned()).or_insert(id);
            }
        }
        vocab
    }

    fn added(&self, swallows: bool) -> Vec<AddedToken> {
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
                    rstrip: swallows && !["<unk>", "<s>", "<|endoftext|>"].contains(&text),
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

/// The bytes of a SentencePiece token: `▁` is a space, `<0x0A>` a byte.
pub(super) fn piece_bytes(piece: &str, out: &mut Vec<u8>) {
    let hex = piece.strip_prefix("<0x").and_then(|p| p.strip_suffix('>'));
    if let Some(byte) = hex
        .filter(|h| h.len() == 2)
        .and_then(|h| u8::from_str_radix(h, 16).ok())
    {
        out.push(byte);
        return;
    }
    for c in piece.chars() {
        let c = if c == SPACE { ' ' } else { c };
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

/// Bytes that text can contain and that no single-character token stands for.
pub(super) fn missing_bytes(has: impl Fn(&str) -> bool) -> Vec<u8> {
    // UTF-8 never contains these.
    let impossible = |b: &u8| matches!(b, 0xC0 | 0xC1 | 0xF5..=0xFF);
    (0..=u8::MAX)
        .filter(|b| !impossible(b) && !has(to_char(*b).encode_utf8(&mut [0; 4])))
        .collect()
}

fn byte_level(gguf: &Gguf, vocabulary: &Vocabulary<'_>) -> Result<(Pipeline, bool, bool), TokenizerError> {
    let name = gguf.get_str("tokenizer.ggml.pre").ok_or_else(|| {
        invalid("tokenizer.ggml.pre is missing: convert the model again with a current converter")
    })?;
    let facts = PreTokenizer::by_name(name)
        .ok_or_else(|| invalid(format!("tokenizer.ggml.pre is `{name}`, which is not supported")))?;
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
    let vocab = vocabulary.ids(|_| true);
    let missing_bytes = missing_bytes(|c| vocab.contains_key(c));
    let bpe = BpeSpec {
        vocab,
        merges,
        ignore_merges: facts.ignore_merges,
        ..BpeSpec::default()
    }
    .build(&never)?;
    let pre_tokenizer = facts.pre.pre_tokenizer();
    let pipeline = Pipeline {
        normalizer: component(&facts.pre.normalizer())?,
        first: component(&pre_tokenizer)?,
        later: component(&pre_tokenizer)?,
        bpe,
        missing_bytes,
    };
    Ok((pipeline, facts.adds_bos, false))
}

/// A merge as GGUF spells it: two tokens with a space between; the first may begin with one.
pub(super) fn split_merge(merge: &str) -> Option<(String, String)> {
    let start = merge.chars().next()?.len_utf8();
    let at = start + merge.get(start..)?.find(' ')?;
    let (left, right) = (merge.get(..at)?, merge.get(at + 1..)?);
    (!left.is_empty() && !right.is_empty()).then(|| (left.to_owned(), right.to_owned()))
}

fn sentence_piece(
    gguf: &Gguf,
    vocabulary: &Vocabulary<'_>,
) -> Result<(Pipeline, bool, bool), TokenizerError> {
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
    let adds_space = gguf.get_bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let mut steps = Vec::new();
    if adds_space {
        steps.push(json!({"type": "Prepend", "prepend": SPACE.to_string()}));
    }
    steps.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE.to_string()}));
    let pipeline = Pipeline {
        normalizer: component(&json!({"type": "Sequence", "normalizers": steps}))?,
        first: None,
        later: None,
        bpe: score_bpe(gguf, vocabulary, scores)?,
        missing_bytes: Vec::new(),
    };
    Ok((pipeline, true, adds_space))
}

/// SentencePiece's BPE joins the neighbours whose union has the best score; as merges, every way to cut a
/// token in two has the rank of the token's score.
fn score_bpe(gguf: &Gguf, vocabulary: &Vocabulary<'_>, scores: &[Value]) -> Result<BPE, TokenizerError> {
    let mut vocab = vocabulary.ids(|kind| kind == TokenType::Normal);
    let mut merges = Vec::new();
    for ((_, text, kind), score) in vocabulary.iter().zip(scores) {
        if kind != TokenType::Normal {
            continue;
        }
        let score = score.as_f64().filter(|s| s.is_finite());
        let score = score.ok_or_else(|| invalid(format!("the score of token `{text}` is not a number")))?;
        let mut cuts: Vec<(u32, u32, usize)> = text
            .char_indices()
            .skip(1)
            .filter_map(|(at, _)| Some((*vocab.get(&text[..at])?, *vocab.get(&text[at..])?, at)))
            .collect();
        cuts.sort_unstable();
        merges.extend(cuts.into_iter().map(|(_, _, at)| (score, text, at)));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    let merges = merges
        .into_iter()
        .map(|(_, text, at)| (text[..at].to_owned(), text[at..].to_owned()))
        .collect();
    // Byte tokens are looked up by their spelling, the unknown token by its own.
    vocab.extend(vocabulary.ids(|kind| kind == TokenType::Byte));
    let unknown = token_id(gguf, "tokenizer.ggml.unknown_token_id")?.and_then(|id| {
        vocabulary
            .tokens
            .get(id as usize)
            .map(|text| (id, (*text).to_owned()))
    });
    if let Some((id, text)) = &unknown {
        vocab.insert(text.clone(), *id);
    }
    BpeSpec {
        vocab,
        merges,
        unknown: unknown.map(|(_, text)| text),
        fuse_unknown: true,
        byte_fallback: true,
        ignore_merges: false,
    }
    .build(&HashSet::new())
}

/// Phi-3's special tokens swallow the whitespace after them; its GGUF files have no key for that.
fn swallows_whitespace(gguf: &Gguf) -> bool {
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

fn digest_of(
    gguf: &Gguf,
    vocabulary: &Vocabulary<'_>,
    end_tokens: &[u32],
    adds_bos: bool,
    adds_space: bool,
) -> String {
    let mut everything: Vec<u8> = vocabulary.types.iter().map(|t| *t as u8).collect();
    let mut text = |text: &str| {
        everything.extend((text.len() as u64).to_le_bytes());
        everything.extend(text.as_bytes());
    };
    for key in ["tokenizer.ggml.model", "tokenizer.ggml.pre"] {
        text(gguf.get_str(key).unwrap_or(""));
    }
    text(&format!(
        "{adds_bos} {adds_space} {end_tokens:?} {:?} {}",
        gguf.get_u64("tokenizer.ggml.bos_token_id"),
        swallows_whitespace(gguf)
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
