//! Which part of a prompt set a run asks.

use serde::{Deserialize, Serialize};

use super::taxonomy::{Category, Language};

/// How many rows of the set a run takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowLimit {
    /// All of them.
    All,
    /// The first so many, in the order of the file.
    First(usize),
    /// The first so many of each category.
    PerCategory(usize),
}

/// What to take from a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Empty: all languages of the set.
    pub languages: Vec<Language>,
    /// Empty: all categories.
    pub categories: Vec<Category>,
    /// Applied after `categories`.
    pub limit: RowLimit,
}
