//! What a check that failed means for its device.

use crate::backend::FindingStatus;

/// The status of a check that failed.
pub(super) fn unusable() -> FindingStatus {
    FindingStatus::Unusable {
        fix: "do not serve models from this device, and report it".to_owned(),
    }
}
