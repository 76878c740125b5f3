//! Decoder models: configuration, weights, the forward pass, and the paged KV cache it writes.
//!
//! [`LanguageModel`] is the seam to the engine: a device back end implements it once, the engine never sees
//! tensors. The engine's simulation implements it with a script.

mod adapter;
mod census;
mod config;
mod decoder;
pub mod estimate;
mod kv_cache;
mod limits;
pub mod load;
pub mod spec;
pub mod tensors;
mod weights;

pub use adapter::AdapterError;
pub use census::Census;
pub use limits::{ModelLimits, NULL_BLOCK};

use std::fmt;

/// A packed, ragged batch: the new tokens of every sequence, one after the other.
#[derive(Debug, Default, Clone)]
pub struct ForwardBatch {
    /// New tokens of all sequences, in the order of `sequences`.
    pub tokens: Vec<u32>,
    /// One entry per sequence.
    pub sequences: Vec<BatchSequence>,
}

/// A LoRA adapter of a model, by its place in the list that the model was loaded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdapterIndex(pub usize);

/// One sequence's part of a [`ForwardBatch`].
#[derive(Debug, Default, Clone)]
pub struct BatchSequence {
    /// How many of the batch's tokens are this sequence's; at least 1.
    pub new_tokens: usize,
    /// Tokens of this sequence that are in the KV cache already. The first new token has this position.
    pub context: usize,
    /// KV blocks in order; covers `context + new_tokens` tokens. Blocks that no new token sees may be [`NULL_BLOCK`].
    pub block_table: Vec<u32>,
    /// The adapter that changes the weights for this sequence; `None` is the model itself. Keys and values in
    /// the cache are the adapter's too, so it never changes.
    pub adapter: Option<AdapterIndex>,
    /// Whether the logits of the last new token are wanted.
    pub wants_logits: bool,
}

impl ForwardBatch {
    /// Whether a model with these limits and so many adapters can run it.
    pub(crate) fn check(&self, limits: &ModelLimits, adapters: usize) -> Result<(), ModelError> {
        let invalid = |reason: String| Err(ModelError::InvalidBatch(reason));
        let counted: usize = self.sequences.iter().map(|s| s.new_tokens).sum();
        if counted != self.tokens.len() || self.sequences.iter().any(|s| s.new_tokens == 0) {
            let tokens = self.tokens.len();
            return invalid(format!("{tokens} tokens, but the sequences count {counted}"));
        }
        let outside = |token: &&u32| **token as usize >= limits.vocab_size;
        if let Some(token) = self.tokens.iter().find(outside) {
            return invalid(format!("token {token} is not in the vocabulary"));
        }
        for sequence in &self.sequences {
            let unknown = |adapter: &AdapterIndex| adapter.0 >= adapters;
            if let Some(adapter) = sequence.adapter.filter(unknown) {
                return invalid(format!("adapter {} is not loaded", adapter.0));
            }
            let tokens = sequence.context + sequence.new_tokens;
            if tokens > limits.context_length {
                return invalid(format!("{tokens} tokens in a sequence"));
            }
            let (held, blocks) = (sequence.block_table.len(), tokens.div_ceil(limits.block_size));
            if held < blocks {
                return invalid(format!("{held} blocks for {blocks}"));
            }
            let outside = |block: &u32| *block as usize >= limits.num_blocks;
            let mut seen = sequence
                .block_table
                .iter()
                .skip(limits.unseen_blocks(sequence.context));
            if seen.any(outside) {
                return invalid("a block is outside the pool".into());
            }
        }
        Ok(())
    }
}

/// A resident model with its KV pool.
pub trait LanguageModel: Send {
    /// Sizes that the scheduler needs.
    fn limits(&self) -> &ModelLimits;

    /// Values of a row that [`LanguageModel::forward`] writes: logits of the whole vocabulary, unless the model is of
    /// another kind.
    fn row_len(&self) -> usize {
        self.limits().vocab_size
    }

    /// Runs one forward pass. Keys and values of the new tokens are written to the KV blocks; `logits` is
    /// cleared and filled with `[rows, row_len]`, one row per sequence that wants logits, in batch order.
    fn forward(&mut self, batch: &ForwardBatch, logits: &mut Vec<f32>) -> Result<(), ModelError>;
}

/// Why a forward pass failed. The engine has checked sizes before, so this is the device's or model's fault.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ModelError {
    /// The batch does not fit what the model was built for.
    #[error("invalid batch: {0}")]
    InvalidBatch(String),
    /// The device reported an error.
    #[error("device fault: {0}")]
    Device(String),
}

/// Where a model computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The host's processor.
    Cpu,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cpu")
    }
}
