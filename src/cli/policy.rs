//! Flags that choose the policy by which a guard judges.

use std::path::PathBuf;

use super::CommandError;
use crate::{
    client::{CategoryText, ClientError, PolicyChoice, PolicyText},
    guard::{PolicyCategory, read_policy},
    proto::Verdict,
};

/// The policy by which a guard judges.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub(super) struct PolicyArgs {
    /// Judge by this policy of the server's, instead of the categories that the guard was trained on
    #[arg(long, value_name = "NAME", conflicts_with = "policy_file")]
    policy: Option<String>,
    /// Judge by the policy in this TOML or JSON file (see docs/policies.md)
    #[arg(long, value_name = "FILE")]
    policy_file: Option<PathBuf>,
}

/// Refuses a verdict that was made by another policy than the one that was asked for.
pub(super) fn check_policy(policy: &PolicyChoice, verdict: &Verdict) -> Result<(), ClientError> {
    if policy.is_followed_by(verdict) {
        return Ok(());
    }
    Err(ClientError::Protocol(
        "the verdict does not follow the policy that was asked for: is the server older than this client?"
            .to_owned(),
    ))
}

impl PolicyArgs {
    /// The policy that the flags choose. A file is checked here, so that everything wrong in it is reported before anything is
    /// sent.
    pub(super) fn choice(&self) -> Result<PolicyChoice, CommandError> {
        if let Some(name) = &self.policy {
            return Ok(PolicyChoice::Named(name.clone()));
        }
        let Some(path) = &self.policy_file else {
            return Ok(PolicyChoice::Native);
        };
        let policy = read_policy(path).map_err(CommandError::invalid_data)?;
        let category = |category: &PolicyCategory| CategoryText {
            code: category.code.clone(),
            name: category.name.clone(),
            description: category.description.clone(),
        };
        Ok(PolicyChoice::Inline(PolicyText {
            name: policy.name().to_owned(),
            categories: policy.categories().iter().map(category).collect(),
        }))
    }
}
