//! What callers say to an engine and hear from it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::Tenant;
use crate::backend::AdapterIndex;

/// A model of an engine: its place in the list the engine was started with, or the one it was given later. No
/// other model ever gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ModelIndex(pub usize);

/// Who goes first when there is more to do than a step takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// A caller waits for something short, such as a verdict: most of the time is its, as long as it needs it.
    Urgent,
    /// A caller waits for this one.
    Interactive,
    /// Throughput matters, not latency; first to be preempted.
    Batch,
}

impl Priority {
    /// All of them, the first to be served first.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Interactive, Self::Batch];

    /// As in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Interactive => "interactive",
            Self::Batch => "batch",
        }
    }

    /// Place in [`Priority::ALL`].
    pub(super) fn index(self) -> usize {
        self as usize
    }
}

/// Set by the caller to stop a sequence; looked at before each step.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// Asks the engine to stop the sequence.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy (ties go to the lowest token id).
    pub temperature: f64,
    /// 0 is off.
    pub top_k: usize,
    /// 1 is off.
    pub top_p: f64,
    /// 1 is off; over prompt and answer, as in CTRL (arXiv 1909.05858) and transformers.
    pub repetition_penalty: f64,
    /// Draw `n` of the answer depends on the seed and `n` only.
    pub seed: u64,
}

impl Sampling {
    /// Whether the most likely token is always taken, with no regard to what was written before.
    pub(super) fn takes_the_most_likely(&self) -> bool {
        // Parameters are validated where requests enter; what makes no sense here counts as off.
        let greedy = self.temperature.is_nan() || self.temperature <= 0.0;
        greedy && !self.penalises()
    }

    /// Whether tokens that were written before are made less likely.
    pub(super) fn penalises(&self) -> bool {
        let penalty = self.repetition_penalty;
        penalty.is_finite() && penalty > 0.0 && penalty != 1.0
    }

    /// The most likely token, always.
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

/// Looks at each generated token and says when the answer is complete (stop strings).
pub trait StopCondition: Send {
    /// Takes the next token; `true` ends the sequence with [`FinishReason::Stop`].
    fn push(&mut self, token: u32) -> bool;
}

/// Reads log-probabilities at the position after the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Tokens whose log-probability is wanted; outside the vocabulary it is negative infinity.
    pub tokens: Vec<u32>,
    /// When the most likely token is one of these, it is reported and the sequence ends there, with no
    /// decode step ([`FinishReason::Probe`]). With `max_new_tokens` 0 there is no token event for it.
    pub finish_on: Vec<u32>,
}

/// What to produce after the prompt.
pub struct OutputSpec {
    /// 0 = prefill only.
    pub max_new_tokens: usize,
    /// Tokens that end the answer; they are not reported as tokens.
    pub eos: Arc<[u32]>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Report each token's log-probability, with this many alternatives.
    pub logprobs: Option<usize>,
    /// Read the distribution after the prompt.
    pub probe: Option<Probe>,
    /// Report the score of the prompt, and end there: of models that have a score instead of logits.
    pub score: bool,
    /// Ends the answer from outside.
    pub stop: Option<Box<dyn StopCondition>>,
    /// Keep the prompt's full blocks in the prefix cache for good.
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

    /// Nothing; the prompt is computed, and stays in the prefix cache for good.
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
    /// Which model.
    pub model: ModelIndex,
    /// Which of its adapters, if any.
    pub adapter: Option<AdapterIndex>,
    /// Prompt tokens; at least one.
    pub prompt: Vec<u32>,
    /// What to produce.
    pub output: OutputSpec,
    /// Queue class.
    pub priority: Priority,
    /// On whose account.
    pub tenant: Tenant,
    /// No step is taken for the sequence after this.
    pub deadline: Option<Instant>,
    /// Stops the sequence.
    pub cancel: CancelFlag,
    /// Hears the sequence's events, on the engine's thread; must not block.
    pub events: EventSink,
}

/// Receives a sequence's events in order; `false` says that nobody listens any more, which cancels it.
pub type EventSink = Box<dyn FnMut(Event) -> bool + Send>;

/// What happens to a sequence: Started, Probe?, Score?, Token*, then exactly one of Finished and Failed. A sequence
/// that fails in the queue has no Started.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Its first forward pass begins.
    Started {
        /// Time spent in the queue.
        queue: Duration,
        /// Prompt tokens found in the prefix cache.
        cached_tokens: usize,
    },
    /// The distribution after the prompt.
    Probe(ProbeResult),
    /// The score of the prompt.
    Score(f32),
    /// The next token of the answer.
    Token(TokenEvent),
    /// The end.
    Finished(SequenceSummary),
    /// The end, without an answer.
    Failed(SequenceError),
}

/// The distribution after the prompt, in f64 log-softmax over the whole vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeResult {
    /// Natural log-probabilities, in the order of [`Probe::tokens`].
    pub logprobs: Vec<f64>,
    /// The most likely token.
    pub greedy: u32,
}

/// A generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenEvent {
    /// Its id.
    pub id: u32,
    /// Its log-probability, when asked for.
    pub logprobs: Option<TokenLogprobs>,
}

/// Log-probabilities at one position, before temperature and penalties.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// Of the token that was chosen.
    pub chosen: f64,
    /// The most likely tokens, best first.
    pub top: Vec<(u32, f64)>,
}

/// Why a sequence ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// The model wrote an end token.
    Eos,
    /// `max_new_tokens` were written (also for prefill only).
    MaxTokens,
    /// The [`StopCondition`] said so.
    Stop,
    /// The model's window is full.
    ContextWindow,
    /// The probe's most likely token was one of `finish_on`.
    Probe,
}

/// Counts and times of a finished sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct SequenceSummary {
    /// Why it ended.
    pub reason: FinishReason,
    /// Prompt tokens.
    pub prompt_tokens: usize,
    /// Token events sent.
    pub completion_tokens: usize,
    /// Prompt tokens found in the prefix cache when it started.
    pub cached_tokens: usize,
    /// Forward passes it took part in.
    pub forward_passes: usize,
    /// Most sequences in one of them.
    pub max_batch_size: usize,
    /// Admission to first forward pass.
    pub queue: Duration,
    /// First forward pass to the logits of the last prompt token.
    pub prefill: Duration,
    /// From there to the end.
    pub decode: Duration,
}

/// Where a sequence was when its time ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Before its first forward pass.
    Queue,
    /// Computing its prompt.
    Prefill,
    /// Writing its answer.
    Decode,
}

/// Why a sequence ended without an answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SequenceError {
    /// The caller's flag, or nobody listens.
    #[error("cancelled by the client")]
    Cancelled,
    /// Its deadline passed.
    #[error("deadline exceeded")]
    DeadlineExceeded {
        /// Where it was.
        stage: Stage,
    },
    /// A logit was NaN or positive infinity, or all were negative infinity (a single one is a mask): no
    /// verdict or token may come from such a row.
    #[error("the model produced a value that is not a number")]
    NumericFault,
    /// The forward pass failed.
    #[error("the model failed: {0}")]
    ModelFailed(String),
    /// The engine panicked in the step this sequence was part of, and has restarted.
    #[error("the engine stopped unexpectedly and was restarted")]
    EnginePanicked,
    /// The engine is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// Its model was removed.
    #[error("the model was unloaded")]
    ModelRemoved,
    /// Its deadline would have passed before it could be answered, so nothing was computed for it.
    #[error("an answer takes at least {predicted:?}, the deadline is in {remaining:?}")]
    DeadlineUnattainable {
        /// Least time to its end.
        predicted: Duration,
        /// How much of that is waiting for what the same tenant has sent before.
        wait: Duration,
        /// Time to the deadline.
        remaining: Duration,
        /// When to try again; absent when it would be late even alone.
        retry_after: Option<Duration>,
    },
}

/// Why a sequence was not queued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue is full in items or tokens.
    #[error("the queue is full")]
    QueueFull {
        /// When to try again, from the engine's recent speed.
        retry_after: Duration,
    },
    /// The prompt leaves no room in the model's window for one more token (or exceeds it, for prefill only).
    #[error("the prompt has {tokens} tokens, the limit is {limit}")]
    PromptTooLong {
        /// Prompt tokens.
        tokens: usize,
        /// Most prompt tokens that can be taken.
        limit: usize,
    },
    /// No prompt tokens.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A prompt token is not in the vocabulary.
    #[error("token {token} at position {position} is not in the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// Its place in the prompt.
        position: usize,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// Alone in the pool it still would not fit.
    #[error("needs {needed} KV blocks, the pool has {available} for it")]
    CannotFit {
        /// Blocks for the whole sequence.
        needed: usize,
        /// Blocks in the pool that are not pinned.
        available: usize,
    },
    /// Its deadline has passed already.
    #[error("deadline exceeded")]
    DeadlineExceeded,
    /// The engine takes nothing new.
    #[error("the server is draining")]
    Draining,
    /// The model was removed, or is about to be.
    #[error("the model is unloaded")]
    ModelRemoved,
    /// The engine's thread is gone.
    #[error("the engine is not running")]
    EngineGone,
}
