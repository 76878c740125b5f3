//! Guard models: exact prompts, verdict tokens, scores and parsing. This layer knows tokens and probe results, and nothing of
//! the network.
//!
//! [`Guard`] (`judge.rs`) builds prompts (`prompt.rs`) from conversations and policies (`policy.rs`), and reads verdicts
//! (`verdict.rs`). A text that grows is looked at where `growing.rs` says, and released by the rules of `release.rs`.

mod error;
mod growing;
mod judge;
mod policy;
mod policy_file;
mod prompt;
mod release;
#[cfg(test)]
mod tests;
mod verdict;

pub use error::{GuardError, PromptError};
pub use growing::{CADENCE_TOKENS, Cadence, GrowingText, LookPlanner, NotUtf8};
pub use judge::{Guard, GuardKind};
pub use policy::{MAX_CATEGORIES, Policy, PolicyCategory, PolicyProblem};
pub use policy_file::{PolicyFileError, read_policy};
pub use release::{
    CONFIRMATIONS, Course, FailureMode, GuardMode, LookOutcome, LookStage, Release, ReleaseRules,
};
pub use verdict::{Label, Verdict};
