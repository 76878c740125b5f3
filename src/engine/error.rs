//! Why a sequence was refused, why it ended without an answer, and why a model was not added.

use std::{io, sync::Arc, time::Duration};

/// What a sequence was doing when its deadline passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// It had not begun its first forward pass.
    Queue,
    /// It was computing its prompt.
    Prefill,
    /// It was writing its answer.
    Decode,
}

/// Why a sequence ended without an answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SequenceError {
    /// The caller set its cancel flag, or stopped listening.
    #[error("cancelled by the client")]
    Cancelled,
    /// Its deadline passed.
    #[error("deadline exceeded")]
    DeadlineExceeded {
        /// What it was doing then.
        stage: Stage,
    },
    /// A logit was NaN or positive infinity, or all were negative infinity (a single one is a mask). No verdict or
    /// token may come from such a row.
    #[error("the model produced a value that is not a number")]
    NumericFault,
    /// The forward pass failed.
    #[error("the model failed: {0}")]
    ModelFailed(String),
    /// The device is lost: no sequence of any of its models can be computed any more.
    #[error("the device is lost: {0}")]
    DeviceLost(Arc<str>),
    /// A step of its model panicked, and the model is stopped until it is loaded again.
    #[error("the model stopped unexpectedly")]
    ModelPanicked,
    /// The engine is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// Its model was removed.
    #[error("the model was unloaded")]
    ModelRemoved,
    /// Its deadline would have passed before it could be answered, so nothing was computed for it.
    #[error("an answer takes at least {:?}, the deadline is in {:?}", .0.predicted, .0.remaining)]
    DeadlineUnattainable(LateAnswer),
}

/// An answer that would come after its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LateAnswer {
    /// Time until the answer: the expected one on arrival, the least one for a sequence that was queued.
    pub predicted: Duration,
    /// The part of `predicted` that is spent waiting for earlier requests of the same tenant.
    pub wait: Duration,
    /// Time until the deadline.
    pub remaining: Duration,
    /// When to try again; absent when the answer would be late even with the device to itself.
    pub retry_after: Option<Duration>,
}

/// Why a sequence was not queued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue has reached its bound of sequences or of prompt tokens.
    #[error("the queue is full")]
    QueueFull {
        /// When to try again, estimated from the engine's recent speed.
        retry_after: Duration,
    },
    /// The prompt leaves no room in the model's context window for one more token, or, for a prefill without an
    /// answer, exceeds the window.
    #[error("the prompt has {tokens} tokens, the limit is {limit}")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Most prompt tokens that the model accepts.
        limit: usize,
    },
    /// The prompt has no tokens.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A prompt token is not in the vocabulary.
    #[error("token {token} at position {position} is not in the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// Id of the token.
        token: u32,
        /// Its position in the prompt, from 0.
        position: usize,
        /// Tokens in the vocabulary.
        vocab_size: usize,
    },
    /// The sequence would not fit into the KV pool even if it ran alone.
    #[error("needs {needed} KV blocks, the pool has {available} for it")]
    CannotFit {
        /// Blocks for the whole sequence.
        needed: usize,
        /// Blocks in the pool that are not pinned.
        available: usize,
    },
    /// Its deadline had already passed.
    #[error("deadline exceeded")]
    DeadlineExceeded,
    /// Its deadline would most likely pass before it could be answered, so it was not queued.
    #[error("an answer takes about {:?}, the deadline is in {:?}", .0.predicted, .0.remaining)]
    DeadlineUnattainable(LateAnswer),
    /// The engine accepts no new sequences.
    #[error("the server is draining")]
    Draining,
    /// The device is lost.
    #[error("the device is lost: {0}")]
    DeviceLost(Arc<str>),
    /// The model has been removed, or is being removed.
    #[error("the model is unloaded")]
    ModelRemoved,
    /// A step of the model has panicked, and it computes nothing more.
    #[error("the model has stopped unexpectedly and must be loaded again")]
    ModelStopped,
    /// The engine's thread has ended.
    #[error("the engine is not running")]
    EngineGone,
}

/// Why a model could not be added.
#[derive(Debug, thiserror::Error)]
pub enum AddModelError {
    /// One of its limits is not usable.
    #[error("{0}")]
    Limits(io::Error),
    /// The engine is draining or has ended.
    #[error("the engine accepts nothing new")]
    Closed,
    /// The device is lost.
    #[error("the device is lost: {0}")]
    DeviceLost(Arc<str>),
}
