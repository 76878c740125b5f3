//! The input of a step: a packed batch of sequences.

use super::{candidates::CandidateFilter, limits::ModelLimits, step_error::StepError};
use crate::model::spec::TokenKind;

/// A packed, ragged batch: the new tokens of every sequence, one after the other.
#[derive(Debug, Default, Clone)]
pub struct ForwardBatch {
    /// New tokens of all sequences, in the order of `sequences`.
    pub tokens: Vec<u32>,
    /// One entry per sequence.
    pub sequences: Vec<BatchSequence>,
}

/// A LoRA adapter of a model: its index in the list of adapters that the model was loaded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdapterIndex(pub usize);

/// One sequence's part of a [`ForwardBatch`].
#[derive(Debug, Default, Clone)]
pub struct BatchSequence {
    /// How many of the batch's tokens are this sequence's; at least 1.
    pub new_tokens: usize,
    /// Tokens of this sequence that are in the KV cache already. The first new token has this position.
    pub context: usize,
    /// What the new tokens are, all of them. It matters only to models that compute
    /// [generated tokens apart](super::GeneratedTokens::Apart).
    pub kind: TokenKind,
    /// KV blocks in the order of the sequence's tokens, of which they cover `context + new_tokens`. Blocks that no new token
    /// attends to may be [`NULL_BLOCK`](super::NULL_BLOCK).
    pub block_table: Vec<u32>,
    /// The adapter that changes the weights for this sequence; `None` for the model itself. It never changes during a
    /// sequence, because the keys and values in the cache were computed with it.
    pub adapter: Option<AdapterIndex>,
    /// What is read from the row after the last new token.
    pub readout: Readout,
}

/// What a step returns of the row after a sequence's last new token. A device computes it where the row is, so that
/// no more than this leaves it.
#[derive(Debug, Default, Clone, PartialEq)]
pub enum Readout {
    /// Nothing: more of the prompt follows, or only its keys and values are wanted.
    #[default]
    None,
    /// All logits of the row: the next token is sampled from them.
    Logits,
    /// The most likely tokens, all that this filter keeps among them; `None` keeps the most likely one. A device may return
    /// all logits of the row instead, and does when it cannot know that the filter keeps no others.
    Candidates {
        /// How the next token is drawn.
        filter: Option<CandidateFilter>,
    },
    /// The most likely token, and the log-probabilities of some tokens over the whole vocabulary.
    Probe {
        /// Token ids; those outside the vocabulary have probability 0. There may be none: then only the most likely token
        /// is read.
        tokens: Vec<u32>,
    },
    /// The score of the whole sequence, of models that have a score instead of logits.
    Score,
}

impl ForwardBatch {
    /// Checks that a model with these limits and so many adapters can compute the batch.
    pub(crate) fn check(&self, limits: &ModelLimits, adapters: usize) -> Result<(), StepError> {
        let invalid = |reason: String| Err(StepError::InvalidBatch(reason));
        let counted: usize = self.sequences.iter().map(|s| s.new_tokens).sum();
        if counted != self.tokens.len() || self.sequences.iter().any(|s| s.new_tokens == 0) {
            let tokens = self.tokens.len();
            return invalid(format!(
                "it has {tokens} tokens, but its sequences count {counted}, and each needs at least one"
            ));
        }
        let outside = |token: &&u32| **token as usize >= limits.vocab_size;
        if let Some(token) = self.tokens.iter().find(outside) {
            let vocab = limits.vocab_size;
            return invalid(format!("token {token} is not in the vocabulary of {vocab}"));
        }
        for sequence in &self.sequences {
            let unknown = |adapter: &AdapterIndex| adapter.0 >= adapters;
            if let Some(adapter) = sequence.adapter.filter(unknown) {
                return invalid(format!("adapter {} is not loaded", adapter.0));
            }
            let tokens = sequence.context + sequence.new_tokens;
            if tokens > limits.context_length {
                let most = limits.context_length;
                return invalid(format!(
                    "a sequence has {tokens} tokens, more than the {most} of the context"
                ));
            }
            let (held, blocks) = (sequence.block_table.len(), tokens.div_ceil(limits.block_size));
            if held < blocks {
                return invalid(format!(
                    "a sequence has {held} KV blocks, but its tokens need {blocks}"
                ));
            }
            let outside = |block: &u32| *block as usize >= limits.num_blocks;
            let mut seen = sequence
                .block_table
                .iter()
                .skip(limits.unseen_blocks(sequence.context));
            if seen.any(outside) {
                return invalid("a sequence has a KV block outside of the pool".into());
            }
        }
        Ok(())
    }
}
