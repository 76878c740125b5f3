//! Checks which classifiers look at a message: those that the request names, and those that decision policies have thresholds of.

use std::sync::Arc;

use futures::FutureExt as _;

use super::checker::{Checker, ValidationContext};
use crate::{
    classifier::TextClassifier,
    guard::{SentMessage, Speaker},
    proto,
    registry::{Lease, ModelRole},
    rpc::{
        decision::{Decider, PolicyQuestion, Role},
        error::ServiceError,
        limits::Limits,
    },
};

/// Most classifiers of a request.
pub(crate) const MOST_CLASSIFIERS: usize = 8;

/// Longest name of a label, in bytes.
const LABEL_BYTES: usize = 128;

/// A checked question to a classifier that is in memory.
#[derive(Clone)]
pub(crate) struct ClassifierWork {
    pub(crate) lease: Lease,
    pub(crate) classifier: Arc<TextClassifier>,
    /// Index of the label of texts without harm.
    pub(crate) harmless: usize,
    pub(crate) asked_by: AskedBy,
}

/// Who asks a classifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AskedBy {
    /// The request, or the policy that decides about it, which fails without an answer.
    Request,
    /// A shadow policy, which only tells what it would have decided, or a policy about a text that is released without it. Without an
    /// answer they decide as their `undetermined` says.
    Observer,
}

/// The text that classifiers look at.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClassifiedText {
    pub(crate) text: String,
    /// The field that has it, which later errors name.
    pub(crate) field: String,
}

impl ClassifiedText {
    /// The last message that a guard would judge, of the conversation in the field `conversation`.
    pub(super) fn last(messages: &[Arc<SentMessage>], conversation: &str) -> Self {
        // The system's messages are not judged.
        let last = messages
            .iter()
            .rposition(|message| message.speaker != Speaker::System)
            .unwrap_or_default();
        Self {
            text: messages
                .get(last)
                .map(|message| message.text())
                .unwrap_or_default(),
            field: format!("{conversation}.messages[{last}].content"),
        }
    }
}

/// A question that is valid without knowing the classifier.
pub(super) struct ClassifierQuestion {
    model: String,
    /// Empty for the first label.
    harmless_label: String,
    /// The question's field, which later errors name.
    field: String,
}

/// Checks the field `classifiers` of a request.
pub(super) fn questions(
    checker: &mut Checker,
    given: Vec<proto::ClassifierQuestion>,
    limits: &Limits,
) -> Vec<ClassifierQuestion> {
    if given.len() > MOST_CLASSIFIERS {
        let reason = format!("must have at most {MOST_CLASSIFIERS} items, has {}", given.len());
        checker.wrong("classifiers", reason);
        return Vec::new();
    }
    let mut questions: Vec<ClassifierQuestion> = Vec::with_capacity(given.len());
    for (index, question) in given.into_iter().enumerate() {
        let field = format!("classifiers[{index}]");
        checker.within(&field, |checker| {
            match question.model.is_empty() {
                true => checker.wrong("model", "is required"),
                false => checker.model_id("model", &question.model, limits),
            }
            if questions.iter().any(|other| other.model == question.model) {
                checker.wrong("model", "is asked twice in this request");
            }
            checker.bytes("harmless_label", question.harmless_label.len(), 0..=LABEL_BYTES);
        });
        questions.push(ClassifierQuestion {
            model: question.model,
            harmless_label: question.harmless_label,
            field: checker.path_of(&field),
        });
    }
    questions
}

/// Finds the classifiers that a request names. Waits while they are being loaded.
pub(super) async fn find(
    context: &ValidationContext<'_>,
    questions: Vec<ClassifierQuestion>,
) -> Result<Vec<ClassifierWork>, ServiceError> {
    let mut found = Vec::with_capacity(questions.len());
    for question in questions {
        let ClassifierQuestion {
            model,
            harmless_label,
            field,
        } = question;
        let (lease, classifier) = lease(context, &model).await?;
        let named = Some(harmless_label.as_str()).filter(|label| !label.is_empty());
        let Some(harmless) = index_of(&classifier, named) else {
            let reason = format!(
                "is no label of the model {model}: its labels are {}",
                classifier.labels().join(", ")
            );
            return Err(ServiceError::field(format!("{field}.harmless_label"), reason));
        };
        found.push(ClassifierWork {
            lease,
            classifier,
            harmless,
            asked_by: AskedBy::Request,
        });
    }
    Ok(found)
}

/// The classifiers that decision policies have thresholds of, in a call whose requests ask none themselves. The message with the
/// request's decision policy is at `path`.
pub(super) async fn asked_by_policies_alone(
    context: &ValidationContext<'_>,
    decider: &Decider,
    path: &str,
) -> Result<Vec<ClassifierWork>, ServiceError> {
    let mut found = Vec::new();
    let field = Checker::at(path).path_of("decision_policy");
    add_asked_by_policies(context, &mut found, decider.questions(), &field).await?;
    Ok(found)
}

/// Finds the classifiers that decision policies have thresholds of, and adds those that are not in `found`. Waits while those of the
/// deciding policy are being loaded. Those of shadow policies are loaded too, but nobody waits for them. `field` is the request's field that names the deciding policy.
pub(super) async fn add_asked_by_policies(
    context: &ValidationContext<'_>,
    found: &mut Vec<ClassifierWork>,
    questions: Vec<PolicyQuestion>,
    field: &str,
) -> Result<(), ServiceError> {
    for question in questions {
        let asked = asked_by_policy(context, found, &question, field);
        let asked = match question.role {
            Role::Deciding => asked.await?,
            // The first poll begins a load that goes on without a waiter.
            Role::Shadow => match asked.now_or_never() {
                Some(Ok(asked)) => asked,
                Some(Err(error)) => {
                    context.shadow_log.failed(&question.model, &error);
                    None
                }
                None => {
                    context.shadow_log.loading(&question.model);
                    None
                }
            },
        };
        found.extend(asked);
    }
    Ok(())
}

/// The classifier that a policy has thresholds of; `None` where it is in `found` already.
async fn asked_by_policy(
    context: &ValidationContext<'_>,
    found: &[ClassifierWork],
    question: &PolicyQuestion,
    field: &str,
) -> Result<Option<ClassifierWork>, ServiceError> {
    let PolicyQuestion {
        policy,
        role,
        model,
        harmless_label,
    } = question;
    let (lease, classifier) = lease(context, model).await?;
    let Some(harmless) = index_of(&classifier, harmless_label.as_deref()) else {
        let reason = format!(
            "{policy} has a threshold for the label {} of the model {model}, whose labels are {}",
            harmless_label.as_deref().unwrap_or_default(),
            classifier.labels().join(", ")
        );
        return Err(ServiceError::field(field, reason));
    };
    let is_this = |other: &ClassifierWork| other.lease.id == *model && other.harmless == harmless;
    if found.iter().any(is_this) {
        return Ok(None);
    }
    Ok(Some(ClassifierWork {
        lease,
        classifier,
        harmless,
        asked_by: match role {
            Role::Deciding => AskedBy::Request,
            Role::Shadow => AskedBy::Observer,
        },
    }))
}

/// A classifier that is in memory. Waits while it is being loaded.
async fn lease(
    context: &ValidationContext<'_>,
    model: &str,
) -> Result<(Lease, Arc<TextClassifier>), ServiceError> {
    let lease = async {
        let lease = context.registry.classifier(model).await;
        lease.map_err(|error| ServiceError::from_lookup(error, model))
    };
    let lease = context.deadline.limit(lease).await?;
    match lease.classifier.clone() {
        Some(classifier) => Ok((lease, classifier)),
        None => Err(ServiceError::CapabilityMissing {
            has: lease.roles.clone(),
            needs: ModelRole::Classifier,
        }),
    }
}

/// The index of the label with this name, or of the first one; `None` where there is no such label.
fn index_of(classifier: &TextClassifier, label: Option<&str>) -> Option<usize> {
    match label {
        None => Some(0),
        Some(name) => classifier.labels().iter().position(|label| label == name),
    }
}
