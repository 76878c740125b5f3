//! Checks Classify and BatchClassify.

use std::sync::Arc;

use super::{
    checker::{Checker, ValidationContext},
    classifier::{self, ClassifierQuestion, ClassifierWork},
    conversation,
    decision::{DecidedBy, DecisionFields, JudgingGuard},
    policy::{self, CheckedPolicy, GuardAndPolicy},
    request::item_ids,
};
use crate::{
    guard::{
        JudgeScope, JudgedRole, LEAST_WINDOW_TOKENS, MAX_WINDOWS, Policy, SentMessage, WindowRules,
        judged_role,
    },
    proto,
    registry::{Lease, ModelRole},
    rpc::{decision::Decider, error::ServiceError, limits::Limits},
};

/// A checked Classify.
#[derive(Clone)]
pub(crate) struct ClassifyWork {
    pub(crate) guard: Lease,
    /// The policy that the guard judges by; `None` is its own.
    pub(crate) policy: Option<Arc<Policy>>,
    /// The conversation, whose last message is judged.
    pub(crate) messages: Vec<Arc<SentMessage>>,
    pub(crate) priority: proto::Priority,
    /// Whether the verdict has the probability of each category.
    pub(crate) category_probabilities: bool,
    /// The fields of these texts, which later errors name.
    pub(crate) fields: JudgedMessages,
}

/// A checked Classify of one or several messages, and what is done about the verdict.
pub(crate) struct CheckedClassify {
    pub(crate) work: ClassifyWork,
    pub(crate) judged: JudgedRange,
    pub(crate) decider: Decider,
    /// Who else looks at the last message.
    pub(crate) classifiers: Vec<ClassifierWork>,
}

/// Which messages of a conversation are judged, and what is done about those that are too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JudgedRange {
    pub(crate) scope: JudgeScope,
    /// For each message that is judged, the number of messages up to it, in rising order.
    pub(crate) ends: Vec<usize>,
    /// How a message is cut that is too long; without it, it is an error.
    pub(crate) windows: Option<WindowRules>,
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
    messages: Vec<Arc<SentMessage>>,
    judged: JudgedRange,
    priority: proto::Priority,
    decision: DecisionFields,
    classifiers: Vec<ClassifierQuestion>,
    fields: JudgedMessages,
}

pub(super) fn classify_fields(
    checker: &mut Checker,
    mut request: proto::ClassifyRequest,
    limits: &Limits,
) -> ClassifyFields {
    let named = std::mem::take(&mut request.decision_policy);
    let decision = DecisionFields::checked(checker, named, std::mem::take(&mut request.language))
        .with_category_probabilities(request.category_probabilities);
    let classifiers = classifier::questions(checker, std::mem::take(&mut request.classifiers), limits);
    checker.model_id("model", &request.model, limits);
    let priority = checker.priority(request.priority);
    let policy = policy::policy(checker, request.policy_source.into(), limits);
    let scope = conversation::scope(checker, request.judge);
    let other_parts = conversation::unjudgeable(checker, request.unjudgeable);
    let windows = request.windows.map(|windows| window_rules(checker, &windows));
    let (messages, ends) = match request.conversation {
        Some(conversation) => {
            let count = conversation.messages.len();
            let messages = checker.within("conversation", |checker| {
                conversation::guard_messages(checker, conversation, limits, other_parts)
            });
            // What is wrong with a message, or with their number, has been reported already.
            let ends = match messages.len() == count && count > 0 {
                true => conversation::ends(checker, &messages, scope),
                false => Vec::new(),
            };
            (messages, ends)
        }
        None => {
            checker.wrong("conversation", "is required");
            Default::default()
        }
    };
    ClassifyFields {
        model: request.model,
        policy,
        messages,
        judged: JudgedRange { scope, ends, windows },
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

fn window_rules(checker: &mut Checker, windows: &proto::Windows) -> WindowRules {
    let default = WindowRules::default();
    let number = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
    checker.within("windows", |checker| {
        let tokens = Some(number(windows.tokens)).filter(|tokens| *tokens > 0);
        if tokens.is_some_and(|tokens| tokens < LEAST_WINDOW_TOKENS) {
            checker.wrong(
                "tokens",
                format!(
                    "must be {LEAST_WINDOW_TOKENS} or more, or 0 for as many as fit, is {}",
                    windows.tokens
                ),
            );
        }
        let most = match number(windows.most) {
            0 => default.most,
            most => most,
        };
        if most > MAX_WINDOWS {
            checker.wrong("most", format!("must be at most {MAX_WINDOWS}, is {most}"));
        }
        WindowRules {
            tokens,
            overlap: windows.overlap_tokens.map_or(default.overlap, number),
            most,
        }
    })
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
        judged,
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
    } = decision.find(
        &Checker::at(path),
        context.decisions,
        &JudgingGuard {
            entry: &lease,
            guard,
            policy: policy.as_deref(),
            roles: &judged_roles(&messages, &judged.ends),
        },
    )?;
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
        judged,
        decider,
        classifiers,
    })
}

/// The sides of the messages that end these beginnings of a conversation, each once.
fn judged_roles(messages: &[Arc<SentMessage>], ends: &[usize]) -> Vec<JudgedRole> {
    let mut roles = Vec::new();
    for role in ends
        .iter()
        .filter_map(|end| messages.get(..*end))
        .map(judged_role)
    {
        if !roles.contains(&role) {
            roles.push(role);
        }
    }
    roles
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
