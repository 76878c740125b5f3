//! Requests to served models that failed while prompts were translated.

use crate::client::ClientError;

/// Requests to served models that failed.
#[derive(Debug, Default)]
pub struct Failures {
    /// How many there are.
    pub count: usize,
    /// The first of them.
    pub first: Option<ClientError>,
}

impl Failures {
    pub(super) fn add(&mut self, error: ClientError) {
        self.count += 1;
        self.first.get_or_insert(error);
    }
}
