//! The policy by which guards are to judge.

use serde::{Deserialize, Serialize};

use super::{channel::Client, error::ClientError};
use crate::proto::{
    self, ConfiguredDecisionPolicy, ConfiguredPolicy, ListPoliciesRequest, ListPoliciesResponse,
    answer_guard, classify_request, guard_start, judge_options, safety_service_client::SafetyServiceClient,
};

/// The policy by which guards are to judge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyChoice {
    /// The categories that each guard was trained on.
    #[default]
    Native,
    /// The policy that the server has under this name.
    Named(String),
    /// A policy that is sent with each request.
    Inline(PolicyText),
}

/// A policy as it is written in the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyText {
    /// The name by which verdicts refer to it.
    pub name: String,
    /// The categories, in the order in which they are in the guard's prompt.
    pub categories: Vec<CategoryText>,
}

/// One category of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CategoryText {
    /// The code, `S1` to `S99`.
    pub code: String,
    /// The name, in one line.
    pub name: String,
    /// What belongs to the category; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

impl Client {
    /// The policies of the server, in the order of their names.
    ///
    /// # Errors
    /// [`ClientError::Rpc`].
    pub async fn policies(&self) -> Result<Vec<ConfiguredPolicy>, ClientError> {
        Ok(self.list_policies().await?.policies)
    }

    /// The decision policies of the server, in the order of their names and versions.
    ///
    /// # Errors
    /// [`ClientError::Rpc`].
    pub async fn decision_policies(&self) -> Result<Vec<ConfiguredDecisionPolicy>, ClientError> {
        Ok(self.list_policies().await?.decision_policies)
    }

    async fn list_policies(&self) -> Result<ListPoliciesResponse, ClientError> {
        self.unary(ListPoliciesRequest {}, async |channel, request| {
            SafetyServiceClient::new(channel).list_policies(request).await
        })
        .await
    }
}

impl PolicyChoice {
    /// Whether guards judge by the categories that they were trained on.
    pub fn is_native(&self) -> bool {
        *self == Self::Native
    }

    /// The name by which verdicts refer to it; `None` for the guards' own categories.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Native => None,
            Self::Named(name) => Some(name),
            Self::Inline(policy) => Some(&policy.name),
        }
    }

    /// Whether a verdict says that it follows this policy. Verdicts of a server without policies do not.
    pub fn is_followed_by(&self, verdict: &proto::Verdict) -> bool {
        let followed = verdict.provenance.as_ref().map_or("", |p| p.policy.as_str());
        followed == self.name().unwrap_or_default()
    }

    /// The field of a Classify request.
    pub fn for_classify(&self) -> Option<classify_request::PolicySource> {
        match self {
            Self::Native => None,
            Self::Named(name) => Some(classify_request::PolicySource::Policy(name.clone())),
            Self::Inline(policy) => Some(classify_request::PolicySource::InlinePolicy(policy.to_proto())),
        }
    }

    /// The field of a GuardStream's start.
    pub fn for_guard(&self) -> Option<guard_start::PolicySource> {
        match self {
            Self::Native => None,
            Self::Named(name) => Some(guard_start::PolicySource::Policy(name.clone())),
            Self::Inline(policy) => Some(guard_start::PolicySource::InlinePolicy(policy.to_proto())),
        }
    }

    /// The field of an answer's guard.
    pub fn for_answer(&self) -> Option<answer_guard::PolicySource> {
        match self {
            Self::Native => None,
            Self::Named(name) => Some(answer_guard::PolicySource::Policy(name.clone())),
            Self::Inline(policy) => Some(answer_guard::PolicySource::InlinePolicy(policy.to_proto())),
        }
    }

    /// The field of a Score request.
    pub fn for_score(&self) -> Option<judge_options::PolicySource> {
        match self {
            Self::Native => None,
            Self::Named(name) => Some(judge_options::PolicySource::Policy(name.clone())),
            Self::Inline(policy) => Some(judge_options::PolicySource::InlinePolicy(policy.to_proto())),
        }
    }
}

impl PolicyText {
    fn to_proto(&self) -> proto::Policy {
        let category = |category: &CategoryText| proto::PolicyCategory {
            code: category.code.clone(),
            name: category.name.clone(),
            description: category.description.clone(),
        };
        proto::Policy {
            name: self.name.clone(),
            categories: self.categories.iter().map(category).collect(),
        }
    }
}
