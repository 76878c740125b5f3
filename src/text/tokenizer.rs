//! Tokenizers from GGUF metadata or `tokenizer.json`.

use std::{collections::HashMap, path::Path};

use super::{
    added::{AddedKind, AddedMatcher, AddedToken},
    allowance::{Allowance, Meter, TokenCount, Watch},
    coverage::Coverage,
    load_folder, load_gguf,
    pipeline::{PlainEncoder, WorkingMemory, invalid},
};
use crate::{errors::with_causes, gguf::Gguf};

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
    /// The vocabulary has no token for a character, and none that stands for unknown ones.
    #[error("tokenizer: the vocabulary has no token for U+{:04X}, which the text contains", u32::from(*.0))]
    NotEncodable(char),
    /// The text has more tokens than were allowed.
    #[error("tokenizer: the text has more tokens than are allowed")]
    TooLong(TokenCount),
    /// Nobody waits for the tokens any more.
    #[error("tokenizer: stopped, because nobody waits for the tokens any more")]
    Stopped,
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

/// A text that cannot be encoded is looked at in parts of this size.
const PART_BYTES: usize = 1 << 10;

/// Copies of a text that are there at the same time on its way through a template and into segments.
const COPIES: usize = 12;

/// Bytes of memory that encoding takes for each byte of what it grows with, see [`WorkingMemory`]. `tests/model/text_memory.rs`
/// holds these to what is measured.
const BYTES_BY_LONGEST_WORD: usize = 160;
const BYTES_BY_CHARACTERS: usize = 80;
const BYTES_BY_WHOLE_TEXT: usize = 320;

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

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.data[start..end])
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
    /// Where a text's bytes say how many tokens it has at least.
    coverage: Option<Coverage>,
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
        Self::from_gguf(&Gguf::open(path).map_err(|e| invalid(with_causes(&e)))?)
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
        // A token that swallows whitespace stands for any number of bytes.
        let swallows = parts.added.iter().any(|token| token.lstrip || token.rstrip);
        let coverage = parts.plain.keeps_text().filter(|_| !swallows).map(|change| {
            let added = parts.added.iter().map(|token| token.text.as_bytes());
            Coverage::new(change, parts.bytes.iter().chain(added))
        });
        Ok(Self {
            coverage,
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
        self.without_limit(|allowance| self.encode_plain_within(text, allowance))
    }

    /// The same for a text that may be too long, or no longer wanted.
    pub fn encode_plain_within(
        &self,
        text: &str,
        allowance: Allowance<'_>,
    ) -> Result<Vec<u32>, TokenizerError> {
        self.encode_text(text, [(text.len(), &self.in_content)].into_iter(), allowance)
    }

    /// A whole prompt, exactly as if the segments' text were joined, except that special tokens are never
    /// matched in or across content. Nothing is added in front; see [`Tokenizer::bos_for_raw`].
    pub fn encode(&self, segments: &[Segment]) -> Result<Vec<u32>, TokenizerError> {
        self.without_limit(|allowance| self.encode_within(segments, allowance))
    }

    /// The same for a prompt that may be too long, or no longer wanted.
    pub fn encode_within(
        &self,
        segments: &[Segment],
        allowance: Allowance<'_>,
    ) -> Result<Vec<u32>, TokenizerError> {
        let text: String = segments.iter().map(Segment::text).collect();
        let matchers = segments.iter().map(|segment| match segment {
            Segment::Template(text) => (text.len(), &self.in_template),
            Segment::Content(text) => (text.len(), &self.in_content),
        });
        self.encode_text(&text, matchers, allowance)
    }

    fn without_limit(
        &self,
        encode: impl FnOnce(Allowance<'_>) -> Result<Vec<u32>, TokenizerError>,
    ) -> Result<Vec<u32>, TokenizerError> {
        encode(Allowance {
            tokens: usize::MAX,
            watch: &Watch::default(),
        })
    }

    /// Each stretch of the text, by its bytes, with what is matched in it.
    fn encode_text<'a>(
        &'a self,
        text: &str,
        stretches: impl Iterator<Item = (usize, &'a AddedMatcher)>,
        allowance: Allowance<'_>,
    ) -> Result<Vec<u32>, TokenizerError> {
        let coverage = self.coverage.as_ref();
        allowance.least(coverage.iter().map(|coverage| coverage.least_tokens(text)))?;
        let mut out = Meter::new(allowance);
        // Up to here the text is encoded.
        let (mut done, mut start) = (0, 0);
        for (bytes, matcher) in stretches {
            let end = start + bytes;
            while let Some(token) = matcher.find(text, start.max(done), end, done) {
                let before = &text[done..token.start];
                self.plain.encode(before, done == 0, coverage, &mut out)?;
                out.begin(token.end - token.start, 1)?;
                out.push(token.id);
                done = token.end;
            }
            start = end;
        }
        self.plain.encode(&text[done..], done == 0, coverage, &mut out)?;
        out.finish()
    }

    /// Tokens that a text has at least, where nobody else's text counts: one token may belong to it and to the text in
    /// front of it. Nothing for tokenizers that may leave text out.
    pub fn least_tokens(&self, text: &str) -> usize {
        let coverage = self.coverage.as_ref();
        coverage.map_or(0, |coverage| coverage.least_tokens(text).saturating_sub(1))
    }

    /// The first character of a text that cannot be encoded, and how many come before it.
    pub fn find_not_encodable(&self, text: &str) -> Option<(char, usize)> {
        let lost = |part: &str| match self.encode_plain(part) {
            Err(TokenizerError::NotEncodable(lost)) => Some(lost),
            _ => None,
        };
        // A character alone, with those that it may be composed with.
        let (mut start, mut position) = (0, 0);
        while start < text.len() {
            let part = head(&text[start..], PART_BYTES);
            if lost(part).is_some() {
                break;
            }
            position += part.chars().count();
            start += part.len();
        }
        while start < text.len() {
            let cluster = head(&text[start..], 1);
            if let Some(lost) = lost(cluster) {
                let inside = cluster.chars().position(|c| c == lost).unwrap_or(0);
                return cluster.chars().nth(inside).map(|c| (c, position + inside));
            }
            position += cluster.chars().count();
            start += cluster.len();
        }
        None
    }

    /// Memory that encoding takes at most, for so many bytes of text, of which no segment has more than `longest`.
    pub fn working_bytes(&self, bytes: usize, longest: usize) -> usize {
        let (each, of) = match self.plain.working_memory() {
            WorkingMemory::LongestWord => (BYTES_BY_LONGEST_WORD, longest),
            WorkingMemory::Characters => (BYTES_BY_CHARACTERS, bytes),
            WorkingMemory::WholeText => (BYTES_BY_WHOLE_TEXT, bytes),
        };
        of.saturating_mul(each)
            .saturating_add(bytes.saturating_mul(COPIES))
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

    /// The same with all plain text encoded by the `tokenizers` crate as a whole.
    #[cfg(test)]
    pub(crate) fn without_streaming(mut self) -> Self {
        self.plain.without_streaming();
        self
    }

    /// Spellings of all special tokens, for tests that try each of them as content.
    #[cfg(test)]
    pub(crate) fn special_spellings(&self) -> impl Iterator<Item = &str> {
        self.in_template.tokens().iter().map(|t| t.text.as_str())
    }
}

/// At least so many bytes of a text's beginning, up to an ASCII character, which is never composed with what is in
/// front of it.
fn head(text: &str, least: usize) -> &str {
    let mut later = text.char_indices().skip(1);
    let end = later.find(|(at, c)| *at >= least && c.is_ascii());
    &text[..end.map_or(text.len(), |(at, _)| at)]
}
