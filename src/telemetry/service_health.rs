//! Which services serve, as gRPC health says it, for those who ask over HTTP.

use std::collections::BTreeMap;

/// Which services serve, by their names. The empty name is the server as a whole. Empty until the server has begun.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceHealth(BTreeMap<&'static str, bool>);

impl ServiceHealth {
    /// Whether this service serves: `None` if the server has no such service. Before the server has begun, none serves.
    pub(super) fn serves(&self, service: &str) -> Option<bool> {
        match self.0.get(service) {
            Some(serves) => Some(*serves),
            None if self.0.is_empty() => Some(false),
            None => None,
        }
    }
}

impl FromIterator<(&'static str, bool)> for ServiceHealth {
    fn from_iter<I: IntoIterator<Item = (&'static str, bool)>>(services: I) -> Self {
        Self(services.into_iter().collect())
    }
}
