//! What one check of `doctor` found.

/// How a check went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing has to be done.
    Ok,
    /// It works, but something should be mended: the fix.
    Warn(String),
    /// It does not work: the fix.
    Fail(String),
}

/// What one check found, and how it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    /// What was checked.
    pub(super) name: String,
    /// What is there.
    pub(super) found: String,
    pub(super) outcome: Outcome,
}

impl Check {
    pub(super) fn new(name: &str, found: impl Into<String>, outcome: Outcome) -> Self {
        Self {
            name: name.to_owned(),
            found: found.into(),
            outcome,
        }
    }
}
