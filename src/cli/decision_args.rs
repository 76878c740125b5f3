//! The flags about what is done about a verdict, and how a decision is shown.

use super::output::{Color, painted};
use crate::{
    client::ClientError,
    proto::{Action, Decision},
};

/// By what it is decided about a verdict.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
pub(super) struct DecisionArgs {
    /// Decide by this decision policy of the server's, as NAME or NAME@VERSION, instead of its default one
    #[arg(
        id = "decision",
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) policy: String,
    /// Language of the text, such as de or pt-BR, for decision policies with thresholds for languages
    #[arg(long, value_name = "TAG", default_value = "", hide_default_value = true)]
    pub(super) language: String,
}

impl DecisionArgs {
    /// Checks that an answer has the decision that was asked for.
    pub(super) fn check(&self, decision: Option<&Decision>) -> Result<(), ClientError> {
        if decision.is_none() && !self.policy.is_empty() {
            let reason = "the answer has no decision, although one was asked for: is the server older than this client?";
            return Err(ClientError::Protocol(reason.to_owned()));
        }
        Ok(())
    }
}

/// `BLOCK by chat@3`.
pub(super) fn shown(decision: &Decision, no_color: bool) -> String {
    let (action, color) = match decision.action() {
        Action::Allow => ("ALLOW", Color::Green),
        Action::Flag => ("FLAG", Color::Yellow),
        Action::Block | Action::Unspecified => ("BLOCK", Color::Red),
    };
    let action = painted(action, color, no_color);
    let calibrated = decision
        .calibrated_probability
        .map(|probability| format!(" (calibrated {probability:.4})"));
    format!(
        "{action} by {}@{}{}",
        decision.policy,
        decision.policy_version,
        calibrated.unwrap_or_default()
    )
}
