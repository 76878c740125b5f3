//! What is done about verdicts: a request's decision policy, or the server's default one, and the server's shadow policies.

use std::sync::Arc;

use super::label::label;
use crate::{
    guard::{Action, Decision, DecisionPolicy, DecisionSet, Judgement, Reason, Subject},
    proto,
};

/// By what a verdict is decided about.
#[derive(Debug, Clone, Default)]
pub(crate) struct Decider {
    /// Decides; without one there is no decision.
    pub(crate) policy: Option<Arc<DecisionPolicy>>,
    /// Only told and counted.
    pub(crate) shadows: Vec<Arc<DecisionPolicy>>,
    /// The conversation's language, where the caller has named it.
    pub(crate) language: Option<String>,
}

/// What the policies make of a verdict.
pub(crate) struct Decided {
    pub(crate) decision: Option<proto::Decision>,
    pub(crate) shadows: Vec<proto::Decision>,
}

/// Whether a decision counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Deciding,
    Shadow,
}

impl Decider {
    /// A request's policy, or the server's default one where it names none, beside the server's shadow policies.
    pub(crate) fn new(
        set: &DecisionSet,
        named: Option<Arc<DecisionPolicy>>,
        language: Option<String>,
    ) -> Self {
        Self {
            policy: named.or_else(|| set.default_policy().cloned()),
            shadows: set.shadows().to_vec(),
            language,
        }
    }

    /// The policies, the one that decides first.
    fn policies(&self) -> impl Iterator<Item = &Arc<DecisionPolicy>> {
        self.policy.iter().chain(&self.shadows)
    }

    /// Whether any of the policies needs the probabilities of categories.
    pub(crate) fn needs_categories(&self) -> bool {
        let language = self.language.as_deref();
        self.policies().any(|policy| policy.needs_categories(language))
    }

    /// Whether the deciding policy needs the probabilities of categories.
    pub(crate) fn decides_by_categories(&self) -> bool {
        let language = self.language.as_deref();
        self.policy
            .as_ref()
            .is_some_and(|policy| policy.needs_categories(language))
    }

    /// The first category that the deciding policy has a threshold of, and `known` does not have.
    pub(crate) fn unknown_category(&self, known: impl Fn(&str) -> bool) -> Option<String> {
        let policy = self.policy.as_ref()?;
        policy.categories().find(|code| !known(code)).map(str::to_owned)
    }

    /// Decides about a verdict, and counts the decisions.
    pub(crate) fn decide(&self, verdict: &proto::Verdict) -> Decided {
        let probabilities: Vec<_> = verdict
            .category_probabilities
            .iter()
            .map(|category| (category.category.clone(), category.probability))
            .collect();
        let judgement = Judgement {
            label: label(verdict.label()),
            unsafe_score: verdict.unsafe_score,
            categories: &probabilities,
        };
        let decide = |policy: &Arc<DecisionPolicy>, role: Role| {
            let decision = policy.decide(&judgement, self.language.as_deref());
            count(policy, decision.action, role);
            message(policy, decision)
        };
        Decided {
            decision: self.policy.as_ref().map(|policy| decide(policy, Role::Deciding)),
            shadows: self
                .shadows
                .iter()
                .map(|policy| decide(policy, Role::Shadow))
                .collect(),
        }
    }
}

fn count(policy: &DecisionPolicy, action: Action, role: Role) {
    let (action, role) = (
        match action {
            Action::Allow => "allow",
            Action::Flag => "flag",
            Action::Block => "block",
        },
        match role {
            Role::Deciding => "deciding",
            Role::Shadow => "shadow",
        },
    );
    metrics::counter!("babelward_decisions_total", "policy" => policy.full_name(), "action" => action, "role" => role)
        .increment(1);
}

fn message(policy: &DecisionPolicy, decision: Decision) -> proto::Decision {
    proto::Decision {
        action: action(decision.action).into(),
        reasons: decision.reasons.into_iter().map(reason).collect(),
        policy: policy.name().to_owned(),
        policy_version: policy.version(),
        policy_digest: policy.digest().to_owned(),
    }
}

fn action(action: Action) -> proto::Action {
    match action {
        Action::Allow => proto::Action::Allow,
        Action::Flag => proto::Action::Flag,
        Action::Block => proto::Action::Block,
    }
}

fn reason(reason: Reason) -> proto::DecisionReason {
    let (subject, category) = match reason.subject {
        Subject::UnsafeScore => (proto::DecisionSubject::UnsafeScore, String::new()),
        Subject::Category(code) => (proto::DecisionSubject::Category, code),
        Subject::Undetermined => (proto::DecisionSubject::Undetermined, String::new()),
    };
    proto::DecisionReason {
        action: action(reason.action).into(),
        subject: subject.into(),
        category,
        value: reason.value,
        threshold: reason.threshold,
    }
}

/// A configured policy, as it is listed.
pub(crate) fn listed(policy: &DecisionPolicy, set: &DecisionSet) -> proto::ConfiguredDecisionPolicy {
    let is = |other: &Arc<DecisionPolicy>| other.full_name() == policy.full_name();
    proto::ConfiguredDecisionPolicy {
        name: policy.name().to_owned(),
        version: policy.version(),
        digest: policy.digest().to_owned(),
        is_default: set.default_policy().is_some_and(is),
        is_shadow: set.shadows().iter().any(is),
    }
}
