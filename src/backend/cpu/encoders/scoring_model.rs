//! An encoder as a model of the engine. It reads a whole sequence at once, so the blocks of the KV pool hold the tokens
//! themselves: the engine submits them in chunks of any size, or finds them in its prefix cache, and the encoder runs when
//! the last one is there.

use std::iter;

use super::{encoder_model::EncoderModel, info::EncoderInfo};
use crate::{
    backend::{
        BatchSequence, ForwardBatch, LanguageModel, ModelLimits, Readout, StepError, StepOutput,
        cpu::kernels::BLOCK_TOKENS,
    },
    model::ResourceProblem,
};

/// Bytes of a block.
pub(super) const BLOCK_BYTES: u64 = (BLOCK_TOKENS * size_of::<u32>()) as u64;

/// The largest pool that is of use holds so many sequences of the longest length, which is how many can be under way.
const MOST_WINDOWS: usize = 512;

/// Most tokens that are computed at the same time, unless a single sequence is longer.
const GROUP_TOKENS: usize = 512;

/// Size of the largest pool that is of use, in bytes.
pub(super) fn most_bytes(window: usize) -> u64 {
    (window.div_ceil(BLOCK_TOKENS) as u64)
        .saturating_mul(MOST_WINDOWS as u64)
        .saturating_mul(BLOCK_BYTES)
}

/// Bytes of the buffers that the rows of a group need.
pub(super) fn scratch_bytes(window: usize, row_bytes: usize) -> u64 {
    (window.max(GROUP_TOKENS) as u64).saturating_mul(row_bytes as u64)
}

/// An encoder, and the tokens of the sequences that are under way.
pub(super) struct ScoringModel {
    encoder: EncoderModel,
    limits: ModelLimits,
    /// The tokens in each block, `[blocks, BLOCK_TOKENS]`.
    tokens: Vec<u32>,
    /// What the step under way has read; `None` when no step is under way.
    output: Option<StepOutput>,
}

impl ScoringModel {
    /// # Errors
    /// When the pool does not hold one sequence of the longest length.
    pub(super) fn new(
        encoder: EncoderModel,
        info: &EncoderInfo,
        kv_bytes: usize,
    ) -> Result<Self, ResourceProblem> {
        let bytes = (kv_bytes as u64).min(most_bytes(info.window));
        let blocks = usize::try_from(bytes / BLOCK_BYTES).unwrap_or(usize::MAX);
        let needed = info.window.div_ceil(BLOCK_TOKENS);
        if blocks < needed {
            return Err(ResourceProblem::KvPool {
                bytes: kv_bytes,
                needed: needed as u64 * BLOCK_BYTES,
            });
        }
        Ok(Self {
            encoder,
            limits: ModelLimits {
                vocab_size: info.vocab_size,
                context_length: info.window,
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

    /// All tokens of a sequence up to its last new one.
    fn gather(&self, sequence: &BatchSequence) -> Vec<u32> {
        let positions = 0..sequence.context + sequence.new_tokens;
        positions
            .map(|position| self.tokens[slot(sequence, position)])
            .collect()
    }
}

/// Index of a sequence's token among the tokens of all blocks.
fn slot(sequence: &BatchSequence, position: usize) -> usize {
    sequence.block_table[position / BLOCK_TOKENS] as usize * BLOCK_TOKENS + position % BLOCK_TOKENS
}

/// Divides sequences into groups of neighbours that are computed together: as many as have no more than [`GROUP_TOKENS`]
/// tokens, and at least one.
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

impl LanguageModel for ScoringModel {
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
            .any(|sequence| !self.encoder.has(&sequence.readout))
        {
            return Err(StepError::InvalidBatch(
                "estimators have scores only, and classifiers probabilities of labels only".into(),
            ));
        }
        self.store(batch);
        let complete = || batch.sequences.iter().filter(scored);
        let mut readouts = complete().map(|sequence| &sequence.readout);
        let tokens: Vec<Vec<u32>> = complete().map(|sequence| self.gather(sequence)).collect();
        let tokens: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
        output.clear();
        for group in groups(&tokens) {
            let computed = self.encoder.compute(group);
            let read = computed.iter().zip(&mut readouts);
            output
                .readings
                .extend(read.filter_map(|(computed, readout)| computed.read(readout)));
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
