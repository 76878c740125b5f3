//! What a caller hears of its sequence.

use std::time::Duration;

use super::error::SequenceError;

/// Receives a sequence's events in order, on the engine's thread. Returning `false` says that nobody listens any more,
/// which cancels the sequence.
pub type EventSink = Box<dyn FnMut(Event) -> bool + Send>;

/// What happens to a sequence, in this order: Started, at most one Probe, at most one Score, any number of Tokens, then
/// exactly one of Finished and Failed. A probe of every token comes before each Token. A sequence that fails in the queue has no Started.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Its first forward pass begins.
    Started {
        /// Time spent in the queue.
        queue: Duration,
        /// Prompt tokens found in the prefix cache.
        cached_tokens: usize,
    },
    /// The distribution after the prompt, or after a token of the answer.
    Probe(ProbeResult),
    /// The score of the prompt.
    Score(f32),
    /// The next token of the answer.
    Token(TokenEvent),
    /// The sequence ended with its answer complete.
    Finished(SequenceSummary),
    /// The sequence ended without an answer.
    Failed(SequenceError),
}

/// The distribution at a position, in f64 log-softmax over the whole vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeResult {
    /// Natural log-probabilities, in the order of [`Probe::tokens`](super::Probe::tokens).
    pub logprobs: Vec<f64>,
    /// The most likely token.
    pub greedy: u32,
}

/// A generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenEvent {
    /// Id of the token in the vocabulary.
    pub id: u32,
    /// Log-probabilities at its position, when the request wants them.
    pub logprobs: Option<TokenLogprobs>,
}

/// Natural log-probabilities at one position, before temperature and penalties.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// Log-probability of the token that was chosen.
    pub chosen: f64,
    /// The most likely tokens with their log-probabilities, best first.
    pub top: Vec<(u32, f64)>,
}

/// Why an answer is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// The model chose an end token.
    Eos,
    /// `max_new_tokens` tokens were written. A prefill without an answer ends with this too.
    MaxTokens,
    /// The [`StopCondition`](super::StopCondition) was met.
    Stop,
    /// The model's context window is full.
    ContextWindow,
    /// The probe's most likely token was one of `finish_on`.
    Probe,
    /// The caller has ended it where it was, by [`CancelFlag::cut`](super::CancelFlag::cut). It may not have begun.
    Cut,
}

/// Counts and times of a finished sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct SequenceSummary {
    /// Why it ended.
    pub reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Token events sent.
    pub completion_tokens: usize,
    /// Prompt tokens found in the prefix cache when it started.
    pub cached_tokens: usize,
    /// Forward passes it took part in.
    pub forward_passes: usize,
    /// Most sequences in one of those passes.
    pub max_batch_size: usize,
    /// Time from submission to its first forward pass.
    pub queue: Duration,
    /// Time from its first forward pass to the logits of the last prompt token.
    pub prefill: Duration,
    /// Time from those logits to its end.
    pub decode: Duration,
}
