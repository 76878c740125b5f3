//! A source and its translation as an estimator's tokens.

use std::sync::Arc;

use super::EstimatorKind;
use crate::model::estimator::Version;
use crate::text::{Allowance, Segment, Tokenizer, TokenizerError, Watch};

/// How the texts of a pair become one sequence of tokens.
pub struct PairEncoder {
    kind: EstimatorKind,
    tokenizer: Arc<Tokenizer>,
}

impl PairEncoder {
    /// # Errors
    /// When the tokenizer lacks a special token that the sequences need, or has tokens that a model of this vocabulary
    /// has not.
    pub fn new(
        kind: EstimatorKind,
        tokenizer: Arc<Tokenizer>,
        vocab_size: usize,
    ) -> Result<Self, TokenizerError> {
        tokenizer.check_vocabulary(vocab_size)?;
        let needed: &[&str] = match kind {
            EstimatorKind::CometKiwi => &["<s>", "</s>"],
            EstimatorKind::MetricX23 | EstimatorKind::MetricX24 => &[],
        };
        match needed.iter().find(|token| tokenizer.special_id(token).is_none()) {
            Some(missing) => Err(TokenizerError::Invalid(format!(
                "there is no special token `{missing}`, which {} needs",
                kind.name()
            ))),
            None => Ok(Self { kind, tokenizer }),
        }
    }

    /// Which estimator it encodes for.
    pub fn kind(&self) -> EstimatorKind {
        self.kind
    }

    /// What it encodes with.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// All tokens of the pair, special ones included. Nothing is cut off. Special tokens that are spelled in the texts
    /// stay text.
    pub fn encode(&self, source: &str, translation: &str) -> Result<Vec<u32>, TokenizerError> {
        let allowance = Allowance {
            tokens: usize::MAX,
            watch: &Watch::default(),
        };
        self.encode_within(source, translation, allowance)
    }

    /// The same for a pair that may be too long, or whose score is no longer wanted.
    pub fn encode_within(
        &self,
        source: &str,
        translation: &str,
        allowance: Allowance<'_>,
    ) -> Result<Vec<u32>, TokenizerError> {
        let template = |text: &str| Segment::Template(text.to_owned());
        let content = |text: &str| Segment::Content(text.to_owned());
        let one_text = |version: Version| {
            let text = version.text(source, translation);
            self.tokenizer.encode_plain_within(&text, allowance)
        };
        let segments = match self.kind {
            // The translation comes first; XLM-R has two separators between texts.
            EstimatorKind::CometKiwi => [
                template("<s>"),
                content(translation),
                template("</s></s>"),
                content(source),
                template("</s>"),
            ],
            EstimatorKind::MetricX23 => return one_text(Version::V23),
            EstimatorKind::MetricX24 => return one_text(Version::V24),
        };
        self.tokenizer.encode_within(&segments, allowance)
    }
}
