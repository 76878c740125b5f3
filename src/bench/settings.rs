//! What a run was asked to do, as it stands in `run.json`.

use serde::{Deserialize, Serialize};

use super::{dataset::Dataset, plan::Selection};

/// What kind of verdicts a run yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    /// A guard that was trained as one.
    Benchmark,
    /// A stand-in guard: the mechanism is real, the verdicts mean nothing.
    MechanismDemo,
}

/// Settings of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSettings {
    /// What kind of verdicts to expect.
    pub kind: RunKind,
    /// Model id of the target; empty = the server's default.
    pub target: String,
    /// Model id of the guard; empty = the server's default.
    pub guard: String,
    /// What was taken from the prompt set.
    pub selection: Selection,
    /// Most tokens of an answer.
    pub max_new_tokens: u32,
    /// Sampling temperature; 0 is greedy.
    pub temperature: f64,
    /// Nucleus sampling; 1 is off.
    pub top_p: f64,
    /// What the items' seeds are made from.
    pub seed: u64,
    /// Most items that are open at a time. No result depends on it.
    pub concurrency: usize,
}

/// The prompt set of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetInfo {
    /// File name.
    pub name: String,
    /// `sha256:<hex>` of the file.
    pub digest: String,
    /// Rows of the whole set.
    pub rows: usize,
}

impl From<&Dataset> for DatasetInfo {
    fn from(dataset: &Dataset) -> Self {
        Self {
            name: dataset.name.clone(),
            digest: dataset.digest.clone(),
            rows: dataset.rows.len(),
        }
    }
}
