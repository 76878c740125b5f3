//! Why a run stops before its end. Whatever it is, what has been judged is kept.

use std::time::Duration;

use crate::{
    bench::{
        journal::JournalError,
        results::{FolderError, ModelProvenance},
    },
    client::{ClientError, RpcError},
};

/// Why a run cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The connection, or a refusal that concerns the whole run.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The journal cannot be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Another file of the folder cannot.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The server takes no items, and has not for a while.
    #[error("no item was answered for {}; last: {last}", seconds(.waited))]
    GaveUp {
        /// For so long.
        waited: Duration,
        /// What it says.
        last: RpcError,
    },
    /// Answers of two different models do not belong into one run.
    #[error(
        "`{}` is not the model that this run began with: {}, now {}. Serve the model as it was to go on",
        .is.model, identity(.was), identity(.is)
    )]
    ModelChanged {
        /// That began.
        was: Box<ModelProvenance>,
        /// That answers now.
        is: Box<ModelProvenance>,
    },
    /// The server does not know policies, or judged by another one.
    #[error(
        "the guard judged by {}, not by {}, as it was asked to: is the server older than this client?",
        by(.followed), by(.asked)
    )]
    PolicyIgnored {
        /// By name; empty for the guard's own.
        asked: String,
        /// The same.
        followed: String,
    },
    /// What the plan file holds is not what `run.json` says.
    #[error("{0} is not the plan that this run began with")]
    OtherPlan(std::path::PathBuf),
    /// Results that cannot be judged again item by item.
    #[error("{0} has not every item of the plan once with every seed, so it cannot be judged again")]
    OtherResults(std::path::PathBuf),
    /// What was asked by nobody here cannot be gone on with.
    #[error("the run in {0} was {1}: there is nothing to resume in it")]
    NothingToResume(std::path::PathBuf, &'static str),
    /// Prompts without texts cannot be judged again.
    #[error("{0} of the run's prompts have no text, so there is nothing to judge again")]
    NoPrompts(usize),
    /// Answers without texts cannot be judged again.
    #[error("{0} of the run's answers have no text, so there is nothing to judge again")]
    NoTexts(usize),
}

fn seconds(duration: &Duration) -> String {
    format!("{} s", duration.as_secs())
}

fn by(policy: &str) -> String {
    match policy {
        "" => "its own categories".to_owned(),
        name => format!("policy `{name}`"),
    }
}

fn identity(model: &ModelProvenance) -> String {
    let short = |digest: &str| digest.chars().take(19).collect::<String>();
    let policy = match model.policy_digest.as_str() {
        "" => String::new(),
        digest => format!(", policy {} {}", model.policy, short(digest)),
    };
    format!(
        "weights {}, template {}, {} {}{policy}",
        short(&model.model_digest),
        short(&model.template_digest),
        model.dtype,
        model.precision
    )
}
