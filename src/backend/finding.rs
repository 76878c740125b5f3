//! What was found of a device, or of something that it needs: lines of `doctor`.

/// One thing that was looked for, or one check of a device's self-test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFinding {
    /// What was looked for or checked, for example `NVIDIA driver`.
    pub subject: String,
    /// What is there, for example a version, or how the check went.
    pub found: String,
    /// Whether it can be used.
    pub status: FindingStatus,
}

/// Whether what was found can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FindingStatus {
    /// It can be used.
    Ok,
    /// It is not there.
    Missing {
        /// How to get it.
        fix: String,
    },
    /// It is there and cannot be used, or a check of it failed.
    Unusable {
        /// What to do about it.
        fix: String,
    },
}
