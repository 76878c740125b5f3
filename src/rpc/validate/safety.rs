//! Checks Classify and BatchClassify.

use std::sync::Arc;

use super::{
    checker::{Checker, ValidationContext},
    conversation,
    policy::{self, CheckedPolicy},
    request::item_ids,
};
use crate::{
    guard::Policy,
    proto,
    registry::Lease,
    rpc::{error::ServiceError, limits::Limits},
    text::ChatMessage,
};

/// A checked Classify.
#[derive(Clone)]
pub(crate) struct ClassifyWork {
    pub(crate) guard: Lease,
    /// The policy that the guard judges by; `None` is its own.
    pub(crate) policy: Option<Arc<Policy>>,
    pub(crate) messages: Vec<ChatMessage>,
    pub(crate) priority: proto::Priority,
    /// The fields of these texts, which later errors name.
    pub(crate) fields: JudgedMessages,
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
    fields: JudgedMessages,
}

pub(super) fn classify_fields(
    checker: &mut Checker,
    request: proto::ClassifyRequest,
    limits: &Limits,
) -> ClassifyFields {
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
) -> Result<ClassifyWork, ServiceError> {
    let registry = context.registry;
    let mut checker = Checker::at(path);
    let ClassifyFields {
        model,
        policy,
        messages,
        priority,
        fields,
    } = classify_fields(&mut checker, request, context.limits);
    checker.finish()?;
    let policy = policy.find(registry)?;
    let guard = async {
        let guard = registry.guard(&model).await;
        guard.map_err(|error| ServiceError::from_lookup(error, &model))
    };
    let guard = context.deadline.limit(guard).await?;
    Ok(ClassifyWork {
        guard,
        policy,
        messages,
        priority,
        fields,
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
