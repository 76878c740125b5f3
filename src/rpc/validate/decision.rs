//! Checks what is to be done about verdicts, in every request that asks for one.

use std::sync::Arc;

use super::checker::Checker;
use crate::{
    guard::{DecisionPolicy, DecisionSet, Guard, JudgedRole, Policy, is_language_tag},
    registry::{ModelAccess, ModelRole},
    rpc::{decision::Decider, error::ServiceError, provenance},
};

/// Longest name of a decision policy with its version, in bytes.
const DECISION_POLICY_BYTES: usize = 160;

/// The fields about what is done about a verdict, valid without knowing the guard.
pub(super) struct DecisionFields {
    /// The name of a decision policy; empty is the server's default.
    policy: String,
    language: Option<String>,
    /// Whether the caller wants the probabilities of categories.
    category_probabilities: bool,
}

impl DecisionFields {
    /// Checks the fields `decision_policy` and `language` of the message that `checker` is at.
    pub(super) fn checked(checker: &mut Checker, policy: String, language: String) -> Self {
        checker.bytes("decision_policy", policy.len(), 0..=DECISION_POLICY_BYTES);
        let language = Some(language).filter(|language| !language.is_empty());
        if language
            .as_deref()
            .is_some_and(|language| !is_language_tag(language))
        {
            checker.wrong(
                "language",
                "must be a BCP 47 tag of at most 35 bytes, such as de or pt-BR",
            );
        }
        Self {
            policy,
            language,
            category_probabilities: false,
        }
    }

    /// The same, with what the caller says of probabilities of categories.
    pub(super) fn with_category_probabilities(self, wanted: bool) -> Self {
        Self {
            category_probabilities: wanted,
            ..self
        }
    }

    /// Finds the policy that the request names. `checker` is at the message with the fields.
    fn named(
        &self,
        checker: &Checker,
        decisions: &DecisionSet,
    ) -> Result<Option<Arc<DecisionPolicy>>, ServiceError> {
        match self.policy.as_str() {
            "" => Ok(None),
            name => match decisions.find(name) {
                Some(policy) => Ok(Some(Arc::clone(policy))),
                None => {
                    let reason = "names no decision policy of the server; ListPolicies lists them";
                    Err(ServiceError::field(checker.path_of("decision_policy"), reason))
                }
            },
        }
    }

    /// Finds the policies where classifiers alone answer. `checker` is at the message with the fields.
    pub(super) fn find_without_guard(
        self,
        checker: &Checker,
        decisions: &DecisionSet,
    ) -> Result<Decider, ServiceError> {
        let named = self.named(checker, decisions)?;
        if named.as_ref().is_some_and(|policy| policy.needs_verdict()) {
            let reason =
                "has thresholds of a verdict, and no guard judges; name a policy of classifiers alone";
            return Err(ServiceError::field(checker.path_of("decision_policy"), reason));
        }
        Decider::new(decisions, named, self.language, &[])
    }

    /// [`DecisionFields::find`] for messages of one side. The fields are in the message at `path`.
    pub(super) fn find_for(
        self,
        path: &str,
        decisions: &DecisionSet,
        model: &ModelAccess,
        policy: Option<&Policy>,
        role: JudgedRole,
    ) -> Result<DecidedBy, ServiceError> {
        let Some(guard) = model.guard() else {
            return Err(ServiceError::CapabilityMissing {
                has: model.roles().to_vec(),
                needs: ModelRole::Guard,
            });
        };
        let judge = JudgingGuard {
            model,
            guard,
            policy,
            roles: &[role],
        };
        let checker = Checker::at(path);
        self.find(&checker, decisions, &judge)
    }

    /// Finds the policies, and checks that the guard can answer what they ask for. `checker` is at the message with the fields.
    pub(super) fn find(
        self,
        checker: &Checker,
        decisions: &DecisionSet,
        judge: &JudgingGuard<'_>,
    ) -> Result<DecidedBy, ServiceError> {
        let named = self.named(checker, decisions)?;
        let JudgingGuard {
            model,
            guard,
            policy: judged_by,
            roles,
        } = *judge;
        let wrong = |field: &str, reason: String| Err(ServiceError::field(checker.path_of(field), reason));
        let computed_by = roles
            .iter()
            .map(|role| provenance::computed_by(model, guard, judged_by, *role));
        let computed_by: Vec<_> = computed_by.collect();
        let decider = Decider::new(decisions, named, self.language, &computed_by)?;
        let categories = guard.category_codes(judged_by);
        if let Some(unknown) = decider.unknown_category(|code| categories.contains(&code)) {
            let reason = format!(
                "has a threshold of the category `{unknown}`, which this guard does not judge by here; name a policy that fits"
            );
            return wrong("decision_policy", reason);
        }
        let why_not = match model {
            ModelAccess::Remote(_) => {
                Some("this guard is an endpoint, which does not tell the probabilities of its categories")
            }
            ModelAccess::Local(_) if guard.tells_categories() => None,
            ModelAccess::Local(_) => Some("this guard's answers do not go on from the label to a category"),
        };
        if let Some(why_not) = why_not {
            if self.category_probabilities {
                return wrong("category_probabilities", format!("cannot be had: {why_not}"));
            }
            if decider.decides_by_categories() {
                return wrong(
                    "decision_policy",
                    format!("has thresholds of categories, and {why_not}"),
                );
            }
        }
        let can_tell = why_not.is_none();
        Ok(DecidedBy {
            category_probabilities: can_tell && (self.category_probabilities || decider.needs_categories()),
            decider,
        })
    }
}

/// Who judges, and what.
#[derive(Clone, Copy)]
pub(super) struct JudgingGuard<'a> {
    pub(super) model: &'a ModelAccess,
    pub(super) guard: &'a Guard,
    /// What it judges by; `None` is its own policy.
    pub(super) policy: Option<&'a Policy>,
    /// The sides of the judged messages.
    pub(super) roles: &'a [JudgedRole],
}

/// What is done about a verdict, and whether that or the caller needs the probabilities of categories.
pub(super) struct DecidedBy {
    pub(super) decider: Decider,
    pub(super) category_probabilities: bool,
}
