//! Why a run cannot begin or go on. Whatever the reason, recorded results are kept.

use std::time::Duration;

use crate::{
    bench::{
        journal::JournalError,
        plan::PlanError,
        results::{FolderError, ModelProvenance},
        settings::Shard,
    },
    client::{ClientError, RpcError},
};

/// Why a run cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The connection failed, or the server refused something that concerns the whole run.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The journal cannot be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Another file of the run's folder cannot be read or written.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The server has given no result for as long as the run was to go on trying.
    #[error("no item was answered for {}; last: {last}", seconds(.waited))]
    GaveUp {
        /// How long the run has tried.
        waited: Duration,
        /// The server's last error.
        last: RpcError,
    },
    /// Another model answers than the one that the run began with.
    #[error(
        "`{}` is not the model that this run began with: {}, now {}. Serve the model as it was to go on",
        .is.model, identity(.was), identity(.is)
    )]
    ModelChanged {
        /// The model that the run began with.
        was: Box<ModelProvenance>,
        /// The model that answers now.
        is: Box<ModelProvenance>,
    },
    /// The guard judged by another policy than it was asked to.
    #[error(
        "the guard judged by {} instead of {}, which the run asked for: is the server older than this client?",
        policy_name(.followed), policy_name(.asked)
    )]
    PolicyIgnored {
        /// Name of the policy; empty for the guard's own categories.
        asked: String,
        /// The policy that it followed, named likewise.
        followed: String,
    },
    /// `plan.jsonl` does not fit the digest in `run.json`.
    #[error("{0} is not the plan that this run began with")]
    OtherPlan(std::path::PathBuf),
    /// The results are not one per item and seed of the plan, so they cannot be judged again.
    #[error("{0} has not every item of the plan once with every seed, so it cannot be judged again")]
    OtherResults(std::path::PathBuf),
    /// The run was imported or merged: there is nothing to ask in it.
    #[error("the run in {0} was {1}: there is nothing to resume in it")]
    NothingToResume(std::path::PathBuf, &'static str),
    /// Prompts whose texts the run does not hold cannot be judged again.
    #[error("{0} of the run's prompts have no text, so there is nothing to judge again")]
    NoPrompts(usize),
    /// Answers whose texts the run does not hold cannot be judged again.
    #[error("{0} of the run's answers have no text, so there is nothing to judge again")]
    NoTexts(usize),
    /// The prompt set or the selection gives nothing to ask.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The plan has fewer rows than there are shards.
    #[error("shard {shard} is empty: the plan has {rows} {}", if *.rows == 1 { "row" } else { "rows" })]
    EmptyShard {
        /// The shard that was asked for.
        shard: Shard,
        /// Rows of the whole plan.
        rows: usize,
    },
    /// The server does not have the policy that the run asks for.
    #[error("the server has no policy `{name}`; {}", policy_list(.served))]
    NoSuchPolicy {
        /// The policy that was asked for.
        name: String,
        /// Names of the server's policies.
        served: Vec<String>,
    },
}

fn seconds(duration: &Duration) -> String {
    format!("{} s", duration.as_secs())
}

fn policy_list(policies: &[String]) -> String {
    match policies {
        [] => "it has none".to_owned(),
        names => format!("it has {}", names.join(", ")),
    }
}

fn policy_name(policy: &str) -> String {
    match policy {
        "" => "its own categories".to_owned(),
        name => format!("policy `{name}`"),
    }
}

fn identity(model: &ModelProvenance) -> String {
    if !model.remote.is_empty() {
        return model.remote.clone();
    }
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
