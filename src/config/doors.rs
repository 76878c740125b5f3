//! What callers of the HTTP port get whose protocol does not say it, as the configuration says it.

use super::value::{Raw, Setting};

/// What callers of the HTTP port get whose protocol does not say it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DoorSettings {
    /// The guard that is asked: the configured one, or the only one. `None` where there are several, or none.
    pub guard: Option<String>,
    /// Whether every answer of chat completions and completions has this guard, unless its request names another.
    pub guards_answers: bool,
    /// What a guardrail caller is told when there is no verdict.
    pub on_failure: OnFailure,
    /// From 0 to 1: a verdict counts as unsafe at or above it. When absent, the guard's own label counts.
    pub unsafe_score: Option<f64>,
    /// What decides about verdicts, as NAME or NAME@VERSION. When absent, the server's default policy, if there is one.
    pub decision_policy: Option<String>,
    /// Whether there is a page for people at the root.
    pub page: bool,
}

/// What a guardrail caller is told when there is no verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum OnFailure {
    /// That it failed, in the way in which its protocol stops the text.
    #[default]
    Closed,
    /// That the text passes, and that there was no verdict.
    Open,
}

impl Setting for OnFailure {
    const EXPECTS: &'static str = "write closed or open";

    fn parse(raw: &Raw) -> Option<Self> {
        match raw.text()? {
            "closed" => Some(Self::Closed),
            "open" => Some(Self::Open),
            _ => None,
        }
    }

    fn placeholder() -> Self {
        Self::Closed
    }
}
