//! What a caller asks of an engine.

use std::{sync::Arc, time::Instant};

use tracing::Span;

use super::{cancellation::CancelFlag, event::EventSink, tenant::Tenant};
use crate::backend::{AdapterIndex, CandidateFilter};

/// A model of an engine: its index in the list the engine was started with, or the one it was given when it was added.
/// An index is never given to another model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ModelIndex(pub usize);

/// Who goes first when there is more work than a step can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// A caller waits for something short, such as a verdict. It gets most of the time for as long as it needs it.
    Urgent,
    /// A caller waits for the answer.
    Interactive,
    /// Throughput matters and latency does not. Such sequences are preempted first.
    Batch,
}

impl Priority {
    /// All classes, in the order in which they are served.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Interactive, Self::Batch];

    /// The class's name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Interactive => "interactive",
            Self::Batch => "batch",
        }
    }

    /// Position in [`Priority::ALL`].
    pub(super) fn index(self) -> usize {
        self as usize
    }
}

/// Keeps the prefix of a growing text's last prompt in the prefix cache, for the next prompt of that text, for as long as there is
/// a clone of it. A prompt that is computed takes the place of the one before. What is kept is given up where memory is short.
#[derive(Debug, Clone, Default)]
pub struct PrefixKeeper(pub(super) Arc<()>);

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 chooses greedily (ties go to the lowest token id).
    pub temperature: f64,
    /// Keeps this many of the most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest most likely tokens that together have this probability; 1 keeps all.
    pub top_p: f64,
    /// Penalty on tokens of the prompt and of the answer so far, as in CTRL (arXiv 1909.05858) and transformers; 1 is
    /// none.
    pub repetition_penalty: f64,
    /// Seed of the draws. Draw `n` of an answer depends on the seed and on `n` only.
    pub seed: u64,
}

impl Sampling {
    /// Whether the most likely token is always chosen, whatever was written before.
    pub(super) fn takes_the_most_likely(&self) -> bool {
        self.is_greedy() && !self.penalises()
    }

    /// Whether nothing is drawn. Services check parameters, so one that makes no sense here counts as not set.
    pub(super) fn is_greedy(&self) -> bool {
        self.temperature.is_nan() || self.temperature <= 0.0
    }

    /// How the next token is drawn, apart from the penalty; `None` where nothing is drawn.
    pub(super) fn filter(&self) -> Option<CandidateFilter> {
        (!self.is_greedy()).then_some(CandidateFilter {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
        })
    }

    /// Whether tokens that were written before become less likely.
    pub(super) fn penalises(&self) -> bool {
        let penalty = self.repetition_penalty;
        penalty.is_finite() && penalty > 0.0 && penalty != 1.0
    }

    /// Always chooses the most likely token.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

/// Looks at each generated token and decides when the answer is complete, for example at a stop string.
pub trait StopCondition: Send {
    /// Takes the next token; `true` ends the sequence with [`FinishReason::Stop`](super::FinishReason::Stop).
    fn push(&mut self, token: u32) -> bool;
}

/// The positions that a probe reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProbePositions {
    /// The one after the prompt.
    #[default]
    AfterPrompt,
    /// That one, and the one after each token of the answer.
    EveryToken,
}

/// Reads log-probabilities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Where they are read.
    pub positions: ProbePositions,
    /// Tokens whose log-probability is wanted. For an id outside the vocabulary it is negative infinity.
    pub tokens: Vec<u32>,
    /// When the most likely token after the prompt is one of these, it is reported and the sequence ends there, without a decode step
    /// ([`FinishReason::Probe`](super::FinishReason::Probe)). With `max_new_tokens` 0 there is no token event for it.
    pub finish_on: Vec<u32>,
}

/// What to produce after the prompt.
pub struct OutputSpec {
    /// Most tokens of the answer; 0 computes the prompt only.
    pub max_new_tokens: usize,
    /// Tokens that end the answer. They are not reported as tokens.
    pub eos: Arc<[u32]>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// When set, each token is reported with its log-probability and this many alternatives.
    pub logprobs: Option<usize>,
    /// When set, the distribution after the prompt is read, and those after the answer's tokens if the probe says so.
    pub probe: Option<Probe>,
    /// Report the score of the prompt, and end there: of models that have a score instead of logits.
    pub score: bool,
    /// Ends the answer by the caller's own rule.
    pub stop: Option<Box<dyn StopCondition>>,
    /// Keep the prompt's full blocks in the prefix cache until the model is removed.
    pub pin_prompt: bool,
}

impl OutputSpec {
    /// The score of the prompt, and nothing else.
    pub fn score() -> Self {
        Self {
            score: true,
            pin_prompt: false,
            ..Self::pinned_prefix()
        }
    }

    /// No output: the prompt is computed and pinned in the prefix cache.
    pub fn pinned_prefix() -> Self {
        Self {
            max_new_tokens: 0,
            eos: Arc::new([]),
            sampling: Sampling::greedy(),
            logprobs: None,
            probe: None,
            score: false,
            stop: None,
            pin_prompt: true,
        }
    }
}

/// One sequence for the engine.
pub struct SequenceRequest {
    /// The model that runs it.
    pub model: ModelIndex,
    /// The model's adapter that it runs with, if any.
    pub adapter: Option<AdapterIndex>,
    /// Prompt tokens; at least one.
    pub prompt: Vec<u32>,
    /// What to produce after the prompt.
    pub output: OutputSpec,
    /// Its class.
    pub priority: Priority,
    /// The tenant on whose account it runs.
    pub tenant: Tenant,
    /// The sequence takes part in no step that begins after this time.
    pub deadline: Option<Instant>,
    /// Lets the caller stop the sequence.
    pub cancel: CancelFlag,
    /// Receives the sequence's events on the engine's thread. It must not block.
    pub events: EventSink,
    /// Keeps its prompt's full blocks in the prefix cache for the next sequence with the same keeper.
    pub keeper: Option<PrefixKeeper>,
    /// The span of the call that it is computed for: lines of the log that are about this sequence alone are in it.
    pub span: Span,
}
