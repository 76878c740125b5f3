//! Classify and its batch.

use std::sync::Arc;

use super::{Checker, conversation, item_ids, policy};
use crate::{
    guard::Policy,
    proto,
    registry::{Lease, Registry},
    rpc::{deadline::Deadline, error::ServiceError, limits::Limits},
    text::ChatMessage,
};

/// A checked Classify.
pub(crate) struct ClassifyWork {
    pub(crate) guard: Lease,
    /// `None` is the guard's own.
    pub(crate) policy: Option<Arc<Policy>>,
    pub(crate) messages: Vec<ChatMessage>,
    pub(crate) priority: proto::Priority,
    /// Where these texts lie in what the caller sent, for errors found later.
    pub(crate) places: JudgedPlaces,
}

/// Where a guard's conversation and policy come from.
#[derive(Clone)]
pub(crate) struct JudgedPlaces {
    /// The conversation's field, or that of a prompt.
    pub(crate) conversation: String,
    /// A policy that the request brings. Those of the configuration were encoded when the guard was loaded.
    pub(crate) policy: String,
    /// What is judged.
    pub(crate) judged: Judged,
}

/// Who wrote what a guard judges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Judged {
    /// The caller, a conversation.
    Conversation,
    /// A model, the answer to a conversation; `guard` is the field that names the guard.
    AnswerToConversation { guard: String },
    /// A model, the answer to a raw text or to tokens; `guard` is the field that names the guard.
    AnswerToText { guard: String },
}

/// Checks a Classify; `path` is where it lies in what the caller sent. The guard may have to be waited for.
pub(crate) async fn classify(
    request: proto::ClassifyRequest,
    path: &str,
    registry: &Registry,
    (limits, deadline): (&Limits, Deadline),
) -> Result<ClassifyWork, ServiceError> {
    let mut checker = Checker::at(path);
    checker.model_id("model", &request.model, limits);
    let priority = checker.priority(request.priority);
    let policy = policy::policy(&mut checker, request.policy_source.into(), limits);
    let policy_field = checker.path_of("inline_policy");
    let field = checker.path_of("conversation");
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
    checker.finish()?;
    let policy = policy.find(registry)?;
    let guard = async {
        let guard = registry.guard(&request.model).await;
        guard.map_err(|error| ServiceError::from_lookup(error, &request.model))
    };
    let guard = deadline.limit(guard).await?;
    Ok(ClassifyWork {
        guard,
        policy,
        messages,
        priority,
        places: JudgedPlaces {
            conversation: field,
            policy: policy_field,
            judged: Judged::Conversation,
        },
    })
}

/// Checks what concerns a batch as a whole; returns each item's id. The items' own requests are checked one
/// by one, and fail one by one.
pub(crate) fn batch(
    request: &proto::BatchClassifyRequest,
    limits: &Limits,
) -> Result<Vec<String>, ServiceError> {
    let given = request.items.iter().map(|item| item.id.as_str());
    item_ids(Checker::at(""), "items", given, limits)
}
