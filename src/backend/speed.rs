//! Raw speed of a loaded model: prefill and batched decode, without engine, sampling and server.

use std::time::{Duration, Instant};

use super::{
    AdapterIndex, BatchLimits, BatchSequence, Execution, ForwardBatch, LanguageModel, Readout, StepError,
    StepOutput,
};
use crate::model::spec::TokenKind;

/// What is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct SpeedRun {
    /// Sequences that are computed together.
    pub sequences: usize,
    /// Prompt tokens of each sequence.
    pub prompt_tokens: usize,
    /// Tokens that the prompts begin with in common. They are computed once, before the clock starts, and all sequences read
    /// the same KV blocks.
    pub shared_tokens: usize,
    /// Tokens that each sequence decodes.
    pub decode_tokens: usize,
    /// Most new tokens of a step; longer prompts take several.
    pub step_tokens: usize,
    /// Adapters that the model was loaded with. Sequences take turns: each adapter, then the model itself.
    pub adapters: usize,
    /// What is read of each sequence's last row.
    pub readout: Readout,
    /// What is computed before the clock starts.
    pub rehearsal: Rehearsal,
}

/// What is computed before the clock starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rehearsal {
    /// The first prompt: so that page faults and growing buffers are not measured.
    FirstPrompt,
    /// All that is measured: so that neither is what a device does at the first step of a size, such as recording it.
    Everything,
}

impl Rehearsal {
    /// What a device needs before its speed can be measured.
    pub fn of(execution: Execution) -> Self {
        match execution {
            Execution::Synchronous => Self::FirstPrompt,
            Execution::Asynchronous => Self::Everything,
        }
    }
}

/// A part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// What is computed before the clock starts.
    WarmUp,
    /// The prompts.
    Prefill,
    /// The answers.
    Decode,
}

/// How fast a run was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Prompt tokens in a second, of all sequences together, without those that are shared.
    pub prefill_tokens_per_second: f64,
    /// Decoded tokens in a second, of all sequences together; 0 where none was decoded.
    pub decode_tokens_per_second: f64,
}

/// Why a run cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum SpeedError {
    /// Shared tokens end inside of a block.
    #[error(
        "{shared} shared tokens are no whole number of KV blocks: this device's have {block} tokens, so give a multiple of it"
    )]
    PartOfABlock {
        /// Shared tokens.
        shared: usize,
        /// Tokens of a block.
        block: usize,
    },
    /// Nothing of the prompts is left to be measured.
    #[error("{shared} shared tokens leave nothing of prompts of {prompt} tokens; they have to be fewer")]
    NothingLeft {
        /// Shared tokens.
        shared: usize,
        /// Tokens of a prompt.
        prompt: usize,
    },
    /// Adapters change keys and values, so that sequences with different ones have none in common.
    #[error("sequences with adapters share no tokens: each adapter has keys and values of its own")]
    AdaptersShareNothing,
    /// A sequence is longer than the model's window.
    #[error(
        "a sequence has {tokens} tokens, prompt and answer together, and the window of the model has {window}"
    )]
    Window {
        /// Tokens of a sequence.
        tokens: usize,
        /// Longest sequence.
        window: usize,
    },
    /// The KV pool was made for smaller runs.
    #[error("{sequences} sequences need {needed} KV blocks, and the pool has {found}")]
    Pool {
        /// Sequences.
        sequences: usize,
        /// Blocks that they need.
        needed: usize,
        /// Blocks of the pool.
        found: usize,
    },
    /// A step failed.
    #[error("the {phase} failed")]
    Step {
        /// What was computed.
        phase: &'static str,
        /// Why it failed.
        source: StepError,
    },
}

impl SpeedRun {
    /// Tokens of a sequence at its end.
    fn length(&self) -> usize {
        self.prompt_tokens.saturating_add(self.decode_tokens)
    }

    /// KV blocks that the run needs, of a pool whose blocks have so many tokens.
    pub fn blocks(&self, block_tokens: usize) -> usize {
        let shared = self.shared_tokens / block_tokens;
        let own = self.length().div_ceil(block_tokens).saturating_sub(shared);
        shared.saturating_add(self.sequences.saturating_mul(own))
    }

    /// The largest batches of the run.
    pub fn batch_limits(&self) -> BatchLimits {
        let new = self.prompt_tokens.saturating_sub(self.shared_tokens);
        // The first prompt is also computed alone and whole.
        let tokens = self.sequences.saturating_mul(new).max(self.prompt_tokens);
        BatchLimits {
            sequences: self.sequences,
            tokens: tokens.min(self.step_tokens).max(self.sequences),
        }
    }

    /// Checks that a model whose longest sequence has `window` tokens, and whose KV blocks have `block_tokens`, can be measured.
    ///
    /// # Errors
    /// When sequences are too long, or the shared tokens are no whole blocks, or all tokens, or cannot be shared.
    pub fn check(&self, block_tokens: usize, window: usize) -> Result<(), SpeedError> {
        if self.length() > window {
            return Err(SpeedError::Window {
                tokens: self.length(),
                window,
            });
        }
        if self.shared_tokens == 0 {
            return Ok(());
        }
        if !self.shared_tokens.is_multiple_of(block_tokens) {
            return Err(SpeedError::PartOfABlock {
                shared: self.shared_tokens,
                block: block_tokens,
            });
        }
        if self.shared_tokens >= self.prompt_tokens {
            return Err(SpeedError::NothingLeft {
                shared: self.shared_tokens,
                prompt: self.prompt_tokens,
            });
        }
        match self.adapters {
            0 => Ok(()),
            _ => Err(SpeedError::AdaptersShareNothing),
        }
    }

    /// Measures a model. Its KV pool is overwritten.
    ///
    /// # Errors
    /// When the run does not suit the model, or a step fails.
    pub fn measure(&self, model: &mut dyn LanguageModel) -> Result<Speed, SpeedError> {
        self.measure_phases(model, &mut |_| {})
    }

    /// [`SpeedRun::measure`], which calls `after` at the end of each phase.
    ///
    /// # Errors
    /// As [`SpeedRun::measure`].
    pub fn measure_phases(
        &self,
        model: &mut dyn LanguageModel,
        after: &mut dyn FnMut(Phase),
    ) -> Result<Speed, SpeedError> {
        let limits = model.limits().clone();
        self.check(limits.block_size, limits.context_length)?;
        let needed = self.blocks(limits.block_size);
        if needed > limits.num_blocks {
            return Err(SpeedError::Pool {
                sequences: self.sequences,
                needed,
                found: limits.num_blocks,
            });
        }
        let layout = Layout {
            run: self,
            block_tokens: limits.block_size,
            vocab_size: limits.vocab_size,
        };
        let mut steps = Steps {
            model,
            output: StepOutput::default(),
        };
        let prefill = layout.prefill(self.shared_tokens, self.sequences);
        let decode = layout.decode();
        // This computes the shared tokens as well.
        steps.run(&layout.prefill(0, 1), "warm-up")?;
        if self.rehearsal == Rehearsal::Everything {
            steps.run(&prefill, "warm-up")?;
            steps.run(&decode, "warm-up")?;
        }
        after(Phase::WarmUp);
        let prefilled = steps.run(&prefill, "prefill")?;
        after(Phase::Prefill);
        let decoded = steps.run(&decode, "decode")?;
        after(Phase::Decode);
        let prefilled_tokens = self.sequences * (self.prompt_tokens - self.shared_tokens);
        Ok(Speed {
            prefill_tokens_per_second: prefilled_tokens as f64 / prefilled.as_secs_f64(),
            decode_tokens_per_second: match self.decode_tokens {
                0 => 0.0,
                tokens => (tokens * self.sequences) as f64 / decoded.as_secs_f64(),
            },
        })
    }
}

/// Computes steps one after the other.
struct Steps<'a> {
    model: &'a mut dyn LanguageModel,
    output: StepOutput,
}

impl Steps<'_> {
    /// How long the steps take.
    fn run(&mut self, batches: &[ForwardBatch], phase: &'static str) -> Result<Duration, SpeedError> {
        let begun = Instant::now();
        for batch in batches {
            let output = std::mem::take(&mut self.output);
            let computed = self.model.forward(batch, output);
            self.output = computed.map_err(|source| SpeedError::Step { phase, source })?;
        }
        Ok(begun.elapsed())
    }
}

/// Where the sequences of a run have their tokens.
struct Layout<'a> {
    run: &'a SpeedRun,
    block_tokens: usize,
    vocab_size: usize,
}

impl Layout<'_> {
    /// The blocks that all sequences share, and then a sequence's own.
    fn block_table(&self, sequence: usize) -> Vec<u32> {
        let shared = self.run.shared_tokens / self.block_tokens;
        let own = self.run.length().div_ceil(self.block_tokens) - shared;
        let first = shared + sequence * own;
        (0..shared)
            .chain(first..first + own)
            .map(|block| block as u32)
            .collect()
    }

    /// A token of a prompt.
    fn prompt_token(&self, sequence: usize, position: usize) -> u32 {
        match position < self.run.shared_tokens {
            true => pseudo_token(position, self.vocab_size),
            false => pseudo_token(sequence * 7919 + position, self.vocab_size),
        }
    }

    /// The steps that compute the prompts of the first sequences from token `begin` on.
    fn prefill(&self, begin: usize, sequences: usize) -> Vec<ForwardBatch> {
        let mut steps = vec![ForwardBatch::default()];
        for sequence in 0..sequences {
            let mut context = begin;
            while context < self.run.prompt_tokens {
                let room = self.run.step_tokens.max(1) - steps.last().map_or(0, |step| step.tokens.len());
                if room == 0 {
                    steps.push(ForwardBatch::default());
                    continue;
                }
                let new_tokens = room.min(self.run.prompt_tokens - context);
                let is_last = context + new_tokens == self.run.prompt_tokens;
                let readout = match is_last {
                    true => self.run.readout.clone(),
                    false => Readout::None,
                };
                if let Some(step) = steps.last_mut() {
                    let positions = context..context + new_tokens;
                    step.tokens
                        .extend(positions.map(|position| self.prompt_token(sequence, position)));
                    step.sequences
                        .push(self.part(sequence, context, new_tokens, readout));
                }
                context += new_tokens;
            }
        }
        steps
    }

    /// The decode steps: one token of each sequence in each.
    fn decode(&self) -> Vec<ForwardBatch> {
        let run = self.run;
        let step = |step: usize| ForwardBatch {
            tokens: (0..run.sequences)
                .map(|sequence| pseudo_token(step * 31 + sequence, self.vocab_size))
                .collect(),
            sequences: (0..run.sequences)
                .map(|sequence| self.part(sequence, run.prompt_tokens + step, 1, run.readout.clone()))
                .collect(),
        };
        (0..run.decode_tokens).map(step).collect()
    }

    fn part(&self, sequence: usize, context: usize, new_tokens: usize, readout: Readout) -> BatchSequence {
        BatchSequence {
            new_tokens,
            context,
            kind: match context < self.run.prompt_tokens {
                true => TokenKind::Prompt,
                false => TokenKind::Generated,
            },
            block_table: self.block_table(sequence),
            adapter: adapter_of(sequence, self.run.adapters),
            readout,
        }
    }
}

/// The adapter of a sequence. Sequences take turns: each adapter, then the model itself.
fn adapter_of(sequence: usize, adapters: usize) -> Option<AdapterIndex> {
    let turn = sequence % (adapters + 1);
    (turn < adapters).then_some(AdapterIndex(turn))
}

fn pseudo_token(index: usize, vocab_size: usize) -> u32 {
    (index.wrapping_mul(2_654_435_761) % vocab_size) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ModelLimits;

    const BLOCK: usize = 4;

    /// A model that notes which token was written to which place of its pool.
    struct Noting {
        limits: ModelLimits,
        pool: Vec<Option<u32>>,
        batches: Vec<ForwardBatch>,
    }

    impl Noting {
        fn new(blocks: usize) -> Self {
            Self {
                limits: ModelLimits {
                    vocab_size: 1009,
                    context_length: 64,
                    block_size: BLOCK,
                    num_blocks: blocks,
                    window: None,
                },
                pool: vec![None; blocks * BLOCK],
                batches: Vec::new(),
            }
        }

        fn at(&self, sequence: &BatchSequence, position: usize) -> usize {
            sequence.block_table[position / BLOCK] as usize * BLOCK + position % BLOCK
        }
    }

    impl LanguageModel for Noting {
        fn limits(&self) -> &ModelLimits {
            &self.limits
        }

        fn submit(&mut self, batch: &ForwardBatch, _: StepOutput) -> Result<(), StepError> {
            batch.check(&self.limits, 2)?;
            let mut tokens = batch.tokens.iter();
            for sequence in &batch.sequences {
                for position in 0..sequence.context {
                    assert!(
                        self.pool[self.at(sequence, position)].is_some(),
                        "a hole in the context"
                    );
                }
                for position in sequence.context..sequence.context + sequence.new_tokens {
                    let place = self.at(sequence, position);
                    self.pool[place] = tokens.next().copied();
                }
            }
            self.batches.push(batch.clone());
            Ok(())
        }

        fn wait(&mut self) -> Result<StepOutput, StepError> {
            Ok(StepOutput::default())
        }
    }

    fn run() -> SpeedRun {
        SpeedRun {
            sequences: 3,
            prompt_tokens: 10,
            shared_tokens: 0,
            decode_tokens: 3,
            step_tokens: 1000,
            adapters: 0,
            readout: Readout::Logits,
            rehearsal: Rehearsal::FirstPrompt,
        }
    }

    fn counts(model: &Noting) -> Vec<(usize, usize)> {
        let counts = model
            .batches
            .iter()
            .map(|batch| (batch.sequences.len(), batch.tokens.len()));
        counts.collect()
    }

    #[test]
    fn prompts_are_computed_in_one_step_and_then_a_token_of_each_sequence() {
        let run = run();
        let mut model = Noting::new(run.blocks(BLOCK));
        let speed = run.measure(&mut model).unwrap();
        assert_eq!(counts(&model), [(1, 10), (3, 30), (3, 3), (3, 3), (3, 3)]);
        assert!(speed.prefill_tokens_per_second > 0.0 && speed.decode_tokens_per_second > 0.0);
        assert_eq!(run.batch_limits().tokens, 30);
        let contexts: Vec<usize> = model
            .batches
            .iter()
            .map(|batch| batch.sequences[2 % batch.sequences.len()].context)
            .collect();
        assert_eq!(contexts, [0, 0, 10, 11, 12]);
    }

    #[test]
    fn shared_tokens_are_computed_once_and_their_blocks_are_everyones() {
        let run = SpeedRun {
            shared_tokens: 8,
            ..run()
        };
        assert_eq!(run.blocks(BLOCK), 2 + 3 * 2);
        let mut model = Noting::new(run.blocks(BLOCK));
        run.measure(&mut model).unwrap();
        assert_eq!(counts(&model)[..2], [(1, 10), (3, 6)]);
        let prefill = &model.batches[1];
        for sequence in &prefill.sequences {
            assert_eq!((sequence.context, &sequence.block_table[..2]), (8, &[0, 1][..]));
        }
        assert_eq!(prefill.sequences[1].block_table, [0, 1, 4, 5]);
        // Prompts differ behind what they share.
        assert_ne!(prefill.tokens[..2], prefill.tokens[2..4]);
        // The first prompt alone is longer than what is new of all.
        assert_eq!(run.batch_limits().tokens, 10);
    }

    #[test]
    fn long_prompts_take_several_steps_and_are_read_at_their_ends() {
        let run = SpeedRun {
            step_tokens: 7,
            decode_tokens: 0,
            ..run()
        };
        let mut model = Noting::new(run.blocks(BLOCK));
        let speed = run.measure(&mut model).unwrap();
        assert_eq!(speed.decode_tokens_per_second, 0.0);
        let tokens: Vec<usize> = model.batches.iter().map(|batch| batch.tokens.len()).collect();
        assert_eq!(tokens, [7, 3, 7, 7, 7, 7, 2]);
        let reads = model.batches[2..].iter().flat_map(|batch| &batch.sequences);
        assert_eq!(
            reads
                .filter(|sequence| sequence.readout == Readout::Logits)
                .count(),
            3
        );
        assert_eq!(
            run.batch_limits(),
            BatchLimits {
                sequences: 3,
                tokens: 7
            }
        );
    }

    #[test]
    fn a_whole_rehearsal_computes_everything_twice() {
        let run = SpeedRun {
            rehearsal: Rehearsal::of(Execution::Asynchronous),
            decode_tokens: 1,
            ..run()
        };
        let mut model = Noting::new(run.blocks(BLOCK));
        run.measure(&mut model).unwrap();
        assert_eq!(counts(&model), [(1, 10), (3, 30), (3, 3), (3, 30), (3, 3)]);
    }

    #[test]
    fn sequences_take_turns_with_adapters() {
        let run = SpeedRun { adapters: 2, ..run() };
        let mut model = Noting::new(run.blocks(BLOCK));
        run.measure(&mut model).unwrap();
        let adapters: Vec<_> = model.batches[1]
            .sequences
            .iter()
            .map(|sequence| sequence.adapter)
            .collect();
        assert_eq!(adapters, [Some(AdapterIndex(0)), Some(AdapterIndex(1)), None]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_numbers() {
        let refused = |run: SpeedRun, blocks| run.measure(&mut Noting::new(blocks)).unwrap_err().to_string();
        let shared = |shared_tokens| SpeedRun {
            shared_tokens,
            ..run()
        };
        assert!(
            refused(shared(6), 99)
                .contains("6 shared tokens are no whole number of KV blocks: this device's have 4")
        );
        assert!(refused(shared(12), 99).contains("12 shared tokens leave nothing of prompts of 10"));
        let adapted = SpeedRun {
            adapters: 1,
            ..shared(8)
        };
        assert!(refused(adapted, 99).contains("sequences with adapters share no tokens"));
        let long = SpeedRun {
            decode_tokens: 60,
            ..run()
        };
        assert!(
            refused(long, 99)
                .contains("70 tokens, prompt and answer together, and the window of the model has 64")
        );
        assert!(refused(run(), 11).contains("3 sequences need 12 KV blocks, and the pool has 11"));
    }
}
