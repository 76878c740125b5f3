//! What a search for devices finds, and why a device cannot be used.

use crate::model::spec::DeviceName;

/// What to do about a device that is not there.
#[cfg(any(feature = "cuda", feature = "candle"))]
pub(super) const NAME_ANOTHER: &str =
    "name a device that is there (`babelward doctor` lists them), or say auto";

/// Why a device that was named cannot be used, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("device {device}: {problem}: {fix}")]
pub struct DeviceError {
    /// The device.
    pub device: DeviceName,
    /// Why it cannot be used.
    pub problem: DeviceProblem,
    /// What to do.
    pub fix: String,
}

/// Why a device cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceProblem {
    /// This program was built without the part that computes there.
    #[error("this program was built without it")]
    NotBuilt,
    /// The machine has no such device. The text says what was looked for.
    #[error("this machine does not have it ({0})")]
    Absent(String),
    /// It is there and cannot be used. The text says why.
    #[error("it cannot be used ({0})")]
    Unusable(String),
}

impl DeviceProblem {
    /// Why a device that would only have been preferred is left out.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::NotBuilt => self.to_string(),
            Self::Absent(reason) | Self::Unusable(reason) => reason.clone(),
        }
    }
}

/// What a search for NVIDIA cards found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CardSearch {
    /// The machine has none, or none that this process can see. The text says what was looked for.
    None(String),
    /// There are some, and this program can use none of them.
    Unusable {
        /// Why not.
        reason: String,
        /// What to do about it.
        fix: String,
    },
    /// The numbers of those that can be opened.
    Found(Vec<u32>),
}
