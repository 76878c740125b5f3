//! Guard models: exact prompts, verdict tokens, scores and parsing. This layer knows tokens and probe results, and nothing of
//! the network.
//!
//! [`Guard`] (`judge.rs`) builds prompts from conversations and policies (`policy.rs`), and reads verdicts (`verdict.rs`). Which
//! prompt a model has is its [`GuardKind`] (`kind.rs`); each family of prompts has a file in `kinds/`, in the
//! words of `question.rs`.

mod error;
mod judge;
mod kind;
mod kinds;
mod policy;
mod policy_file;
mod question;
#[cfg(test)]
mod tests;
mod verdict;

pub use error::{GuardError, PromptError};
pub use judge::Guard;
pub use kind::{GuardEvidence, GuardKind, model_names};
pub use policy::{MAX_CATEGORIES, Policy, PolicyCategory, PolicyProblem};
pub use policy_file::{PolicyFileError, read_policy};
pub use question::{JudgedRole, Label, Refusal};
pub use verdict::Verdict;
