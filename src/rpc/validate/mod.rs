//! Requests to checked work. Every check of a request runs before any of them answers, so that a caller
//! learns all violations at once; only then are models looked up.

mod conversation;
mod generation;
mod policy;
mod quality;
mod safety;

use std::{
    collections::HashSet,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

pub(crate) use self::{
    generation::{GenerateWork, Prompt, ScoreWork, generate, score},
    quality::{Pair, QualityWork, estimate_quality},
    safety::{ClassifyWork, Judged, JudgedPlaces, batch, classify},
};
use super::{
    deadline::Deadline,
    error::{ServiceError, Violation},
    limits::Limits,
};
use crate::proto::Priority;

/// Collects violations while it walks down a request.
pub(crate) struct Checker {
    path: String,
    fields: Vec<Violation>,
    shape: Vec<Violation>,
}

impl Checker {
    /// `path` is where the request lies in what the caller sent; empty for the message itself.
    pub(crate) fn at(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            fields: Vec::new(),
            shape: Vec::new(),
        }
    }

    /// Walks into a field.
    fn within<T>(&mut self, field: &str, check: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        self.path = self.path_of(field);
        let result = check(self);
        self.path.truncate(length);
        result
    }

    /// The full path of a field below the current one.
    fn path_of(&self, field: &str) -> String {
        if self.path.is_empty() || field.is_empty() {
            format!("{}{field}", self.path)
        } else {
            format!("{}.{field}", self.path)
        }
    }

    /// A field is missing, wrong or out of range.
    fn wrong(&mut self, field: &str, description: impl Into<String>) {
        self.fields.push(Violation::new(self.path_of(field), description));
    }

    /// A message has a role that the model does not take there.
    fn misplaced(&mut self, field: &str, description: impl Into<String>) {
        self.shape.push(Violation::new(self.path_of(field), description));
    }

    /// A length in bytes.
    fn bytes(&mut self, field: &str, length: usize, allowed: RangeInclusive<usize>) {
        if !allowed.contains(&length) {
            self.wrong(
                field,
                format!(
                    "must have {}..={} bytes, has {length}",
                    allowed.start(),
                    allowed.end()
                ),
            );
        }
    }

    /// A number; not-a-number is in no range.
    fn number(&mut self, field: &str, value: f64, allowed: RangeInclusive<f64>) {
        if !allowed.contains(&value) {
            self.wrong(
                field,
                format!("must be {}..={}, is {value}", allowed.start(), allowed.end()),
            );
        }
    }

    /// A model id; empty is the default.
    fn model_id(&mut self, field: &str, id: &str, limits: &Limits) {
        self.bytes(field, id.len(), 0..=limits.id_bytes);
    }

    /// A priority; the call's own where the request does not say.
    fn priority(&mut self, value: i32) -> Priority {
        Priority::try_from(value).unwrap_or_else(|_| {
            self.wrong("priority", "is not a known value");
            Priority::Unspecified
        })
    }

    /// All violations, if there are any.
    pub(crate) fn finish(mut self) -> Result<(), ServiceError> {
        if !self.fields.is_empty() {
            self.fields.append(&mut self.shape);
            Err(ServiceError::InvalidFields(self.fields))
        } else if !self.shape.is_empty() {
            Err(ServiceError::ConversationShape(self.shape))
        } else {
            Ok(())
        }
    }
}

/// Whether the request as a whole is small enough.
pub(crate) fn message_size(encoded_len: usize, limits: &Limits) -> Result<(), ServiceError> {
    if encoded_len > limits.message_bytes {
        return Err(ServiceError::MessageTooLarge {
            limit_bytes: limits.message_bytes,
        });
    }
    Ok(())
}

/// An item's own timeout as a deadline from now.
pub(crate) fn item_timeout(timeout: Option<&prost_types::Duration>) -> Result<Deadline, ServiceError> {
    let Some(timeout) = timeout else {
        return Ok(Deadline::default());
    };
    match Duration::try_from(*timeout) {
        Ok(timeout) if !timeout.is_zero() => Ok(Deadline::after(Instant::now(), timeout)),
        _ => Err(ServiceError::field("timeout", "must be a positive duration")),
    }
}

/// Ids of the items of the list `field`, each the index where it is empty; how many there are is checked as well, with
/// all that `checker` has found before.
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

/// An item's id.
pub(crate) fn item_id(id: &str, limits: &Limits) -> Result<(), ServiceError> {
    let mut checker = Checker::at("");
    checker.bytes("id", id.len(), 1..=limits.id_bytes);
    checker.finish()
}

/// Text of CountTokens.
pub(crate) fn count_tokens(
    request: &crate::proto::CountTokensRequest,
    limits: &Limits,
) -> Result<(), ServiceError> {
    let mut checker = Checker::at("");
    checker.model_id("model", &request.model, limits);
    checker.bytes("text", request.text.len(), 0..=limits.content_bytes);
    checker.finish()
}

/// Page size, position and filter of ListModels; `models` is how many there are.
pub(crate) fn list_models(
    request: &crate::proto::ListModelsRequest,
    models: usize,
    limits: &Limits,
) -> Result<ListWork, ServiceError> {
    let mut checker = Checker::at("");
    let page_size = match u32::try_from(request.page_size) {
        Ok(0) => limits.default_page_size,
        Ok(size) => size.min(limits.page_size),
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

#[cfg(test)]
mod tests;
