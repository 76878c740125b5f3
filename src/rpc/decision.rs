//! What is done about verdicts and classifications: a request's decision policy, or the server's default one, and the server's shadow
//! policies.

use std::sync::Arc;

use super::{error::ServiceError, label::label};
use crate::{
    calibrator::{CalibratedScore, Calibrator, FittedFor, PredictionSet},
    guard::{
        Action, Classified, Decision, DecisionPolicy, DecisionSet, JudgedVerdict, Judgement, Reason, Subject,
    },
    proto,
};

/// By what a verdict is decided about.
#[derive(Debug, Clone, Default)]
pub(crate) struct Decider {
    /// Decides; without one there is no decision.
    deciding: Option<CalibratedPolicy>,
    /// Only told and counted.
    shadows: Vec<CalibratedPolicy>,
    /// The conversation's language, where the caller has named it.
    language: Option<String>,
}

/// A policy with its calibrator.
#[derive(Debug, Clone)]
struct CalibratedPolicy {
    policy: Arc<DecisionPolicy>,
    /// Absent where the policy uses none, and in shadows also where it was fitted for another guard.
    calibrator: Option<Arc<Calibrator>>,
}

/// What the policies make of a verdict.
pub(crate) struct Decided {
    pub(crate) decision: Option<proto::Decision>,
    pub(crate) shadows: Vec<proto::Decision>,
}

/// Whether a decision counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Deciding,
    Shadow,
}

/// What is decided about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DecidedAbout<'a> {
    /// Absent where no guard was asked.
    pub(crate) verdict: Option<&'a proto::Verdict>,
    /// Verdicts on other messages and windows of the same request.
    pub(crate) others: &'a [proto::Verdict],
    pub(crate) classified: &'a [Classified],
}

impl<'a> DecidedAbout<'a> {
    /// A verdict, where no classifiers are asked.
    pub(crate) fn verdict(verdict: &'a proto::Verdict) -> Self {
        Self {
            verdict: Some(verdict),
            others: &[],
            classified: &[],
        }
    }
}

/// A classifier that a policy has thresholds of.
#[derive(Debug, Clone)]
pub(crate) struct PolicyQuestion {
    /// The policy, as `NAME@VERSION`.
    pub(crate) policy: String,
    pub(crate) role: Role,
    /// The classifier's model id.
    pub(crate) model: String,
    /// The label of texts without harm; `None` for the model's first.
    pub(crate) harmless_label: Option<String>,
}

impl Decider {
    /// A request's policy, or the server's default one where it names none, beside the server's shadow policies. `judges` are what may
    /// give the verdict: the guard, for each side that is judged. Without any, policies that need a verdict are left out, but for the
    /// request's.
    ///
    /// # Errors
    /// [`ServiceError::CalibratorMismatch`] where the deciding policy's calibrator was fitted for another guard or side.
    pub(crate) fn new(
        set: &DecisionSet,
        named: Option<Arc<DecisionPolicy>>,
        language: Option<String>,
        judges: &[FittedFor],
    ) -> Result<Self, ServiceError> {
        let with_calibrator = |policy: &Arc<DecisionPolicy>| CalibratedPolicy {
            policy: Arc::clone(policy),
            calibrator: set.calibrator_of(policy).cloned(),
        };
        let applies = |policy: &&Arc<DecisionPolicy>| !judges.is_empty() || !policy.needs_verdict();
        let default = set.default_policy().filter(applies);
        let deciding = named.as_ref().or(default).map(with_calibrator);
        if let Some(CalibratedPolicy {
            policy,
            calibrator: Some(calibrator),
        }) = &deciding
        {
            let fitted_for = calibrator.fitted_for();
            let mut differing = judges.iter().map(|judge| fitted_for.differences(judge));
            if let Some(differences) = differing.find(|differences| !differences.is_empty()) {
                return Err(ServiceError::CalibratorMismatch {
                    policy: policy.full_name(),
                    calibrator: calibrator.digest().to_owned(),
                    differences,
                });
            }
        }
        let fits = |calibrator: &Arc<Calibrator>| {
            !judges.is_empty() && judges.iter().all(|judge| calibrator.fitted_for() == judge)
        };
        let shadows = set.shadows().iter().filter(applies).map(with_calibrator);
        Ok(Self {
            deciding,
            shadows: shadows
                .map(|shadow| CalibratedPolicy {
                    calibrator: shadow.calibrator.filter(fits),
                    ..shadow
                })
                .collect(),
            language,
        })
    }

    /// Whether any of the policies needs the probabilities of categories.
    pub(crate) fn needs_categories(&self) -> bool {
        let language = self.language.as_deref();
        let mut all = self.deciding.iter().chain(&self.shadows);
        all.any(|one| one.policy.needs_categories(language))
    }

    /// Whether the deciding policy needs the probabilities of categories.
    pub(crate) fn decides_by_categories(&self) -> bool {
        let language = self.language.as_deref();
        self.deciding
            .as_ref()
            .is_some_and(|one| one.policy.needs_categories(language))
    }

    /// The first category that the deciding policy has a threshold of, and `known` does not have.
    pub(crate) fn unknown_category(&self, known: impl Fn(&str) -> bool) -> Option<String> {
        let policy = &self.deciding.as_ref()?.policy;
        policy.categories().find(|code| !known(code)).map(str::to_owned)
    }

    /// The classifiers that the policies have thresholds of, the deciding one's first.
    pub(crate) fn questions(&self) -> Vec<PolicyQuestion> {
        let deciding = self.deciding.iter().map(|one| (one, Role::Deciding));
        let shadows = self.shadows.iter().map(|one| (one, Role::Shadow));
        let mut questions = Vec::new();
        for (one, role) in deciding.chain(shadows) {
            let asked = one.policy.classifiers();
            questions.extend(asked.map(|(model, harmless_label)| PolicyQuestion {
                policy: one.policy.full_name(),
                role,
                model: model.to_owned(),
                harmless_label: harmless_label.map(str::to_owned),
            }));
        }
        questions
    }

    /// Decides, and counts the decisions.
    pub(crate) fn decide(&self, about: DecidedAbout<'_>) -> Decided {
        let language = self.language.as_deref();
        let decide_as = |one: &CalibratedPolicy, role: Role| {
            let decided = |verdict| {
                let about = DecidedAbout { verdict, ..about };
                decided(&one.policy, one.calibrator.as_deref(), about, language)
            };
            // The strictest, and the first of equals: a threshold counts wherever it is reached.
            let mut strictest = decided(about.verdict);
            for other in about.others {
                let other = decided(Some(other));
                if other.decision.action > strictest.decision.action {
                    strictest = other;
                }
            }
            let decision = message(&one.policy, strictest);
            count(&one.policy, decision.action(), role);
            decision
        };
        Decided {
            decision: self.deciding.as_ref().map(|one| decide_as(one, Role::Deciding)),
            shadows: self
                .shadows
                .iter()
                .map(|one| decide_as(one, Role::Shadow))
                .collect(),
        }
    }
}

/// What a policy makes of one verdict on a text in a language, and of what classifiers say of it, with the policy's calibrator, if it
/// uses one. Nothing is counted.
pub(crate) fn decide(
    policy: &DecisionPolicy,
    calibrator: Option<&Calibrator>,
    about: DecidedAbout<'_>,
    language: Option<&str>,
) -> proto::Decision {
    message(policy, decided(policy, calibrator, about, language))
}

/// A decision, and what the calibrator made of the score.
struct CalibratedDecision {
    decision: Decision,
    calibrated: Option<CalibratedScore>,
}

fn decided(
    policy: &DecisionPolicy,
    calibrator: Option<&Calibrator>,
    about: DecidedAbout<'_>,
    language: Option<&str>,
) -> CalibratedDecision {
    let DecidedAbout {
        verdict,
        others: _,
        classified,
    } = about;
    let probabilities = verdict.iter().flat_map(|verdict| &verdict.category_probabilities);
    let probabilities: Vec<_> = probabilities
        .map(|category| (category.category.clone(), category.probability))
        .collect();
    let calibrated = calibrator
        .zip(verdict.and_then(|verdict| verdict.unsafe_score))
        .map(|(calibrator, score)| calibrator.calibrate(score, language));
    let judgement = Judgement {
        verdict: verdict.map(|verdict| JudgedVerdict {
            label: label(verdict.label()),
            unsafe_score: verdict.unsafe_score,
            categories: &probabilities,
            calibrated: calibrated.as_ref(),
        }),
        classified,
    };
    CalibratedDecision {
        decision: policy.decide(&judgement, language),
        calibrated,
    }
}

fn count(policy: &DecisionPolicy, action: proto::Action, role: Role) {
    let (action, role) = (
        match action {
            proto::Action::Allow => "allow",
            proto::Action::Flag => "flag",
            proto::Action::Block | proto::Action::Unspecified => "block",
        },
        match role {
            Role::Deciding => "deciding",
            Role::Shadow => "shadow",
        },
    );
    metrics::counter!("babelward_decisions_total", "policy" => policy.full_name(), "action" => action, "role" => role)
        .increment(1);
}

fn message(policy: &DecisionPolicy, decided: CalibratedDecision) -> proto::Decision {
    let CalibratedDecision { decision, calibrated } = decided;
    let set = calibrated
        .as_ref()
        .map(|calibrated| prediction_set(calibrated.set));
    proto::Decision {
        action: action(decision.action).into(),
        reasons: decision.reasons.into_iter().map(reason).collect(),
        policy: policy.name().to_owned(),
        policy_version: policy.version(),
        policy_digest: policy.digest().to_owned(),
        calibrated_probability: calibrated.as_ref().map(|calibrated| calibrated.probability),
        calibrator_digest: policy.calibrator().unwrap_or_default().to_owned(),
        calibrated_for: calibrated
            .and_then(|calibrated| calibrated.curve_language)
            .unwrap_or_default(),
        prediction_set: set.unwrap_or(proto::PredictionSet::Unspecified).into(),
    }
}

fn prediction_set(set: PredictionSet) -> proto::PredictionSet {
    match set {
        PredictionSet::Safe => proto::PredictionSet::Safe,
        PredictionSet::Unsafe => proto::PredictionSet::Unsafe,
        PredictionSet::Both => proto::PredictionSet::Both,
        PredictionSet::Neither => proto::PredictionSet::Neither,
    }
}

pub(super) fn action(action: Action) -> proto::Action {
    match action {
        Action::Allow => proto::Action::Allow,
        Action::Flag => proto::Action::Flag,
        Action::Block => proto::Action::Block,
    }
}

fn reason(reason: Reason) -> proto::DecisionReason {
    let (mut category, mut classifier) = (String::new(), String::new());
    let subject = match reason.subject {
        Subject::UnsafeScore => proto::DecisionSubject::UnsafeScore,
        Subject::Category(code) => {
            category = code;
            proto::DecisionSubject::Category
        }
        Subject::Undetermined => proto::DecisionSubject::Undetermined,
        Subject::CalibratedProbability => proto::DecisionSubject::CalibratedProbability,
        Subject::PredictionSet => proto::DecisionSubject::PredictionSet,
        Subject::NotCalibrated => proto::DecisionSubject::NotCalibrated,
        Subject::Classifier(model) => {
            classifier = model;
            proto::DecisionSubject::Classifier
        }
        Subject::NotClassified(model) => {
            classifier = model;
            proto::DecisionSubject::NotClassified
        }
    };
    proto::DecisionReason {
        action: action(reason.action).into(),
        subject: subject.into(),
        category,
        value: reason.value,
        threshold: reason.threshold,
        classifier,
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
        calibrator_digest: policy.calibrator().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(label: proto::Label, unsafe_score: f64, violence: f64) -> proto::Verdict {
        proto::Verdict {
            label: label.into(),
            unsafe_score: Some(unsafe_score),
            category_probabilities: vec![proto::CategoryProbability {
                category: "S1".to_owned(),
                probability: violence,
                ..proto::CategoryProbability::default()
            }],
            ..proto::Verdict::default()
        }
    }

    #[test]
    fn a_threshold_that_another_verdict_reaches_counts() {
        let text = "name = \"chat\"\nversion = 1\n[thresholds]\nflag = 0.8\n[categories.S1]\nblock = 0.5";
        let policy = DecisionPolicy::new(toml::from_str(text).unwrap()).unwrap();
        let decider = Decider::new(&DecisionSet::default(), Some(Arc::new(policy)), None, &[]).unwrap();
        let worst = verdict(proto::Label::Unsafe, 0.9, 0.1);
        let others = [
            verdict(proto::Label::Safe, 0.3, 0.2),
            verdict(proto::Label::Controversial, 0.7, 0.6),
        ];
        let decide = |others| {
            let about = DecidedAbout {
                others,
                ..DecidedAbout::verdict(&worst)
            };
            decider.decide(about).decision.unwrap()
        };
        assert_eq!(decide(&[]).action(), proto::Action::Flag);
        assert_eq!(decide(&others[..1]), decide(&[]));
        let strictest = decide(&others);
        assert_eq!(strictest.action(), proto::Action::Block);
        assert_eq!(strictest.reasons[0].category, "S1");
        assert_eq!(strictest.reasons[0].value, Some(0.6));
    }
}
