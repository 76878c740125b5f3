//! Guard models: exact prompts, verdict tokens, scores and parsing. This layer knows tokens and probe results, and nothing of
//! the network.
//!
//! Conversations as callers send them (`sent_message.rs`) become the turns that guards know in `normalise.rs`, and messages that are
//! too long are cut in `windows.rs`. [`Guard`] (`judge.rs`) builds prompts from conversations and policies (`policy.rs`), and reads
//! verdicts (`verdict.rs`, and `verdict_reader.rs` of guards that have heads in place of text). Which prompt a model has is its
//! [`GuardKind`] (`kind.rs`); each family of prompts has a file in `kinds/`, in the words of `question.rs`.
//!
//! A guard that computes elsewhere is sent the same prompt, as a text only if no message spells a special token (`spelled.rs`), and its
//! verdict is read from what it lists of its answer (`listed.rs`).
//!
//! Which part of a text its verdict is for is looked for in `evidence.rs`; `renderings.rs` joins the verdicts on a conversation in
//! several languages. A text that grows is looked at where `growing.rs` says, and released by the rules of `release.rs`. What is done about a verdict
//! is a decision policy's matter (`decision.rs`).

mod category_tree;
mod decision;
mod decision_set;
mod decision_text;
mod error;
mod evidence;
mod growing;
mod judge;
mod kind;
mod kinds;
mod listed;
mod normalise;
mod policy;
mod policy_file;
mod question;
mod release;
mod renderings;
mod sent_message;
mod spelled;
#[cfg(test)]
mod tests;
mod verdict;
mod verdict_reader;
mod windows;

pub use category_tree::{Branch, CategoryTree};
pub use decision::{Classified, Decision, DecisionPolicy, JudgedVerdict, Judgement, Reason, Subject};
pub use decision_set::{DecisionSet, NotAdded};
pub use decision_text::{
    Action, ClassifierRule, DecisionPolicyText, PredictionRules, Rules, Scale, Thresholds, is_language_tag,
};
pub use error::{GuardError, PromptError};
pub use evidence::{Evidence, EvidenceSearch, Remainder, SearchStep, Span, without};
pub use growing::{CADENCE_TOKENS, Cadence, GrowingText, LookPlanner, NotUtf8};
pub use judge::Guard;
pub use kind::{GuardEvidence, GuardKind, model_names};
pub use listed::{Listed, ListedAnswer, ListedPosition, ListedProblem, ListedVerdict};
pub use normalise::{
    ConversationExtent, ConversationForm, JudgeScope, LeftOut, MessagePlace, MessageUse, NothingToJudge,
    ScopeProblem, SystemMessages, TurnPlan, judged_ends,
};
pub use policy::{MAX_CATEGORIES, Policy, PolicyCategory, PolicyProblem};
pub use policy_file::{PolicyFileError, read_decision_policy, read_policy};
pub use question::{JudgedRole, Label, Refusal};
pub use release::{
    CONFIRMATIONS, Course, FailureMode, GuardMode, LookOutcome, LookStage, Release, ReleaseRules,
};
pub use renderings::{Agreement, RenderingRule, agree};
pub use sent_message::{
    ContentKind, MAX_PARTS, MAX_TOOL_CALLS, MessageBody, MessagePart, SentMessage, Speaker, ToolCall,
    judged_role,
};
pub use verdict::Verdict;
pub use windows::{LEAST_WINDOW_TOKENS, MAX_WINDOWS, TextWindow, WindowError, WindowRules, Windowed};
