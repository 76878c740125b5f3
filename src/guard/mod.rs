//! Guard models: exact prompts, verdict tokens, scores and parsing. This layer knows tokens and probe results, and nothing of
//! the network.
//!
//! [`Guard`] (`judge.rs`) builds prompts (`prompt.rs`) from conversations and policies (`policy.rs`), and reads verdicts
//! (`verdict.rs`).

mod error;
mod judge;
mod policy;
mod policy_file;
mod prompt;
#[cfg(test)]
mod tests;
mod verdict;

pub use error::{GuardError, PromptError};
pub use judge::{Guard, GuardKind};
pub use policy::{MAX_CATEGORIES, Policy, PolicyCategory, PolicyProblem};
pub use policy_file::{PolicyFileError, read_policy};
pub use verdict::{Label, Verdict};
