//! Checks which policy a guard is to judge by.

use std::sync::Arc;

use super::checker::{Checker, ValidationContext};
use crate::{
    guard::{Policy, PolicyCategory},
    proto::{self, answer_guard, classify_request, guard_start, judge_options},
    registry::{ModelAccess, Registry},
    rpc::{error::ServiceError, limits::Limits},
};

/// The policy that a request names or contains, whichever message it is in.
pub(super) enum PolicySource {
    Native,
    Named(String),
    Inline(proto::Policy),
}

impl From<Option<classify_request::PolicySource>> for PolicySource {
    fn from(source: Option<classify_request::PolicySource>) -> Self {
        match source {
            None => Self::Native,
            Some(classify_request::PolicySource::Policy(name)) => Self::Named(name),
            Some(classify_request::PolicySource::InlinePolicy(policy)) => Self::Inline(policy),
        }
    }
}

impl From<Option<guard_start::PolicySource>> for PolicySource {
    fn from(source: Option<guard_start::PolicySource>) -> Self {
        match source {
            None => Self::Native,
            Some(guard_start::PolicySource::Policy(name)) => Self::Named(name),
            Some(guard_start::PolicySource::InlinePolicy(policy)) => Self::Inline(policy),
        }
    }
}

impl From<Option<answer_guard::PolicySource>> for PolicySource {
    fn from(source: Option<answer_guard::PolicySource>) -> Self {
        match source {
            None => Self::Native,
            Some(answer_guard::PolicySource::Policy(name)) => Self::Named(name),
            Some(answer_guard::PolicySource::InlinePolicy(policy)) => Self::Inline(policy),
        }
    }
}

impl From<Option<judge_options::PolicySource>> for PolicySource {
    fn from(source: Option<judge_options::PolicySource>) -> Self {
        match source {
            None => Self::Native,
            Some(judge_options::PolicySource::Policy(name)) => Self::Named(name),
            Some(judge_options::PolicySource::InlinePolicy(policy)) => Self::Inline(policy),
        }
    }
}

/// A policy that is checked as far as possible without the registry.
pub(super) enum CheckedPolicy {
    Native,
    Named(String),
    Inline(Arc<Policy>),
}

/// Checks the policy of a request.
pub(super) fn policy(checker: &mut Checker, source: PolicySource, limits: &Limits) -> CheckedPolicy {
    match source {
        PolicySource::Native => CheckedPolicy::Native,
        PolicySource::Named(name) => {
            checker.bytes("policy", name.len(), 1..=limits.id_bytes);
            CheckedPolicy::Named(name)
        }
        PolicySource::Inline(written) => {
            let categories = written.categories.into_iter().map(|category| PolicyCategory {
                code: category.code,
                name: category.name,
                description: category.description,
            });
            match Policy::new(written.name, categories.collect()) {
                Ok(policy) => CheckedPolicy::Inline(Arc::new(policy)),
                Err(problems) => {
                    checker.within("inline_policy", |checker| {
                        for problem in problems {
                            checker.wrong(&problem.field, problem.description);
                        }
                    });
                    CheckedPolicy::Native
                }
            }
        }
    }
}

impl CheckedPolicy {
    /// The field that has it, in the message that has a policy.
    pub(super) fn field(&self) -> &'static str {
        match self {
            Self::Native | Self::Inline(_) => "inline_policy",
            Self::Named(_) => "policy",
        }
    }

    /// Looks the policy up; `None` is the guard's own.
    pub(super) fn find(self, registry: &Registry) -> Result<Option<Arc<Policy>>, ServiceError> {
        match self {
            Self::Native => Ok(None),
            Self::Inline(policy) => Ok(Some(policy)),
            Self::Named(name) => match registry.policy(&name) {
                Ok(policy) => Ok(Some(Arc::clone(policy))),
                Err(unknown) => Err(ServiceError::from_unknown_policy(unknown, &name)),
            },
        }
    }
}

/// A guard, and the policy that it judges by; `None` is its own.
pub(super) struct GuardAndPolicy {
    pub(super) guard: ModelAccess,
    pub(super) policy: Option<Arc<Policy>>,
}

/// Finds the policy and the guard of a request, whose field of the policy is `field`. Waits while the guard is being loaded.
pub(super) async fn find_guard(
    context: &ValidationContext<'_>,
    model: &str,
    policy: CheckedPolicy,
    field: String,
) -> Result<GuardAndPolicy, ServiceError> {
    let registry = context.registry;
    let policy = policy.find(registry)?;
    let guard = async {
        let guard = registry.guard(model).await;
        guard.map_err(|error| ServiceError::from_lookup(error, model))
    };
    let guard = context.deadline.limit(guard).await?;
    check_guard(&guard, policy.as_ref(), field)?;
    Ok(GuardAndPolicy { guard, policy })
}

/// Checks that a guard can judge by a policy; `field` is the policy's.
pub(super) fn check_guard(
    model: &ModelAccess,
    policy: Option<&Arc<Policy>>,
    field: String,
) -> Result<(), ServiceError> {
    match (model.guard(), policy) {
        (Some(guard), Some(_)) if !guard.takes_policies() => Err(ServiceError::field(
            field,
            format!(
                "{} is a guard of the kind {}, which judges by the categories that it was trained on alone: leave the policy \
                 out, or name a guard that takes policies",
                model.id(),
                guard.kind()
            ),
        )),
        (Some(guard), Some(policy)) if !guard.takes(policy) => Err(ServiceError::field(
            field,
            format!(
                "{} is a guard of the kind {}, which judges by one category at a time, and the policy has {}: send a request for \
                 each, with a policy of one category",
                model.id(),
                guard.kind(),
                policy.categories().len()
            ),
        )),
        _ => Ok(()),
    }
}
