//! The policy that guards are asked to judge by.

use serde::{Deserialize, Serialize};

use super::{Client, ClientError};
use crate::proto::{
    self, ConfiguredPolicy, ListPoliciesRequest, classify_request, judge_options,
    safety_service_client::SafetyServiceClient,
};

/// What guards judge by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyChoice {
    /// The categories that each was trained on.
    #[default]
    Native,
    /// A policy that the server has under this name.
    Named(String),
    /// A policy that travels with each request.
    Inline(PolicyText),
}

/// A policy as the protocol has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyText {
    /// What verdicts call it.
    pub name: String,
    /// In the order of the guard's prompt.
    pub categories: Vec<CategoryText>,
}

/// One category of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CategoryText {
    /// `S1` to `S99`.
    pub code: String,
    /// One line.
    pub name: String,
    /// What falls under it; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

impl Client {
    /// The policies that the server has, in the order of their names.
    ///
    /// # Errors
    /// [`ClientError::Rpc`].
    pub async fn policies(&self) -> Result<Vec<ConfiguredPolicy>, ClientError> {
        let response = self
            .unary(ListPoliciesRequest {}, async |channel, request| {
                SafetyServiceClient::new(channel).list_policies(request).await
            })
            .await?;
        Ok(response.policies)
    }
}

impl PolicyChoice {
    /// Whether it is the guards' own.
    pub fn is_native(&self) -> bool {
        *self == Self::Native
    }

    /// What verdicts call it; `None` for the guards' own.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Native => None,
            Self::Named(name) => Some(name),
            Self::Inline(policy) => Some(&policy.name),
        }
    }

    /// Whether a verdict says that it followed this policy. One of a server that does not know policies does not.
    pub fn is_followed_by(&self, verdict: &proto::Verdict) -> bool {
        let followed = verdict.provenance.as_ref().map_or("", |p| p.policy.as_str());
        followed == self.name().unwrap_or_default()
    }

    /// For a Classify.
    pub fn for_classify(&self) -> Option<classify_request::PolicySource> {
        match self {
            Self::Native => None,
            Self::Named(name) => Some(classify_request::PolicySource::Policy(name.clone())),
            Self::Inline(policy) => Some(classify_request::PolicySource::InlinePolicy(policy.to_proto())),
        }
    }

    /// For a Score.
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
