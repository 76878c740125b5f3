//! A summary of the plan of a run.

use serde::{Deserialize, Serialize};

/// A summary of the plan of a run, whose items are in `plan.jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanInfo {
    /// `sha256:<hex>` of the plan's lines, over all shards; empty in imported results.
    pub digest: String,
    /// Number of prompts, each language counted; for a shard, those of the shard.
    pub items: usize,
    /// Number of rows, which are prompts with all their languages together.
    pub rows: usize,
}
