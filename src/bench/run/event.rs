//! What a run reports while it goes on.

use crate::bench::{results::Label, taxonomy::Language};

/// Something that happened in a run, for progress displays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BenchEvent {
    /// An item has a result, or a further guard has judged it.
    Ended {
        /// The language of the item's prompt.
        language: Language,
        /// The verdict; `None` when the item or the judgement failed.
        label: Option<Label>,
        /// Tokens that the server computed for it: prompts and completions of target and guard, less those from the cache.
        computed_tokens: u64,
    },
}
