//! The tokenizer: turns plain text and prompts into tokens, and tokens into text.

use std::{collections::HashMap, path::Path};

use super::{
    added::{AddedKind, AddedMatcher, AddedToken},
    allowance::{Allowance, Meter, Watch},
    coverage::Coverage,
    error::{TokenizerError, invalid},
    load_folder, load_gguf,
    parts::{END_SPELLINGS, MAX_VOCAB, Parts, TokenBytes},
    pipeline::{PlainEncoder, WorkingMemory},
    segment::Segment,
};
use crate::{errors::with_causes, gguf::Gguf};

/// Bytes of the parts in which a character that cannot be encoded is looked for.
const PART_BYTES: usize = 1 << 10;

/// Copies of a text that exist at the same time while it goes through a template and into segments.
const COPIES: usize = 12;

/// Bytes of memory that encoding needs for each byte of the longest word, see [`WorkingMemory`]. `tests/model/text_memory.rs`
/// compares this and the two below with measurements.
const BYTES_BY_LONGEST_WORD: usize = 160;
/// The same for each byte of a text whose characters are merged by scores.
const BYTES_BY_CHARACTERS: usize = 80;
/// The same for each byte of a text that is encoded as a whole.
const BYTES_BY_WHOLE_TEXT: usize = 320;

/// A model's tokenizer. Special tokens are found before the text between them is encoded, and never inside
/// [`Segment::Content`].
pub struct Tokenizer {
    plain: PlainEncoder,
    /// Finds all added tokens, for trusted text.
    in_template: AddedMatcher,
    /// Finds only the added tokens that are ordinary text.
    in_content: AddedMatcher,
    bytes: TokenBytes,
    /// Bounds the number of tokens of a text by its bytes; `None` for encoders that do not allow it.
    coverage: Option<Coverage>,
    special_text: HashMap<u32, String>,
    special_id: HashMap<String, u32>,
    bos_for_raw: Option<u32>,
    end_tokens: Vec<u32>,
    strips_leading_space: bool,
    digest: String,
}

impl Tokenizer {
    /// The tokenizer in a GGUF file's `tokenizer.ggml.*` keys.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        Self::from_parts(load_gguf::parts(gguf)?)
    }

    /// The tokenizer of a Hugging Face folder (`tokenizer.json` or `tokenizer.model`, `tokenizer_config.json`,
    /// `generation_config.json`).
    pub fn from_folder(folder: &Path) -> Result<Self, TokenizerError> {
        Self::from_parts(load_folder::parts(folder)?)
    }

    /// The tokenizer of a Hugging Face folder or of a GGUF file, whichever `path` is.
    pub fn open(path: &Path) -> Result<Self, TokenizerError> {
        if path.is_dir() {
            return Self::from_folder(path);
        }
        Self::from_gguf(&Gguf::open(path).map_err(|e| invalid(with_causes(&e)))?)
    }

    fn from_parts(parts: Parts) -> Result<Self, TokenizerError> {
        let size = parts.bytes.len();
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
        // A token that strips whitespace around it stands for any number of bytes.
        let strips = parts.added.iter().any(|token| token.lstrip || token.rstrip);
        let coverage = parts.plain.keeps_text().filter(|_| !strips).map(|change| {
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

    /// The tokens of plain text. No special tokens are found in it, and none are added.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.without_limit(|allowance| self.encode_plain_within(text, allowance))
    }

    /// Like [`Tokenizer::encode_plain`], within an allowance of tokens, and only while the caller waits.
    pub fn encode_plain_within(
        &self,
        text: &str,
        allowance: Allowance<'_>,
    ) -> Result<Vec<u32>, TokenizerError> {
        self.encode_text(text, [(text.len(), &self.in_content)].into_iter(), allowance)
    }

    /// The tokens of a whole prompt. They are those of the joined text of the segments, except that special tokens are never
    /// found in or across content. No token is added in front; see [`Tokenizer::bos_for_raw`].
    pub fn encode(&self, segments: &[Segment]) -> Result<Vec<u32>, TokenizerError> {
        self.without_limit(|allowance| self.encode_within(segments, allowance))
    }

    /// Like [`Tokenizer::encode`], within an allowance of tokens, and only while the caller waits.
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

    /// Encodes a text. `stretches` are its parts, each with its length in bytes and the matcher for tokens in it.
    fn encode_text<'a>(
        &'a self,
        text: &str,
        stretches: impl Iterator<Item = (usize, &'a AddedMatcher)>,
        allowance: Allowance<'_>,
    ) -> Result<Vec<u32>, TokenizerError> {
        let coverage = self.coverage.as_ref();
        allowance.least(coverage.iter().map(|coverage| coverage.least_tokens(text)))?;
        let mut out = Meter::new(allowance);
        // The text before `done` is encoded; the current stretch begins at `start`.
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

    /// Least number of tokens that a text adds to any prompt; one token may belong to both the text and what is in front of
    /// it. Zero for tokenizers that may leave text out.
    pub fn least_tokens(&self, text: &str) -> usize {
        let coverage = self.coverage.as_ref();
        coverage.map_or(0, |coverage| coverage.least_tokens(text).saturating_sub(1))
    }

    /// The first character of a text that cannot be encoded, and the number of characters before it.
    pub fn find_not_encodable(&self, text: &str) -> Option<(char, usize)> {
        let lost = |part: &str| match self.encode_plain(part) {
            Err(TokenizerError::NotEncodable(lost)) => Some(lost),
            _ => None,
        };
        // The first loop finds the part that has the character, the second one the character in it.
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

    /// Most bytes of memory that encoding needs for texts of `bytes` bytes together, none of which has more than `longest`.
    pub fn working_bytes(&self, bytes: usize, longest: usize) -> usize {
        let (each, of) = match self.plain.working_memory() {
            WorkingMemory::LongestWord => (BYTES_BY_LONGEST_WORD, longest),
            WorkingMemory::Characters => (BYTES_BY_CHARACTERS, bytes),
            WorkingMemory::WholeText => (BYTES_BY_WHOLE_TEXT, bytes),
        };
        of.saturating_mul(each)
            .saturating_add(bytes.saturating_mul(COPIES))
    }

    /// The token that belongs in front of raw text, if the tokenizer adds one.
    pub fn bos_for_raw(&self) -> Option<u32> {
        self.bos_for_raw
    }

    /// Tokens that end an answer (eos, eot, eom), sorted.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// The bytes that a token stands for; none for a special token or an id that does not exist.
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

    /// The text of tokens: their bytes joined, with invalid UTF-8 replaced and special tokens left out. A tokenizer that adds
    /// a space in front of text when it encodes removes one here, as transformers' `decode` does.
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
        self.bytes.len()
    }

    /// Checks that a model which knows `model_tokens` tokens knows all of these.
    ///
    /// # Errors
    /// [`TokenizerError::Invalid`] with both numbers.
    pub fn check_vocabulary(&self, model_tokens: usize) -> Result<(), TokenizerError> {
        let tokens = self.vocab_size();
        if tokens > model_tokens {
            return Err(TokenizerError::Invalid(format!(
                "it has {tokens} tokens, the model knows {model_tokens}"
            )));
        }
        Ok(())
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

/// The beginning of a text with at least this many bytes, up to an ASCII character, which is never composed with the
/// characters before it.
fn head(text: &str, least: usize) -> &str {
    let mut later = text.char_indices().skip(1);
    let end = later.find(|(at, c)| *at >= least && c.is_ascii());
    &text[..end.map_or(text.len(), |(at, _)| at)]
}
