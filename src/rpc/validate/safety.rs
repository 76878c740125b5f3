//! Classify and its batch.

use std::collections::HashSet;

use super::{Checker, conversation};
use crate::{
    proto,
    registry::{Lease, Registry},
    rpc::{deadline::Deadline, error::ServiceError, limits::Limits},
    text::ChatMessage,
};

/// A checked Classify.
pub(crate) struct ClassifyWork {
    pub(crate) guard: Lease,
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
    let guard = async {
        let guard = registry.guard(&request.model).await;
        guard.map_err(|error| ServiceError::from_lookup(error, &request.model))
    };
    let guard = deadline.limit(guard).await?;
    Ok(ClassifyWork {
        guard,
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
    let mut checker = Checker::at("");
    let count = request.items.len();
    if count == 0 || count > limits.batch_items {
        checker.wrong(
            "items",
            format!("must have 1..={} items, has {count}", limits.batch_items),
        );
    }
    let mut ids = Vec::with_capacity(count.min(limits.batch_items));
    let mut seen = HashSet::new();
    let mut duplicate = None;
    for (index, item) in request.items.iter().take(limits.batch_items).enumerate() {
        let field = format!("items[{index}].id");
        checker.bytes(&field, item.id.len(), 0..=limits.id_bytes);
        let id = if item.id.is_empty() {
            index.to_string()
        } else {
            item.id.clone()
        };
        if !seen.insert(id.clone()) {
            duplicate.get_or_insert(field);
        }
        ids.push(id);
    }
    checker.finish()?;
    match duplicate {
        Some(field) => Err(ServiceError::ItemIdOpen { field }),
        None => Ok(ids),
    }
}
