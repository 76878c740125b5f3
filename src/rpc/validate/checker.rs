//! Collects the violations of a request while its fields are checked.

use std::ops::RangeInclusive;

use crate::{
    guard::DecisionSet,
    proto::Priority,
    registry::Registry,
    rpc::{
        deadline::Deadline,
        error::{ServiceError, Violation},
        limits::Limits,
        sequence::Shared,
        shadow_log::ShadowLog,
    },
};

/// What a request is checked against.
pub(crate) struct ValidationContext<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) limits: &'a Limits,
    pub(crate) decisions: &'a DecisionSet,
    /// What shadow policies went without.
    pub(crate) shadow_log: &'a ShadowLog,
    /// Checks may wait until this for models to be loaded.
    pub(crate) deadline: Deadline,
}

impl<'a> ValidationContext<'a> {
    pub(crate) fn of(shared: &'a Shared, deadline: Deadline) -> Self {
        Self {
            registry: &shared.registry,
            limits: &shared.limits,
            decisions: &shared.decisions,
            shadow_log: &shared.shadow_log,
            deadline,
        }
    }
}

/// Collects the violations of a request while its fields are checked.
pub(crate) struct Checker {
    path: String,
    fields: Vec<Violation>,
    shape: Vec<Violation>,
}

impl Checker {
    /// A checker for the request at `path` of the message that the caller sent; the path is empty for the message itself.
    pub(crate) fn at(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            fields: Vec::new(),
            shape: Vec::new(),
        }
    }

    /// Checks the fields of a message in a field.
    pub(super) fn within<T>(&mut self, field: &str, check: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        self.path = self.path_of(field);
        let result = check(self);
        self.path.truncate(length);
        result
    }

    /// The full path of a field below the current one.
    pub(super) fn path_of(&self, field: &str) -> String {
        if self.path.is_empty() || field.is_empty() {
            format!("{}{field}", self.path)
        } else {
            format!("{}.{field}", self.path)
        }
    }

    /// Records that a field is missing, wrong or out of range.
    pub(super) fn wrong(&mut self, field: &str, description: impl Into<String>) {
        self.fields.push(Violation::new(self.path_of(field), description));
    }

    /// Records that a message has a role which the model does not accept at its position.
    pub(super) fn misplaced(&mut self, field: &str, description: impl Into<String>) {
        self.shape.push(Violation::new(self.path_of(field), description));
    }

    /// Checks a length in bytes.
    pub(super) fn bytes(&mut self, field: &str, length: usize, allowed: RangeInclusive<usize>) {
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

    /// Checks a number. Not-a-number is in no range.
    pub(super) fn number(&mut self, field: &str, value: f64, allowed: RangeInclusive<f64>) {
        if !allowed.contains(&value) {
            self.wrong(
                field,
                format!("must be {}..={}, is {value}", allowed.start(), allowed.end()),
            );
        }
    }

    /// Checks a model id. An empty one stands for the default.
    pub(super) fn model_id(&mut self, field: &str, id: &str, limits: &Limits) {
        self.bytes(field, id.len(), 0..=limits.id_bytes);
    }

    /// Checks a priority.
    pub(super) fn priority(&mut self, value: i32) -> Priority {
        Priority::try_from(value).unwrap_or_else(|_| {
            self.wrong("priority", "is not a known value");
            Priority::Unspecified
        })
    }

    /// The error with all violations, if there are any.
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
