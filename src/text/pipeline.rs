//! Turns plain text into tokens: by ranked merges or a unigram model (normaliser, pre-tokeniser and model, all from the
//! `tokenizers` crate), or by SentencePiece's scores.

use std::{
    borrow::Cow,
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
};

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::{
    Model, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
    models::{
        bpe::{BPE, Vocab},
        unigram::Unigram,
    },
};
use unicode_normalization::{IsNormalized, is_nfc_quick};

use super::{
    allowance::Meter,
    byte_level::{ByteAlphabet, to_char},
    coverage::{Change, Coverage},
    error::{TokenizerError, invalid},
    spm::ScoredMerges,
    words::{ByteWords, composable_parts},
};

/// Number of words whose tokens each thread caches. A word of 255 bytes takes 8 KiB in the cache, so with such words only, a
/// thread's cache takes 8 MiB.
const CACHED_WORDS: usize = 1024;

/// A word with more bytes than this is not encoded if it must have too many tokens.
const LONG_WORD: usize = 1 << 10;

/// How plain text becomes tokens.
pub(super) enum PlainEncoder {
    Pipeline(Box<Pipeline>),
    Scored(Box<ScoredMerges>),
}

/// What the memory that encoding needs grows with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkingMemory {
    /// The longest word, because words are encoded one after the other.
    LongestWord,
    /// The text, for a list of its characters and one of their pairs.
    Characters,
    /// The text, for the position of each byte through each step.
    WholeText,
}

impl PlainEncoder {
    /// Appends the tokens of plain text.
    pub(super) fn encode(
        &self,
        text: &str,
        at_start: bool,
        coverage: Option<&Coverage>,
        out: &mut Meter<'_>,
    ) -> Result<(), TokenizerError> {
        match self {
            Self::Pipeline(pipeline) => pipeline.encode(text, at_start, coverage, out),
            Self::Scored(merges) => merges.encode(text, out),
        }
    }

    /// How text is changed before tokens are looked for, if every byte of it ends up in a token that is at least as long;
    /// `None` if text may be left out, or a token may stand for more than its own bytes.
    pub(super) fn keeps_text(&self) -> Option<Change> {
        match self {
            Self::Pipeline(pipeline) => pipeline.keeps,
            Self::Scored(merges) => merges.keeps_text().then_some(Change::MarksSpaces),
        }
    }

    pub(super) fn working_memory(&self) -> WorkingMemory {
        match self {
            Self::Pipeline(pipeline) if pipeline.streamed.is_some() => WorkingMemory::LongestWord,
            Self::Pipeline(_) => WorkingMemory::WholeText,
            Self::Scored(_) => WorkingMemory::Characters,
        }
    }

    /// Encodes everything through the crate, for comparison.
    #[cfg(test)]
    pub(super) fn without_streaming(&mut self) {
        if let Self::Pipeline(pipeline) = self {
            pipeline.streamed = None;
        }
    }
}

/// What a BPE model is built from.
#[derive(Default)]
pub(super) struct BpeSpec {
    /// Ids by spelling.
    pub vocab: Vocab,
    /// Pairs that are merged, the best first.
    pub merges: Vec<(String, String)>,
    /// The token that stands for characters that are not in the vocabulary; must be in `vocab`.
    pub unknown: Option<String>,
    /// Whether consecutive unknown characters become one token.
    pub fuse_unknown: bool,
    /// Whether unknown characters become `<0xNN>` tokens.
    pub byte_fallback: bool,
    /// Whether a whole word that is a token becomes that token, whatever the merges are.
    pub ignore_merges: bool,
}

impl BpeSpec {
    /// Builds the model. `excluded` spellings must never result from merging, so they are removed from the vocabulary, and so
    /// are the merges that use them.
    pub(super) fn build(mut self, excluded: &HashSet<&str>) -> Result<WordModel, TokenizerError> {
        let unknown = self.unknown.clone();
        self.vocab
            .retain(|text, _| !excluded.contains(text.as_str()) || unknown.as_ref() == Some(text));
        if let Some(text) = unknown.as_ref().filter(|t| !self.vocab.contains_key(*t)) {
            return Err(invalid(format!(
                "the unknown token `{text}` is not in the vocabulary"
            )));
        }
        if !excluded.is_empty() {
            let mut whole = String::new();
            self.merges.retain(|(left, right)| {
                whole.clear();
                whole.push_str(left);
                whole.push_str(right);
                ![left.as_str(), right, &whole]
                    .iter()
                    .any(|t| excluded.contains(t))
            });
        }
        let longest = self.vocab.keys().map(String::len).max().unwrap_or(0);
        if let Some((left, right)) = self.merges.iter().find(|(l, r)| l.len() + r.len() > longest) {
            // With such a merge, the crate would read beyond its buffer.
            return Err(invalid(format!(
                "the merge of `{left}` and `{right}` is longer than any token"
            )));
        }
        let missing_bytes = MissingBytes {
            bytes: missing(|byte| to_char(byte).to_string(), &self.vocab),
            fallback_bytes: match self.byte_fallback {
                true => missing(|byte| format!("<0x{byte:02X}>"), &self.vocab),
                false => (0..=u8::MAX).collect(),
            },
            unknown: self.unknown.is_some(),
        };
        let mut builder = BPE::builder()
            .vocab_and_merges(self.vocab, self.merges)
            .cache_capacity(CACHED_WORDS)
            .fuse_unk(self.fuse_unknown)
            .byte_fallback(self.byte_fallback)
            .ignore_merges(self.ignore_merges);
        if let Some(unknown) = self.unknown {
            builder = builder.unk_token(unknown);
        }
        let bpe = builder.build().map_err(|e| invalid(format!("merges: {e}")))?;
        Ok(WordModel::Bpe(bpe, missing_bytes))
    }
}

/// The bytes that text can contain for which there is no token with this spelling.
fn missing(spelling: impl Fn(u8) -> String, vocab: &Vocab) -> Vec<u8> {
    // UTF-8 never contains these bytes.
    let impossible = |b: &u8| matches!(b, 0xC0 | 0xC1 | 0xF5..=0xFF);
    (0..=u8::MAX)
        .filter(|byte| !impossible(byte) && !vocab.contains_key(spelling(*byte).as_str()))
        .collect()
}

/// The bytes that a vocabulary has no token for.
pub(super) struct MissingBytes {
    /// Bytes whose character of the byte-level alphabet is no token.
    bytes: Vec<u8>,
    /// Bytes without a `<0xNN>` token.
    fallback_bytes: Vec<u8>,
    /// Whether an unknown token stands for all other characters.
    unknown: bool,
}

/// Turns words into tokens.
pub(super) enum WordModel {
    Bpe(BPE, MissingBytes),
    /// The flag says whether an unknown token stands for characters without a piece.
    Unigram(Unigram, bool),
}

/// How the vocabulary spells text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    ByteLevel,
    SentencePiece,
}

/// Pre-tokenisers in the form of `tokenizer.json`.
#[derive(Clone, Copy)]
pub(super) struct PreTokenizers<'a> {
    /// For text at the very beginning of a prompt.
    pub first: &'a Value,
    /// For text after an added token.
    pub later: &'a Value,
}

/// Normaliser, pre-tokenisers and the model of words.
pub(super) struct Pipeline {
    normalizer: Option<NormalizerWrapper>,
    /// For text at the very beginning of a prompt.
    first: Option<PreTokenizerWrapper>,
    /// For text after an added token, where it differs (Metaspace's `prepend_scheme: first`).
    later: Option<PreTokenizerWrapper>,
    words: WordModel,
    spelling: Spelling,
    /// Splits text into the same words, one after the other.
    streamed: Option<ByteWords>,
    keeps: Option<Change>,
}

impl Pipeline {
    /// A pipeline of components in the form of `tokenizer.json`.
    pub(super) fn new(
        normalizer: &Value,
        PreTokenizers { first, later }: PreTokenizers<'_>,
        words: WordModel,
        spelling: Spelling,
    ) -> Result<Self, TokenizerError> {
        let streamed = match (&words, spelling) {
            (WordModel::Bpe(..), Spelling::ByteLevel) => ByteWords::from_json(normalizer, first),
            _ => None,
        };
        let keeps = match (&words, spelling) {
            (WordModel::Bpe(_, missing_bytes), Spelling::ByteLevel) => streamed
                .as_ref()
                .filter(|_| !missing_bytes.unknown || missing_bytes.bytes.is_empty())
                .map(|words| {
                    if words.composes {
                        Change::Composes
                    } else {
                        Change::None
                    }
                }),
            (WordModel::Bpe(_, missing_bytes), Spelling::SentencePiece) => {
                (missing_bytes.fallback_bytes.is_empty()
                    && marks_spaces_only(normalizer)
                    && splits_only(first))
                .then_some(Change::MarksSpaces)
            }
            (WordModel::Unigram(..), _) => None,
        };
        Ok(Self {
            normalizer: component(normalizer)?,
            first: component(first)?,
            later: component(later)?,
            words,
            spelling,
            streamed,
            keeps,
        })
    }

    fn encode(
        &self,
        text: &str,
        at_start: bool,
        coverage: Option<&Coverage>,
        out: &mut Meter<'_>,
    ) -> Result<(), TokenizerError> {
        if text.is_empty() {
            return Ok(());
        }
        match (&self.words, &self.streamed) {
            (WordModel::Bpe(bpe, missing_bytes), Some(words)) => {
                let text = match words.composes && !is_composed(text) {
                    true => Cow::Owned(compose(text, out)?),
                    false => Cow::Borrowed(text),
                };
                let mut spelled = String::new();
                words.each(&text, &mut |word| {
                    let long = coverage.filter(|_| word.len() > LONG_WORD);
                    let least = long.map_or(0, |coverage| coverage.least_of_bytes(word.as_bytes()));
                    out.begin(word.len(), least)?;
                    words.spell(word, &mut spelled);
                    missing_bytes.check_bytes(word.as_bytes())?;
                    extend(bpe.tokenize(&spelled), out)
                })
            }
            (WordModel::Bpe(..), None) => self.encode_whole(text, at_start, out),
            (WordModel::Unigram(..), _) => guarded(|| self.encode_whole(text, at_start, out)),
        }
    }

    fn encode_whole(&self, text: &str, at_start: bool, out: &mut Meter<'_>) -> Result<(), TokenizerError> {
        let mut normalized = NormalizedString::from(text);
        if let Some(normalizer) = &self.normalizer {
            normalizer.normalize(&mut normalized).map_err(failed)?;
        }
        let mut pieces = PreTokenizedString::from(normalized);
        let pre_tokenizer = if at_start { &self.first } else { &self.later };
        if let Some(pre_tokenizer) = pre_tokenizer {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(failed)?;
        }
        for (piece, _, _) in pieces.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            out.begin(piece.len(), 0)?;
            self.check(piece)?;
            extend(
                match &self.words {
                    WordModel::Bpe(bpe, _) => bpe.tokenize(piece),
                    WordModel::Unigram(unigram, _) => unigram.tokenize(piece),
                },
                out,
            )?;
        }
        Ok(())
    }

    /// Refuses a piece with a character that the model of words would leave out silently.
    fn check(&self, piece: &str) -> Result<(), TokenizerError> {
        match (&self.words, self.spelling) {
            (WordModel::Bpe(_, missing_bytes), _) if missing_bytes.unknown => Ok(()),
            (WordModel::Bpe(_, missing_bytes), Spelling::ByteLevel) if missing_bytes.bytes.is_empty() => {
                Ok(())
            }
            (WordModel::Bpe(_, missing_bytes), Spelling::ByteLevel) => {
                let mut bytes = Vec::with_capacity(piece.len());
                ByteAlphabet::new().decode(piece, &mut bytes);
                missing_bytes.check_bytes(&bytes)
            }
            (WordModel::Bpe(_, missing_bytes), Spelling::SentencePiece)
                if missing_bytes.fallback_bytes.is_empty() =>
            {
                Ok(())
            }
            (WordModel::Bpe(bpe, missing_bytes), Spelling::SentencePiece) => {
                first_without(piece, |c, spelled| {
                    bpe.token_to_id(spelled).is_some()
                        || c.encode_utf8(&mut [0; 4])
                            .bytes()
                            .all(|byte| !missing_bytes.fallback_bytes.contains(&byte))
                })
            }
            (WordModel::Unigram(_, true), _) => Ok(()),
            (WordModel::Unigram(unigram, false), _) => {
                first_without(piece, |_, spelled| unigram.token_to_id(spelled).is_some())
            }
        }
    }
}

impl MissingBytes {
    /// Refuses a text in UTF-8 with a byte for which there is neither a token nor the unknown token.
    fn check_bytes(&self, text: &[u8]) -> Result<(), TokenizerError> {
        if self.unknown || self.bytes.is_empty() {
            return Ok(());
        }
        let lost = |byte: &u8| self.bytes.contains(byte);
        if !text.iter().any(lost) {
            return Ok(());
        }
        let text = String::from_utf8_lossy(text);
        let lost = text
            .chars()
            .find(|c| c.encode_utf8(&mut [0; 4]).bytes().any(|b| lost(&b)));
        Err(TokenizerError::NotEncodable(
            lost.unwrap_or(char::REPLACEMENT_CHARACTER),
        ))
    }
}

/// Refuses a piece, and names its first character that is not known.
fn first_without(piece: &str, known: impl Fn(char, &str) -> bool) -> Result<(), TokenizerError> {
    let unknown = piece.chars().find(|c| !known(*c, c.encode_utf8(&mut [0; 4])));
    unknown.map_or(Ok(()), |c| Err(TokenizerError::NotEncodable(c)))
}

fn extend(
    tokens: tokenizers::Result<Vec<tokenizers::Token>>,
    out: &mut Meter<'_>,
) -> Result<(), TokenizerError> {
    tokens
        .map_err(failed)?
        .iter()
        .for_each(|token| out.push(token.id));
    Ok(())
}

/// Whether normal form C certainly leaves a text unchanged.
fn is_composed(text: &str) -> bool {
    text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes
}

/// Brings a text into normal form C, part by part, with the crate's tables, which are of an older Unicode version.
fn compose(text: &str, out: &mut Meter<'_>) -> Result<String, TokenizerError> {
    let mut composed = String::with_capacity(text.len());
    for part in composable_parts(text) {
        out.begin(part.len(), 0)?;
        let mut normalized = NormalizedString::from(part);
        normalized.nfc();
        composed.push_str(normalized.get());
    }
    Ok(composed)
}

/// Whether a normaliser only spells spaces as SentencePiece does, or adds one in front.
fn marks_spaces_only(normalizer: &Value) -> bool {
    match normalizer["type"].as_str() {
        None => normalizer.is_null(),
        Some("Prepend") => true,
        Some("Replace") => normalizer["pattern"]["String"] == " " && normalizer["content"] == "▁",
        Some("Sequence") => {
            let steps = normalizer["normalizers"].as_array();
            steps.is_some_and(|steps| steps.iter().all(marks_spaces_only))
        }
        Some(_) => false,
    }
}

/// Whether a pre-tokeniser leaves no text out.
fn splits_only(pre_tokenizer: &Value) -> bool {
    match pre_tokenizer["type"].as_str() {
        None => pre_tokenizer.is_null(),
        Some("Split") => pre_tokenizer["behavior"] != "Removed",
        Some("Metaspace") => true,
        Some(_) => false,
    }
}

/// Reads a component in the form of `tokenizer.json`; `null` is none.
pub(super) fn component<T: DeserializeOwned>(json: &Value) -> Result<Option<T>, TokenizerError> {
    if json.is_null() {
        return Ok(None);
    }
    let name = json.get("type").and_then(Value::as_str).unwrap_or("?");
    T::deserialize(json)
        .map(Some)
        .map_err(|e| invalid(format!("the component `{name}` cannot be used: {e}")))
}

fn failed(error: tokenizers::Error) -> TokenizerError {
    invalid(error.to_string())
}

/// Runs work that reads a table of the tokenizer's file which the library does not check. It panics on a damaged table,
/// which becomes an error here.
fn guarded<T>(work: impl FnOnce() -> Result<T, TokenizerError>) -> Result<T, TokenizerError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(invalid("the normaliser's table is damaged: it failed on a text")))
}
