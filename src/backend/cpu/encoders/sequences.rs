//! An estimator as the engine's model. It reads a sequence as a whole, so the KV pool holds the tokens themselves:
//! the engine brings them in chunks of whatever size, or finds them in its prefix cache, and the estimator runs when
//! the last one is there.

use std::iter;

use super::{Estimator, Facts};
use crate::backend::{
    BatchSequence, ForwardBatch, LanguageModel, ModelLimits, Reading, Readout, StepError, StepOutput,
    cpu::kernels::BLOCK_TOKENS,
};

/// Bytes of a block.
pub(super) const BLOCK_BYTES: u64 = (BLOCK_TOKENS * size_of::<u32>()) as u64;

/// Whole windows that the pool holds at most: as many sequences can be under way.
const MOST_WINDOWS: usize = 512;

/// Tokens that are computed at the same time, unless a single sequence is longer.
const GROUP_TOKENS: usize = 512;

/// Bytes of the largest pool that is of use.
pub(super) fn most_bytes(window: usize) -> u64 {
    (window.div_ceil(BLOCK_TOKENS) as u64)
        .saturating_mul(MOST_WINDOWS as u64)
        .saturating_mul(BLOCK_BYTES)
}

/// Bytes of a group's rows on their way.
pub(super) fn scratch_bytes(window: usize, row_bytes: usize) -> u64 {
    (window.max(GROUP_TOKENS) as u64).saturating_mul(row_bytes as u64)
}

/// An estimator with the tokens of the sequences that are under way.
pub(super) struct Sequences {
    estimator: Estimator,
    limits: ModelLimits,
    /// `[blocks, BLOCK_TOKENS]`.
    tokens: Vec<u32>,
    /// What the step under way has read.
    output: Option<StepOutput>,
}

impl Sequences {
    /// # Errors
    /// When the pool does not hold one sequence.
    pub(super) fn new(estimator: Estimator, facts: &Facts, kv_bytes: usize) -> Result<Self, String> {
        let bytes = (kv_bytes as u64).min(most_bytes(facts.window));
        let blocks = usize::try_from(bytes / BLOCK_BYTES).unwrap_or(usize::MAX);
        let needed = facts.window.div_ceil(BLOCK_TOKENS);
        if blocks < needed {
            let needed = needed as u64 * BLOCK_BYTES;
            return Err(format!(
                "the KV pool of {kv_bytes} bytes is too small: this model needs at least {needed}"
            ));
        }
        Ok(Self {
            estimator,
            limits: ModelLimits {
                vocab_size: facts.vocab_size,
                context_length: facts.window,
                block_size: BLOCK_TOKENS,
                num_blocks: blocks,
                window: None,
            },
            tokens: vec![0; blocks * BLOCK_TOKENS],
            output: None,
        })
    }

    /// Bytes of the pool.
    pub(super) fn kv_bytes(&self) -> u64 {
        size_of_val(&self.tokens[..]) as u64
    }

    /// Stores the new tokens of all sequences.
    fn store(&mut self, batch: &ForwardBatch) {
        let mut new = batch.tokens.iter();
        for sequence in &batch.sequences {
            let positions = sequence.context..sequence.context + sequence.new_tokens;
            for (position, token) in positions.zip(&mut new) {
                self.tokens[slot(sequence, position)] = *token;
            }
        }
    }

    /// All tokens of a sequence so far.
    fn gather(&self, sequence: &BatchSequence) -> Vec<u32> {
        let positions = 0..sequence.context + sequence.new_tokens;
        positions
            .map(|position| self.tokens[slot(sequence, position)])
            .collect()
    }
}

/// Where a token of a sequence lies.
fn slot(sequence: &BatchSequence, position: usize) -> usize {
    sequence.block_table[position / BLOCK_TOKENS] as usize * BLOCK_TOKENS + position % BLOCK_TOKENS
}

/// Neighbours that are computed together: as many as stay below [`GROUP_TOKENS`], and at least one.
fn groups<'a>(sequences: &'a [&'a [u32]]) -> impl Iterator<Item = &'a [&'a [u32]]> {
    let mut rest = sequences;
    iter::from_fn(move || {
        let mut tokens = 0;
        let fitting = rest.iter().take_while(|sequence| {
            tokens += sequence.len();
            tokens <= GROUP_TOKENS
        });
        let (group, later) = rest.split_at(fitting.count().max(1).min(rest.len()));
        rest = later;
        (!group.is_empty()).then_some(group)
    })
}

impl LanguageModel for Sequences {
    fn limits(&self) -> &ModelLimits {
        &self.limits
    }

    fn submit(&mut self, batch: &ForwardBatch, mut output: StepOutput) -> Result<(), StepError> {
        self.output = None;
        batch.check(&self.limits, 0)?;
        let scored = |sequence: &&BatchSequence| sequence.readout != Readout::None;
        if batch
            .sequences
            .iter()
            .filter(scored)
            .any(|sequence| sequence.readout != Readout::Score)
        {
            return Err(StepError::InvalidBatch(
                "an encoder has a score and no logits".into(),
            ));
        }
        self.store(batch);
        let complete = batch.sequences.iter().filter(scored);
        let complete: Vec<Vec<u32>> = complete.map(|sequence| self.gather(sequence)).collect();
        let complete: Vec<&[u32]> = complete.iter().map(Vec::as_slice).collect();
        output.clear();
        for group in groups(&complete) {
            output
                .readings
                .extend(self.estimator.score(group).into_iter().map(Reading::Score));
        }
        self.output = Some(output);
        Ok(())
    }

    fn wait(&mut self) -> Result<StepOutput, StepError> {
        self.output.take().ok_or(StepError::NotSubmitted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_every_sequence_once_and_in_order() {
        let tokens = [0u32; 600];
        let sequences: Vec<&[u32]> = [500, 12, 1, 600, 511, 1, 1].map(|len| &tokens[..len]).to_vec();
        let lens: Vec<Vec<usize>> = groups(&sequences)
            .map(|group| group.iter().map(|sequence| sequence.len()).collect())
            .collect();
        assert_eq!(lens, [vec![500, 12], vec![1], vec![600], vec![511, 1], vec![1]]);
        assert_eq!(groups(&[]).count(), 0);
    }
}
