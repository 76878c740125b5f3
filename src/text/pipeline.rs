//! Plain text to tokens: by ranked merges or a unigram model (normaliser, pre-tokeniser and model, all by the
//! `tokenizers` crate) or by SentencePiece's scores.

use std::{borrow::Cow, collections::HashSet};

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
    spm::ScoredMerges,
    tokenizer::TokenizerError,
    unigram::guarded,
    words::{ByteWords, composable_parts},
};

/// Words that each thread remembers the tokens of. A word of 255 bytes takes 8 KiB there, so a thread that is told
/// nothing but such words remembers 8 MiB.
const REMEMBERED_WORDS: usize = 1024;

/// A word of more bytes is not begun when it must have too many tokens.
const LONG_WORD: usize = 1 << 10;

/// How plain text becomes tokens.
pub(super) enum PlainEncoder {
    Pipeline(Box<Pipeline>),
    Scored(Box<ScoredMerges>),
}

/// What the memory that encoding takes while it runs grows with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkingMemory {
    /// With the longest word: words are encoded one after the other.
    LongestWord,
    /// With the text, in a list of its characters and one of the pairs of them.
    Characters,
    /// With the text, with the place of each byte through each step.
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

    /// What happens to text before tokens are looked for, where every byte of it ends up in a token that is at least as
    /// long; `None` where text may vanish, or a token stand for more than its own bytes.
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

    /// Everything through the crate, to compare with.
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
    /// Spelling to id.
    pub vocab: Vocab,
    /// Best first.
    pub merges: Vec<(String, String)>,
    /// Stands for what the vocabulary lacks; must be in `vocab`.
    pub unknown: Option<String>,
    /// Consecutive unknown characters become one token.
    pub fuse_unknown: bool,
    /// Unknown characters become `<0xNN>` tokens.
    pub byte_fallback: bool,
    /// A whole word that is a token is that token, whatever the merges say.
    pub ignore_merges: bool,
}

impl BpeSpec {
    /// Builds the model. `excluded` spellings must never come out of merging: they leave the vocabulary,
    /// and the merges that touch them go too.
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
            // The crate would index past its buffer.
            return Err(invalid(format!(
                "the merge of `{left}` and `{right}` is longer than any token"
            )));
        }
        let lacks = Lacks {
            bytes: missing(|byte| to_char(byte).to_string(), &self.vocab),
            fallback_bytes: match self.byte_fallback {
                true => missing(|byte| format!("<0x{byte:02X}>"), &self.vocab),
                false => (0..=u8::MAX).collect(),
            },
            unknown: self.unknown.is_some(),
        };
        let mut builder = BPE::builder()
            .vocab_and_merges(self.vocab, self.merges)
            .cache_capacity(REMEMBERED_WORDS)
            .fuse_unk(self.fuse_unknown)
            .byte_fallback(self.byte_fallback)
            .ignore_merges(self.ignore_merges);
        if let Some(unknown) = self.unknown {
            builder = builder.unk_token(unknown);
        }
        let bpe = builder.build().map_err(|e| invalid(format!("merges: {e}")))?;
        Ok(WordModel::Bpe(bpe, lacks))
    }
}

/// Bytes that text can contain and that have no token of this spelling.
fn missing(spelling: impl Fn(u8) -> String, vocab: &Vocab) -> Vec<u8> {
    // UTF-8 never contains these.
    let impossible = |b: &u8| matches!(b, 0xC0 | 0xC1 | 0xF5..=0xFF);
    (0..=u8::MAX)
        .filter(|byte| !impossible(byte) && !vocab.contains_key(spelling(*byte).as_str()))
        .collect()
}

/// What a vocabulary has no token for.
pub(super) struct Lacks {
    /// Bytes without a character of the byte-level alphabet.
    bytes: Vec<u8>,
    /// Bytes without a `<0xNN>` token to fall back to.
    fallback_bytes: Vec<u8>,
    /// An unknown token stands for the rest.
    unknown: bool,
}

/// How a word becomes pieces.
pub(super) enum WordModel {
    Bpe(BPE, Lacks),
    /// With whether an unknown token stands for what the pieces lack.
    Unigram(Unigram, bool),
}

/// How the vocabulary spells text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    ByteLevel,
    SentencePiece,
}

/// Normaliser, pre-tokenisers and the model of words.
pub(super) struct Pipeline {
    normalizer: Option<NormalizerWrapper>,
    /// For text at the very beginning.
    first: Option<PreTokenizerWrapper>,
    /// For text after an added token, where it differs (Metaspace's `prepend_scheme: first`).
    later: Option<PreTokenizerWrapper>,
    words: WordModel,
    spelling: Spelling,
    /// The same words, one after the other.
    streamed: Option<ByteWords>,
    keeps: Option<Change>,
}

impl Pipeline {
    /// From components in the form of `tokenizer.json`; `later` differs from `first` for text that does not begin a
    /// prompt.
    pub(super) fn new(
        normalizer: &Value,
        (first, later): (&Value, &Value),
        words: WordModel,
        spelling: Spelling,
    ) -> Result<Self, TokenizerError> {
        let streamed = match (&words, spelling) {
            (WordModel::Bpe(..), Spelling::ByteLevel) => ByteWords::from_json(normalizer, first),
            _ => None,
        };
        let keeps = match (&words, spelling) {
            (WordModel::Bpe(_, lacks), Spelling::ByteLevel) => streamed
                .as_ref()
                .filter(|_| !lacks.unknown || lacks.bytes.is_empty())
                .map(|words| {
                    if words.composes {
                        Change::Composes
                    } else {
                        Change::None
                    }
                }),
            (WordModel::Bpe(_, lacks), Spelling::SentencePiece) => {
                (lacks.fallback_bytes.is_empty() && marks_spaces_only(normalizer) && splits_only(first))
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
            (WordModel::Bpe(bpe, lacks), Some(words)) => {
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
                    lacks.check_bytes(word.as_bytes())?;
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

    /// Whether a piece has nothing that the model of words would leave out without a word.
    fn check(&self, piece: &str) -> Result<(), TokenizerError> {
        match (&self.words, self.spelling) {
            (WordModel::Bpe(_, lacks), _) if lacks.unknown => Ok(()),
            (WordModel::Bpe(_, lacks), Spelling::ByteLevel) if lacks.bytes.is_empty() => Ok(()),
            (WordModel::Bpe(_, lacks), Spelling::ByteLevel) => {
                let mut bytes = Vec::with_capacity(piece.len());
                ByteAlphabet::new().decode(piece, &mut bytes);
                lacks.check_bytes(&bytes)
            }
            (WordModel::Bpe(_, lacks), Spelling::SentencePiece) if lacks.fallback_bytes.is_empty() => Ok(()),
            (WordModel::Bpe(bpe, lacks), Spelling::SentencePiece) => first_without(piece, |c, spelled| {
                bpe.token_to_id(spelled).is_some()
                    || c.encode_utf8(&mut [0; 4])
                        .bytes()
                        .all(|byte| !lacks.fallback_bytes.contains(&byte))
            }),
            (WordModel::Unigram(_, true), _) => Ok(()),
            (WordModel::Unigram(unigram, false), _) => {
                first_without(piece, |_, spelled| unigram.token_to_id(spelled).is_some())
            }
        }
    }
}

impl Lacks {
    /// Whether each byte of a text in UTF-8 has a token, or the unknown token stands for it.
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

/// Fails at the first character of a piece that is not known by its spelling.
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

/// Whether normal form C would leave a text as it is, for certain.
fn is_composed(text: &str) -> bool {
    text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes
}

/// Normal form C, in parts, as the crate composes (its tables are of an older Unicode than ours).
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

/// Whether a normaliser does nothing but spell spaces as SentencePiece does, or put one in front.
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

/// Whether a pre-tokeniser leaves nothing out.
fn splits_only(pre_tokenizer: &Value) -> bool {
    match pre_tokenizer["type"].as_str() {
        None => pre_tokenizer.is_null(),
        Some("Split") => pre_tokenizer["behavior"] != "Removed",
        Some("Metaspace") => true,
        Some(_) => false,
    }
}

/// A component from its form in `tokenizer.json`; `null` is none.
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

/// The error of this module.
pub(super) fn invalid(reason: impl Into<String>) -> TokenizerError {
    TokenizerError::Invalid(reason.into())
}
