//! What the person who imports says of a file of verdicts.

use crate::bench::settings::Controversial;

/// Which rows of a file are imported, and what its columns leave open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// Import the rows of this model only; rows that name no model are taken to be this model's.
    pub model: Option<String>,
    /// The guard of the rows that name none.
    pub guard: Option<String>,
    /// Import rows of prompts by this translator only, and rows that name no translator: these are in the language that was
    /// translated from.
    pub translator: Option<String>,
    /// What the label "controversial" counts as.
    pub controversial: Controversial,
}
