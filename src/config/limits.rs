//! What a server lets its callers ask for and make it hold, and the deadlines of calls that bring none.

use std::{ops::RangeInclusive, time::Duration};

/// Times that may be between two heartbeats of a growing text. Shorter ones would be most of what is sent, and longer ones would not
/// keep a connection open.
pub const HEARTBEATS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(600);

/// Limits on requests. The defaults are the documented ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of an encoded request message. An item of a stream with up to twice this fails alone; a larger one ends
    /// its stream.
    pub message_bytes: usize,
    /// Most bytes of all requests that are being received or worked on, over all connections.
    pub request_bytes: usize,
    /// Most bytes of the content of one message, or of raw text.
    pub content_bytes: usize,
    /// Most messages of a conversation.
    pub messages: usize,
    /// Most prompt tokens that are sent as ids (the model's context window is usually smaller).
    pub token_ids: usize,
    /// Most items of a BatchClassify, and most pairs of an EstimateQuality.
    pub batch_items: usize,
    /// Most open items of a stream. At this number the server stops reading until one is answered.
    pub stream_open_items: usize,
    /// Most bytes of the id of an item or of a model.
    pub id_bytes: usize,
    /// Most stop sequences of a request.
    pub stop_sequences: usize,
    /// Most bytes of a stop sequence.
    pub stop_sequence_bytes: usize,
    /// Most alternatives for each position of an answer.
    pub top_n: u32,
    /// Most tokens of an answer.
    pub max_new_tokens: u32,
    /// Most tokens of an answer when the request names no number.
    pub default_new_tokens: u32,
    /// Most samples of a Score.
    pub samples: u32,
    /// Most calls that are open at the same time on one connection.
    pub connection_streams: u32,
    /// Most open connections.
    pub connections: usize,
    /// Most open calls over all connections.
    pub calls: usize,
    /// Bytes of memory for turning texts into tokens, for all calls together: three quarters for texts that are being worked
    /// on, and the rest for texts that wait.
    pub text_memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 8 << 20,
            request_bytes: 256 << 20,
            content_bytes: 256 << 10,
            messages: 64,
            token_ids: 256 << 10,
            batch_items: 256,
            stream_open_items: 256,
            id_bytes: 128,
            stop_sequences: 8,
            stop_sequence_bytes: 64,
            top_n: 20,
            max_new_tokens: 4096,
            default_new_tokens: 200,
            samples: 16,
            connection_streams: 512,
            connections: 1024,
            calls: 4096,
            text_memory: 512 << 20,
        }
    }
}

/// Deadlines for calls whose client sets none. Streams of items and WatchModels have none: they live for as long as their
/// client wants, and an item without a timeout waits for as long as its stream lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultDeadlines {
    /// Generate.
    pub generate: Duration,
    /// Classify. An 8B guard on a processor takes tens of seconds for a long conversation.
    pub classify: Duration,
    /// BatchClassify, ClassifyRenderings and FindEvidence.
    pub batch_classify: Duration,
    /// Score.
    pub score: Duration,
    /// EstimateQuality.
    pub estimate_quality: Duration,
    /// Unary calls of ModelService.
    pub models: Duration,
    /// Calls of AdminService. Reading a large model takes minutes.
    pub admin: Duration,
}

impl Default for DefaultDeadlines {
    fn default() -> Self {
        Self {
            generate: Duration::from_secs(120),
            classify: Duration::from_secs(60),
            batch_classify: Duration::from_secs(300),
            score: Duration::from_secs(180),
            estimate_quality: Duration::from_secs(300),
            models: Duration::from_secs(5),
            admin: Duration::from_secs(600),
        }
    }
}
