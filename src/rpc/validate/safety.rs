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
    /// The conversation's field, for errors found later.
    pub(crate) field: String,
}

/// Checks a Classify; `path` is where it lies in what the caller sent. The guard may have to be waited for.
pub(crate) async fn classify(
    request: &proto::ClassifyRequest,
    path: &str,
    registry: &Registry,
    (limits, deadline): (&Limits, Deadline),
) -> Result<ClassifyWork, ServiceError> {
    let mut checker = Checker::at(path);
    checker.model_id("model", &request.model, limits);
    let priority = checker.priority(request.priority);
    let policy = policy::policy(&mut checker, request.policy_source.clone().into(), limits);
    let field = checker.path_of("conversation");
    let messages = match &request.conversation {
        Some(conversation) => checker.within("conversation", |checker| {
            conversation::guard_shape(checker, conversation, false);
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
        field,
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
