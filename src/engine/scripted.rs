//! A language model that computes its logits with a closure, for tests of engines and servers without weights.

use std::fmt;

use crate::{
    backend::{
        BatchSequence, ForwardBatch, GeneratedTokens, LanguageModel, ModelLimits, Readout, StepError,
        StepOutput, read_row,
    },
    model::spec::TokenKind,
    random::{GOLDEN, mix},
};

/// Writes the next token's logits into a row of zeros, from all tokens that the position attends to.
pub type Script = Box<dyn FnMut(&[u32], &mut [f32]) + Send>;

/// What the cache holds for a position in place of a key and a value: the token, and a hash of all tokens up to it,
/// because a real key depends on all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell {
    token: u32,
    /// Hash of the adapter and of all tokens up to this one.
    prefix: u64,
}

/// A deterministic model that knows only what is in its KV blocks. Each forward pass writes the new tokens to the blocks of
/// the block table, and the script sees only what is read back through that table. A wrong table, a block that was given
/// to two sequences, or a skipped position changes the output or fails the pass.
///
/// With a sliding window, the model reads only the window of the context. Keys of deeper layers depend on what earlier
/// tokens attended to, and so does the script: before the window's tokens it is given a hash of all tokens up to the first
/// of them.
pub struct ScriptedModel {
    limits: ModelLimits,
    window: Option<usize>,
    generated: GeneratedTokens,
    cells: Vec<Option<Cell>>,
    seen: Vec<Cell>,
    context: Vec<u32>,
    script: Script,
    /// What the step under way has read.
    output: Option<StepOutput>,
}

impl fmt::Debug for ScriptedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedModel")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl ScriptedModel {
    /// A model that computes logits with `script`.
    pub fn new(limits: ModelLimits, script: impl FnMut(&[u32], &mut [f32]) + Send + 'static) -> Self {
        let cells = vec![None; limits.num_blocks * limits.block_size];
        Self {
            window: limits.window,
            generated: GeneratedTokens::AsInPrompts,
            limits,
            cells,
            seen: Vec::new(),
            context: Vec::new(),
            script: Box::new(script),
            output: None,
        }
    }

    /// A model whose most likely next token is what `next` returns: its logit is 10 and all others are 0. For a token
    /// outside the vocabulary, all logits are equal.
    pub fn with_next_token(
        limits: ModelLimits,
        mut next: impl FnMut(&[u32]) -> u32 + Send + 'static,
    ) -> Self {
        Self::new(limits, move |context, row| {
            if let Some(logit) = row.get_mut(next(context) as usize) {
                *logit = 10.0;
            }
        })
    }

    /// The same model, with its window left out of the limits that the scheduler reads.
    #[cfg(test)]
    pub fn with_hidden_window(mut self) -> Self {
        self.limits.window = None;
        self
    }

    /// The same model, which computes generated tokens in this way. Where they are computed apart, a generated token counts as
    /// another one than the same token in a prompt, and the script sees it with its highest bit set.
    #[cfg(test)]
    pub fn with_generated(mut self, generated: GeneratedTokens) -> Self {
        self.generated = generated;
        self
    }

    /// A model whose logits are pseudo-random numbers in [-4, 4), made from a hash of the whole context.
    pub fn hashing(limits: ModelLimits) -> Self {
        Self::new(limits, |context, row| {
            let seed = context
                .iter()
                .fold(FIRST_PREFIX, |prefix, &token| extend(prefix, token));
            for (id, logit) in row.iter_mut().enumerate() {
                let bits = extend(seed, id as u32) >> 40;
                *logit = bits as f32 / (1u32 << 21) as f32 - 4.0;
            }
        })
    }

    fn cell(&self, entry: &BatchSequence, position: usize) -> Result<usize, StepError> {
        let size = self.limits.block_size;
        let block = entry.block_table.get(position / size).copied();
        let block = block.filter(|&block| (block as usize) < self.limits.num_blocks);
        match block {
            Some(block) => Ok(block as usize * size + position % size),
            None => Err(StepError::InvalidBatch(format!(
                "no block for position {position}"
            ))),
        }
    }

    /// Writes the new tokens to their blocks, and reads the context of the last one into `self.context`.
    fn attend(&mut self, entry: &BatchSequence, tokens: &[u32]) -> Result<(), StepError> {
        if entry.new_tokens == 0 || entry.context + entry.new_tokens > self.limits.context_length {
            return Err(StepError::InvalidBatch(format!(
                "{} new tokens after {} in a window of {}",
                entry.new_tokens, entry.context, self.limits.context_length
            )));
        }
        self.seen.clear();
        let adapter = entry.adapter.map_or(0, |adapter| adapter.0 as u32 + 1);
        let first_seen = |end: usize| self.window.map_or(0, |window| end.saturating_sub(window));
        let (first, last) = (
            first_seen(entry.context + 1),
            first_seen(entry.context + tokens.len()),
        );
        // Blocks before the window may have been released, so the hash before the first position cannot be checked.
        let mut prefix = (first == 0).then(|| extend(FIRST_PREFIX, adapter));
        for position in first..entry.context {
            let index = self.cell(entry, position)?;
            let Some(cell) = self.cells[index] else {
                return Err(StepError::InvalidBatch(format!(
                    "position {position} was never written"
                )));
            };
            if prefix.is_some_and(|prefix| cell.prefix != extend(prefix, cell.token)) {
                return Err(StepError::InvalidBatch(format!(
                    "position {position} is of another sequence"
                )));
            }
            prefix = Some(cell.prefix);
            self.seen.push(cell);
        }
        let mut prefix = prefix.unwrap_or(FIRST_PREFIX);
        for (offset, &token) in tokens.iter().enumerate() {
            if token as usize >= self.limits.vocab_size {
                return Err(StepError::InvalidBatch(format!(
                    "token {token} is not in the vocabulary"
                )));
            }
            let index = self.cell(entry, entry.context + offset)?;
            let token = match (self.generated, entry.kind) {
                (GeneratedTokens::Apart, TokenKind::Generated) => token | GENERATED,
                (GeneratedTokens::Apart, TokenKind::Prompt) | (GeneratedTokens::AsInPrompts, _) => token,
            };
            prefix = extend(prefix, token);
            let cell = Cell { token, prefix };
            self.cells[index] = Some(cell);
            self.seen.push(cell);
        }
        let seen = &self.seen[last - first..];
        self.context.clear();
        if let (true, Some(cell)) = (last > 0, seen.first()) {
            self.context
                .extend([cell.prefix as u32, (cell.prefix >> 32) as u32]);
        }
        self.context.extend(seen.iter().map(|cell| cell.token));
        Ok(())
    }
}

impl LanguageModel for ScriptedModel {
    fn limits(&self) -> &ModelLimits {
        &self.limits
    }

    fn generated_tokens(&self) -> GeneratedTokens {
        self.generated
    }

    fn submit(&mut self, batch: &ForwardBatch, mut output: StepOutput) -> Result<(), StepError> {
        self.output = None;
        output.clear();
        let new_tokens: usize = batch.sequences.iter().map(|entry| entry.new_tokens).sum();
        if new_tokens != batch.tokens.len() {
            return Err(StepError::InvalidBatch(format!(
                "{} tokens for {new_tokens} places",
                batch.tokens.len()
            )));
        }
        let mut rest = batch.tokens.as_slice();
        for entry in &batch.sequences {
            let (tokens, after) = rest.split_at(entry.new_tokens);
            rest = after;
            self.attend(entry, tokens)?;
            if entry.readout != Readout::None {
                let begin = output.logits.len();
                output.logits.resize(begin + self.limits.vocab_size, 0.0);
                let logits = &mut output.logits[begin..];
                (self.script)(&self.context, logits);
                let row = begin / self.limits.vocab_size;
                output.readings.extend(read_row(&entry.readout, row, logits));
            }
        }
        self.output = Some(output);
        Ok(())
    }

    fn wait(&mut self) -> Result<StepOutput, StepError> {
        self.output.take().ok_or(StepError::NotSubmitted)
    }
}

/// Marks a generated token, where it counts as another one than in a prompt.
const GENERATED: u32 = 1 << 31;

const FIRST_PREFIX: u64 = 0x243f_6a88_85a3_08d3;

/// The hash of a prefix with one more token.
fn extend(prefix: u64, token: u32) -> u64 {
    mix((prefix ^ u64::from(token)).wrapping_mul(GOLDEN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::NULL_BLOCK;

    const LIMITS: ModelLimits = ModelLimits {
        vocab_size: 16,
        context_length: 16,
        block_size: 2,
        num_blocks: 4,
        window: None,
    };

    fn pass(tokens: &[u32], context: usize, block_table: &[u32]) -> ForwardBatch {
        ForwardBatch {
            tokens: tokens.to_vec(),
            sequences: vec![BatchSequence {
                new_tokens: tokens.len(),
                context,
                kind: TokenKind::Prompt,
                block_table: block_table.to_vec(),
                adapter: None,
                readout: Readout::Logits,
            }],
        }
    }

    fn logits(model: &mut ScriptedModel, pass: &ForwardBatch) -> Result<Vec<f32>, StepError> {
        Ok(model.forward(pass, StepOutput::default())?.logits)
    }

    #[test]
    fn chunks_and_tables_do_not_matter_but_contexts_do() {
        let mut model = ScriptedModel::hashing(LIMITS);
        let whole = logits(&mut model, &pass(&[1, 2, 3], 0, &[0, 1])).unwrap();
        logits(&mut model, &pass(&[1, 2], 0, &[3])).unwrap();
        let chunked = logits(&mut model, &pass(&[3], 2, &[3, 2])).unwrap();
        let other = logits(&mut model, &pass(&[2, 2, 3], 0, &[0, 1])).unwrap();
        assert_eq!(whole, chunked);
        assert_ne!(whole, other);
        assert!(whole.iter().all(|x| (-4.0..4.0).contains(x)));
    }

    #[test]
    fn blocks_before_a_window_may_be_missing_but_their_tokens_count() {
        let limits = ModelLimits {
            window: Some(3),
            ..LIMITS
        };
        let mut model = ScriptedModel::hashing(limits);
        let whole = logits(&mut model, &pass(&[1, 2, 3, 4, 5], 0, &[0, 1, 2])).unwrap();
        let rest = logits(&mut model, &pass(&[5], 4, &[NULL_BLOCK, 1, 3])).unwrap();
        assert_eq!(whole, rest);
        let other = logits(&mut model, &pass(&[7, 2, 3, 4, 5], 0, &[0, 1, 2])).unwrap();
        assert_ne!(whole, other, "deeper layers have seen the first token");
        assert!(logits(&mut model, &pass(&[5], 4, &[0, NULL_BLOCK, 3])).is_err());
    }

    #[test]
    fn a_wrong_block_table_is_an_error() {
        let mut model = ScriptedModel::hashing(LIMITS);
        logits(&mut model, &pass(&[1, 2], 0, &[0])).unwrap();
        logits(&mut model, &pass(&[5, 2, 1, 2], 0, &[1, 2])).unwrap();
        for (tokens, context, table) in [
            (&[3][..], 2, &[3, 1][..]), // never written
            (&[3], 2, &[2, 1]),         // the same tokens after another prefix
            (&[3], 2, &[0]),            // no block for the new token
            (&[3], 2, &[0, 9]),         // no such block
            (&[99], 2, &[0, 3]),        // no such token
            (&[], 2, &[0]),             // nothing to do
        ] {
            let result = logits(&mut model, &pass(tokens, context, table));
            assert!(
                matches!(result, Err(StepError::InvalidBatch(_))),
                "{tokens:?} {context} {table:?}"
            );
        }
    }
}
