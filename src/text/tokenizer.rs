//! Tokenizers from GGUF metadata or `tokenizer.json`.

use std::{collections::HashMap, path::Path};

use super::{
    added::{AddedKind, AddedMatcher, AddedToken},
    load_folder, load_gguf,
    pipeline::{PlainEncoder, invalid},
};
use crate::gguf::Gguf;

/// A piece of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Trusted text: special tokens spelled in it become special tokens.
    Template(String),
    /// Somebody's words: always plain text, whatever it spells.
    Content(String),
}

impl Segment {
    /// The text, whoever wrote it.
    pub fn text(&self) -> &str {
        match self {
            Self::Template(text) | Self::Content(text) => text,
        }
    }
}

/// Why a tokenizer could not be loaded or could not encode.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// What is missing, unknown or wrong, and where.
    #[error("tokenizer: {0}")]
    Invalid(String),
}

/// Most ids that a vocabulary may span; a larger one is a damaged file.
pub(super) const MAX_VOCAB: usize = 1 << 22;

/// Spellings of tokens that end an answer in well-known chat formats, whatever the file calls them.
pub(super) const END_SPELLINGS: [&str; 14] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|eom|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|return|>",
    "<|END_OF_TURN_TOKEN|>",
    "<end_of_turn>",
    "<turn|>",
    "<EOT>",
    "<｜end▁of▁sentence｜>",
];

/// Bytes of all tokens, one after the other.
#[derive(Default)]
pub(super) struct TokenBytes {
    data: Vec<u8>,
    ends: Vec<usize>,
}

impl TokenBytes {
    /// Appends the next id's bytes.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.data);
        self.ends.push(self.data.len());
    }

    fn get(&self, id: u32) -> &[u8] {
        let index = id as usize;
        match self.ends.get(index) {
            Some(&end) => {
                let start = index.checked_sub(1).and_then(|i| self.ends.get(i)).copied();
                &self.data[start.unwrap_or(0)..end]
            }
            None => &[],
        }
    }
}

/// What the loaders hand over.
pub(super) struct Parts {
    pub plain: PlainEncoder,
    pub added: Vec<AddedToken>,
    pub bytes: TokenBytes,
    pub bos_for_raw: Option<u32>,
    /// Declared end tokens, in any order.
    pub end_tokens: Vec<u32>,
    /// A decoded text loses its first space, because encoding puts one in front.
    pub strips_leading_space: bool,
    pub digest: String,
}

/// A model's tokenizer. Special tokens are matched by us and never inside [`Segment::Content`].
pub struct Tokenizer {
    plain: PlainEncoder,
    /// All added tokens, for trusted text.
    in_template: AddedMatcher,
    /// Only those that are ordinary text.
    in_content: AddedMatcher,
    bytes: TokenBytes,
    special_text: HashMap<u32, String>,
    special_id: HashMap<String, u32>,
    bos_for_raw: Option<u32>,
    end_tokens: Vec<u32>,
    strips_leading_space: bool,
    digest: String,
}

impl Tokenizer {
    /// From a GGUF file's `tokenizer.ggml.*` keys.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        Self::from_parts(load_gguf::parts(gguf)?)
    }

    /// From a Hugging Face folder (`tokenizer.json`, `tokenizer_config.json`, `generation_config.json`).
    pub fn from_folder(folder: &Path) -> Result<Self, TokenizerError> {
        Self::from_parts(load_folder::parts(folder)?)
    }

    /// From either, by what `path` is.
    pub fn open(path: &Path) -> Result<Self, TokenizerError> {
        if path.is_dir() {
            return Self::from_folder(path);
        }
        Self::from_gguf(&Gguf::open(path).map_err(|e| invalid(e.to_string()))?)
    }

    fn from_parts(parts: Parts) -> Result<Self, TokenizerError> {
        let size = parts.bytes.ends.len();
        if size == 0 || size > MAX_VOCAB {
            return Err(invalid(format!("{size} tokens; 1 to {MAX_VOCAB} are supported")));
        }
        let declared = parts.end_tokens.iter().chain(&parts.bos_for_raw);
        if let Some(id) = declared.copied().find(|&id| id as usize >= size) {
            return Err(invalid(format!(
                "bos or eos token {id} is outside the vocabulary of {size}"
            )));
        }
        let mut special_text = HashMap::new();
        let mut special_id = HashMap::new();
        for token in parts.added.iter().filter(|t| t.kind != AddedKind::Text) {
            special_text.insert(token.id, token.text.clone());
            special_id.insert(token.text.clone(), token.id);
        }
        let mut end_tokens = parts.end_tokens;
        end_tokens.extend(END_SPELLINGS.iter().filter_map(|s| special_id.get(*s).copied()));
        end_tokens.sort_unstable();
        end_tokens.dedup();
        let is_text = |t: &&AddedToken| t.kind == AddedKind::Text;
        Ok(Self {
            in_content: AddedMatcher::new(parts.added.iter().filter(is_text).cloned().collect())?,
            in_template: AddedMatcher::new(parts.added)?,
            plain: parts.plain,
            bytes: parts.bytes,
            special_text,
            special_id,
            bos_for_raw: parts.bos_for_raw,
            end_tokens,
            strips_leading_space: parts.strips_leading_space,
            digest: parts.digest,
        })
    }

    /// Plain text: no special tokens, none added.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_pieces(&[(text, Trust::Content)])
    }

    /// A whole prompt, exactly as if the segments' text were joined, except that special tokens are never
    /// matched in or across content. Nothing is added in front; see [`Tokenizer::bos_for_raw`].
    pub fn encode(&self, segments: &[Segment]) -> Result<Vec<u32>, TokenizerError> {
        let pieces: Vec<(&str, Trust)> = segments
            .iter()
            .map(|segment| match segment {
                Segment::Template(text) => (text.as_str(), Trust::Template),
                Segment::Content(text) => (text.as_str(), Trust::Content),
            })
            .collect();
        self.encode_pieces(&pieces)
    }

    fn encode_pieces(&self, pieces: &[(&str, Trust)]) -> Result<Vec<u32>, TokenizerError> {
        let text: String = pieces.iter().map(|(text, _)| *text).collect();
        let mut found = Vec::new();
        let mut start = 0;
        for (piece, trust) in pieces {
            let matcher = match trust {
                Trust::Template => &self.in_template,
                Trust::Content => &self.in_content,
            };
            matcher.find_all(&text, start, start + piece.len(), &mut found);
            start += piece.len();
        }
        let mut ids = Vec::with_capacity(text.len() / 3 + found.len());
        let mut at = 0;
        for token in &found {
            self.plain.encode(&text[at..token.start], at == 0, &mut ids)?;
            ids.push(token.id);
            at = token.end;
        }
        self.plain.encode(&text[at..], at == 0, &mut ids)?;
        Ok(ids)
    }

    /// The token that the model wants in front of raw text, if its tokenizer adds one.
    pub fn bos_for_raw(&self) -> Option<u32> {
        self.bos_for_raw
    }

    /// Tokens that end an answer (eos, eot, eom), sorted.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// The bytes a token stands for; empty for a special token or an id that does not exist.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id)
    }

    /// The spelling of a special token such as `<|eot_id|>`.
    pub fn special_text(&self, id: u32) -> Option<&str> {
        self.special_text.get(&id).map(String::as_str)
    }

    /// The id of a special token by its spelling.
    pub fn special_id(&self, text: &str) -> Option<u32> {
        self.special_id.get(text).copied()
    }

    /// Bytes of all tokens joined, invalid UTF-8 replaced, special tokens left out. A tokenizer that puts a
    /// space in front of text when it encodes takes one away here, as transformers' `decode` does.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut bytes = Vec::new();
        for &id in ids {
            bytes.extend_from_slice(self.token_bytes(id));
        }
        let bytes = match bytes.first() {
            Some(b' ') if self.strips_leading_space => &bytes[1..],
            _ => &bytes[..],
        };
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// Whether [`Tokenizer::decode`] takes a leading space away.
    pub fn strips_leading_space(&self) -> bool {
        self.strips_leading_space
    }

    /// Number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.bytes.ends.len()
    }

    /// `sha256:<hex>` over everything that decides the encoding.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Spellings of all special tokens, for tests that try each of them as content.
    #[cfg(test)]
    pub(crate) fn special_spellings(&self) -> impl Iterator<Item = &str> {
        self.in_template.tokens().iter().map(|t| t.text.as_str())
    }
}

#[derive(Clone, Copy)]
enum Trust {
    Template,
    Content,
}
