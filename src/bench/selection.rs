//! Which part of a prompt set a run asks.

use serde::{Deserialize, Serialize};

use super::taxonomy::{Category, Language};

/// How many rows of the set a run takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowLimit {
    /// All of them.
    All,
    /// The first rows, up to this many, in the order of the file.
    First(usize),
    /// The first rows of each category, up to this many.
    PerCategory(usize),
}

/// Which prompts of a set are asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// The languages; if empty, all languages of the set.
    pub languages: Vec<Language>,
    /// The categories; if empty, all of them.
    pub categories: Vec<Category>,
    /// How many rows are left, after rows of other categories were dropped.
    pub limit: RowLimit,
}
