//! What an endpoint is asked.

use serde::Serialize;

/// What the model reads.
#[derive(Debug, Clone, PartialEq)]
pub enum RemotePrompt {
    /// A conversation, which the endpoint turns into the model's prompt.
    Conversation(Vec<RemoteMessage>),
    /// Raw text. What is spelled like a special token may become one there.
    Text(String),
    /// Tokens of the model's own vocabulary.
    Tokens(Vec<u32>),
}

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RemoteMessage {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// The text.
    pub content: String,
}

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RemoteSampling {
    /// 0 is greedy.
    pub temperature: f64,
    /// 1 is off.
    pub top_p: f64,
    /// 0 is off.
    pub top_k: usize,
    /// At most `i64::MAX`, which is what engines accept.
    pub seed: u64,
}

/// A request for an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteRequest {
    /// What the model reads.
    pub prompt: RemotePrompt,
    /// How tokens are chosen.
    pub sampling: RemoteSampling,
    /// Most tokens of the answer.
    pub max_tokens: usize,
    /// Texts at which the answer ends, without them.
    pub stop: Vec<String>,
}

/// A request for the greedy answer with the log-probabilities of its tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct LogprobsRequest {
    /// What the model reads.
    pub prompt: RemotePrompt,
    /// How many of the most likely tokens of each position are wanted.
    pub top: usize,
    /// Most tokens of the answer.
    pub max_tokens: usize,
}
