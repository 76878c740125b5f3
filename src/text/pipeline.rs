//! Plain text to tokens: by ranked merges or a unigram model (normaliser, pre-tokeniser and model, all by the
//! `tokenizers` crate) or by SentencePiece's scores.

use std::collections::HashSet;

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

use super::{spm::ScoredMerges, tokenizer::TokenizerError, unigram::guarded};

/// How plain text becomes tokens.
pub(super) enum PlainEncoder {
    Pipeline(Box<Pipeline>),
    Scored(Box<ScoredMerges>),
}

impl PlainEncoder {
    /// Appends the tokens of plain text.
    pub(super) fn encode(
        &self,
        text: &str,
        at_start: bool,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        match self {
            Self::Pipeline(pipeline) => pipeline.encode(text, at_start, out),
            Self::Scored(merges) => merges.encode(text, out),
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
    pub(super) fn build(mut self, excluded: &HashSet<&str>) -> Result<BPE, TokenizerError> {
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
        let mut builder = BPE::builder()
            .vocab_and_merges(self.vocab, self.merges)
            .fuse_unk(self.fuse_unknown)
            .byte_fallback(self.byte_fallback)
            .ignore_merges(self.ignore_merges);
        if let Some(unknown) = self.unknown {
            builder = builder.unk_token(unknown);
        }
        builder.build().map_err(|e| invalid(format!("merges: {e}")))
    }
}

/// How a word becomes pieces.
pub(super) enum WordModel {
    Bpe(BPE),
    Unigram(Unigram),
}

/// Normaliser, pre-tokenisers and the model of words.
pub(super) struct Pipeline {
    pub normalizer: Option<NormalizerWrapper>,
    /// For text at the very beginning.
    pub first: Option<PreTokenizerWrapper>,
    /// For text after an added token, where it differs (Metaspace's `prepend_scheme: first`).
    pub later: Option<PreTokenizerWrapper>,
    pub words: WordModel,
    /// Bytes of the byte-level alphabet that the vocabulary lacks and nothing stands for; text with such a
    /// byte cannot be encoded without losing it.
    pub missing_bytes: Vec<u8>,
}

impl Pipeline {
    fn encode(&self, text: &str, at_start: bool, out: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if text.is_empty() {
            return Ok(());
        }
        if !self.missing_bytes.is_empty()
            && let Some(byte) = text.bytes().find(|b| self.missing_bytes.contains(b))
        {
            return Err(invalid(format!(
                "the vocabulary has no token for the byte 0x{byte:02X}, which the text contains"
            )));
        }
        match self.words {
            WordModel::Bpe(_) => self.encode_text(text, at_start, out),
            WordModel::Unigram(_) => guarded(|| self.encode_text(text, at_start, out)),
        }
    }

    fn encode_text(&self, text: &str, at_start: bool, out: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let failed = |e: tokenizers::Error| invalid(e.to_string());
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
            let tokens = match &self.words {
                WordModel::Bpe(bpe) => bpe.tokenize(piece),
                WordModel::Unigram(unigram) => unigram.tokenize(piece),
            };
            out.extend(tokens.map_err(failed)?.iter().map(|t| t.id));
        }
        Ok(())
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

/// The error of this module.
pub(super) fn invalid(reason: impl Into<String>) -> TokenizerError {
    TokenizerError::Invalid(reason.into())
}
