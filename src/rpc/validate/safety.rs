//! Checks Classify and BatchClassify.

use std::sync::Arc;

use super::{
    checker::{Checker, ValidationContext},
    classifier::{self, ClassifierQuestion, ClassifierWork},
    conversation,
    policy::{self, CheckedPolicy, GuardAndPolicy},
    request::item_ids,
};
use crate::{
    guard::{DecisionSet, Guard, Policy, is_language_tag},
    proto,
    registry::{Lease, ModelRole},
    rpc::{decision::Decider, error::ServiceError, limits::Limits},
    text::ChatMessage,
};

/// Longest name of a decision policy with its version, in bytes.
const DECISION_POLICY_BYTES: usize = 160;

/// A checked Classify.
#[derive(Clone)]
pub(crate) struct ClassifyWork {
    pub(crate) guard: Lease,
    /// The policy that the guard judges by; `None` is its own.
    pub(crate) policy: Option<Arc<Policy>>,
    pub(crate) messages: Vec<ChatMessage>,
    pub(crate) priority: proto::Priority,
    /// Whether the verdict has the probability of each category.
    pub(crate) category_probabilities: bool,
    /// The fields of these texts, which later errors name.
    pub(crate) fields: JudgedMessages,
}

/// A checked Classify, and what is done about its verdict.
pub(crate) struct CheckedClassify {
    pub(crate) work: ClassifyWork,
    pub(crate) decider: Decider,
    /// Who else looks at the last message.
    pub(crate) classifiers: Vec<ClassifierWork>,
}

/// Where the messages that a guard judges come from, and the policy that it judges by.
#[derive(Clone)]
pub(crate) struct JudgedMessages {
    /// The field of the conversation or prompt.
    pub(crate) conversation: String,
    /// The field of a policy in the request. Policies of the configuration were encoded when the guard was loaded.
    pub(crate) policy: String,
    /// Who wrote the last message.
    pub(crate) judged: Judged,
}

/// Who wrote the message that a guard judges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Judged {
    /// The caller sent it as the end of a conversation.
    Conversation,
    /// A model wrote it as the answer to a conversation; `guard` is the field that names the guard.
    AnswerToConversation { guard: String },
    /// A model wrote it as the answer to raw text or tokens; `guard` is the field that names the guard.
    AnswerToText { guard: String },
    /// The caller sends it in pieces, in this field.
    GrowingText { field: String },
}

/// A Classify whose fields are valid without knowing the guard.
pub(super) struct ClassifyFields {
    model: String,
    policy: CheckedPolicy,
    messages: Vec<ChatMessage>,
    priority: proto::Priority,
    decision: DecisionFields,
    classifiers: Vec<ClassifierQuestion>,
    fields: JudgedMessages,
}

/// The fields about what is done about a verdict.
struct DecisionFields {
    /// The name of a decision policy; empty is the server's default.
    policy: String,
    language: Option<String>,
    category_probabilities: bool,
}

fn decision_fields(checker: &mut Checker, request: &mut proto::ClassifyRequest) -> DecisionFields {
    let policy = std::mem::take(&mut request.decision_policy);
    checker.bytes("decision_policy", policy.len(), 0..=DECISION_POLICY_BYTES);
    let language = Some(std::mem::take(&mut request.language)).filter(|language| !language.is_empty());
    if language
        .as_deref()
        .is_some_and(|language| !is_language_tag(language))
    {
        checker.wrong(
            "language",
            "must be a BCP 47 tag of at most 35 bytes, such as de or pt-BR",
        );
    }
    DecisionFields {
        policy,
        language,
        category_probabilities: request.category_probabilities,
    }
}

impl DecisionFields {
    /// Finds the policies, and checks that the guard can answer what they ask for. `checker` is at the request.
    fn find(
        self,
        checker: &Checker,
        decisions: &DecisionSet,
        guard: &Guard,
        judged_by: Option<&Policy>,
    ) -> Result<DecidedBy, ServiceError> {
        let wrong = |field: &str, reason: String| Err(ServiceError::field(checker.path_of(field), reason));
        let named = match self.policy.as_str() {
            "" => None,
            name => match decisions.find(name) {
                Some(policy) => Some(Arc::clone(policy)),
                None => {
                    let reason = "names no decision policy of the server; ListPolicies lists them";
                    return wrong("decision_policy", reason.to_owned());
                }
            },
        };
        let decider = Decider::new(decisions, named, self.language);
        let categories = guard.category_codes(judged_by);
        if let Some(unknown) = decider.unknown_category(|code| categories.contains(&code)) {
            let reason = format!(
                "has a threshold of the category `{unknown}`, which this guard does not judge by here; name a policy that fits"
            );
            return wrong("decision_policy", reason);
        }
        let can_tell = guard.tells_categories();
        if self.category_probabilities && !can_tell {
            let reason = "cannot be had: this guard's answers do not go on from the label to a category";
            return wrong("category_probabilities", reason.to_owned());
        }
        if decider.decides_by_categories() && !can_tell {
            let reason = "has thresholds of categories, and this guard's answers do not go on from the label to a category";
            return wrong("decision_policy", reason.to_owned());
        }
        Ok(DecidedBy {
            category_probabilities: can_tell && (self.category_probabilities || decider.needs_categories()),
            decider,
        })
    }
}

/// What is done about a verdict, and whether that or the caller needs the probabilities of categories.
struct DecidedBy {
    decider: Decider,
    category_probabilities: bool,
}

pub(super) fn classify_fields(
    checker: &mut Checker,
    mut request: proto::ClassifyRequest,
    limits: &Limits,
) -> ClassifyFields {
    let decision = decision_fields(checker, &mut request);
    let classifiers = classifier::questions(checker, std::mem::take(&mut request.classifiers), limits);
    checker.model_id("model", &request.model, limits);
    let priority = checker.priority(request.priority);
    let policy = policy::policy(checker, request.policy_source.into(), limits);
    let messages = match request.conversation {
        Some(conversation) => checker.within("conversation", |checker| {
            conversation::guard_shape(checker, &conversation, false);
            conversation::messages(checker, conversation, limits, conversation::EmptyAnswer::Allowed)
        }),
        None => {
            checker.wrong("conversation", "is required");
            Vec::new()
        }
    };
    ClassifyFields {
        model: request.model,
        policy,
        messages,
        priority,
        decision,
        classifiers,
        fields: JudgedMessages {
            conversation: checker.path_of("conversation"),
            policy: checker.path_of("inline_policy"),
            judged: Judged::Conversation,
        },
    }
}

/// Checks a Classify; `path` is its path in the message that the caller sent. Waits while the guard is being loaded.
pub(crate) async fn classify(
    request: proto::ClassifyRequest,
    path: &str,
    context: &ValidationContext<'_>,
) -> Result<CheckedClassify, ServiceError> {
    let mut checker = Checker::at(path);
    let ClassifyFields {
        model,
        policy,
        messages,
        priority,
        decision,
        classifiers,
        fields,
    } = classify_fields(&mut checker, request, context.limits);
    let policy_field = checker.path_of(policy.field());
    checker.finish()?;
    let GuardAndPolicy { guard: lease, policy } =
        policy::find_guard(context, &model, policy, policy_field).await?;
    let Some(guard) = &lease.guard else {
        return Err(ServiceError::CapabilityMissing {
            has: lease.roles.clone(),
            needs: ModelRole::Guard,
        });
    };
    let DecidedBy {
        decider,
        category_probabilities,
    } = decision.find(&Checker::at(path), context.decisions, guard, policy.as_deref())?;
    let classifiers = classifier::find(context, classifiers).await?;
    Ok(CheckedClassify {
        work: ClassifyWork {
            guard: lease,
            policy,
            messages,
            priority,
            category_probabilities,
            fields,
        },
        decider,
        classifiers,
    })
}

/// Checks a batch as a whole, and returns the id of each item. The requests of the items are checked one by one, and fail
/// one by one.
pub(crate) fn batch(
    request: &proto::BatchClassifyRequest,
    limits: &Limits,
) -> Result<Vec<String>, ServiceError> {
    let given = request.items.iter().map(|item| item.id.as_str());
    item_ids(Checker::at(""), "items", given, limits)
}
