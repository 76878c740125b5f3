//! What decision policies go without is logged once for each classifier and reason, and not for each verdict: shadow policies, and
//! those about growing texts.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use super::error::ServiceError;

/// What has been logged. There are as many entries at most as decision policies have classifiers, times the reasons of errors.
#[derive(Debug, Default)]
pub(crate) struct ShadowLog(Mutex<HashSet<(String, &'static str)>>);

impl ShadowLog {
    /// Logs that a classifier is being loaded, and that shadow policies do not wait for it.
    pub(crate) fn loading(&self, model: &str) {
        if self.is_new(model, "LOADING") {
            tracing::info!(
                model,
                "a classifier that shadow policies have thresholds of is being loaded; until then they decide without it"
            );
        }
    }

    /// Logs why a classifier has no answer for a policy that decides without it.
    pub(crate) fn failed(&self, model: &str, error: &ServiceError) {
        let reason = error.reason().name();
        if self.is_new(model, reason) {
            tracing::warn!(
                model,
                reason,
                "a classifier that decision policies have thresholds of has no answer, so shadow policies and those about growing \
                 texts decide without it; further ones are not logged"
            );
        }
    }

    fn is_new(&self, model: &str, reason: &'static str) -> bool {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        logged.insert((model.to_owned(), reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_classifier_and_reason_is_new_once() {
        let log = ShadowLog::default();
        for (model, reason, is_new) in [
            ("watch", "LOADING", true),
            ("watch", "LOADING", false),
            ("watch", "MODEL_NOT_FOUND", true),
            ("other", "LOADING", true),
            ("watch", "MODEL_NOT_FOUND", false),
        ] {
            assert_eq!(log.is_new(model, reason), is_new, "{model} {reason}");
        }
    }
}
