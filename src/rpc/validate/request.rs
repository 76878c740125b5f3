//! Checks what all requests have in common, and the requests of ModelService.

use std::{collections::HashSet, time::Duration};

use super::checker::Checker;
use crate::rpc::{clock::now, deadline::Deadline, error::ServiceError, limits::Limits};

/// Refuses a request that is too large as a whole.
pub(crate) fn message_size(encoded_len: usize, limits: &Limits) -> Result<(), ServiceError> {
    if encoded_len > limits.message_bytes {
        return Err(ServiceError::MessageTooLarge {
            limit_bytes: limits.message_bytes,
        });
    }
    Ok(())
}

/// The deadline of an item with this timeout.
pub(crate) fn item_timeout(timeout: Option<&prost_types::Duration>) -> Result<Deadline, ServiceError> {
    let Some(timeout) = timeout else {
        return Ok(Deadline::default());
    };
    match Duration::try_from(*timeout) {
        Ok(timeout) if !timeout.is_zero() => Ok(Deadline::after(now(), timeout)),
        _ => Err(ServiceError::field("timeout", "must be a positive duration")),
    }
}

/// Checks the number and the ids of the items of the list `field`, after what `checker` has found before, and returns the
/// ids. An empty id becomes the item's index.
pub(crate) fn item_ids<'a>(
    mut checker: Checker,
    field: &str,
    given: impl ExactSizeIterator<Item = &'a str>,
    limits: &Limits,
) -> Result<Vec<String>, ServiceError> {
    let count = given.len();
    if count == 0 || count > limits.batch_items {
        checker.wrong(
            field,
            format!("must have 1..={} items, has {count}", limits.batch_items),
        );
    }
    let mut ids = Vec::with_capacity(count.min(limits.batch_items));
    let mut seen = HashSet::new();
    let mut duplicate = None;
    for (index, id) in given.take(limits.batch_items).enumerate() {
        let field = format!("{field}[{index}].id");
        checker.bytes(&field, id.len(), 0..=limits.id_bytes);
        let id = if id.is_empty() {
            index.to_string()
        } else {
            id.to_owned()
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

/// Checks the id of an item.
pub(crate) fn item_id(id: &str, limits: &Limits) -> Result<(), ServiceError> {
    let mut checker = Checker::at("");
    checker.bytes("id", id.len(), 1..=limits.id_bytes);
    checker.finish()
}

/// Checks a CountTokens.
pub(crate) fn count_tokens(
    request: &crate::proto::CountTokensRequest,
    limits: &Limits,
) -> Result<(), ServiceError> {
    let mut checker = Checker::at("");
    checker.model_id("model", &request.model, limits);
    checker.bytes("text", request.text.len(), 0..=limits.content_bytes);
    checker.finish()
}

/// Most models on a page of ListModels.
const MOST_PAGE_SIZE: u32 = 1000;

/// Models on a page of ListModels when the request names no number.
const DEFAULT_PAGE_SIZE: u32 = 50;

/// Checks the page size, position and filter of a ListModels; `models` is the number of models.
pub(crate) fn list_models(
    request: &crate::proto::ListModelsRequest,
    models: usize,
) -> Result<ListWork, ServiceError> {
    let mut checker = Checker::at("");
    let page_size = match u32::try_from(request.page_size) {
        Ok(0) => DEFAULT_PAGE_SIZE,
        Ok(size) => size.min(MOST_PAGE_SIZE),
        Err(_) => {
            checker.wrong("page_size", "must not be negative");
            0
        }
    };
    let start = if request.page_token.is_empty() {
        0
    } else {
        match request.page_token.parse::<usize>() {
            Ok(start) if start < models => start,
            _ => {
                checker.wrong("page_token", "is not one that ListModels gave out");
                0
            }
        }
    };
    let capability = crate::proto::Capability::try_from(request.capability);
    if capability.is_err() {
        checker.wrong("capability", "is not a known value");
    }
    checker.finish()?;
    Ok(ListWork {
        start,
        page_size: usize::try_from(page_size).unwrap_or(usize::MAX),
        capability: capability.unwrap_or_default(),
    })
}

/// A checked ListModels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListWork {
    pub(crate) start: usize,
    pub(crate) page_size: usize,
    pub(crate) capability: crate::proto::Capability,
}
