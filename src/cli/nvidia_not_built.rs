//! NVIDIA cards in a program that was built without the feature `cuda`: there are none that it can use.

use std::sync::Arc;

use super::device_error::{CardSearch, DeviceError, DeviceProblem};
use crate::{
    backend::{Backend, DeviceFinding},
    model::spec::DeviceName,
};

/// Finds none.
pub(super) fn cards() -> CardSearch {
    CardSearch::None("this program was built without the feature cuda".to_owned())
}

/// Opens none.
///
/// # Errors
/// Always: this program cannot use them.
pub(super) fn open(number: u32) -> Result<Arc<dyn Backend>, DeviceError> {
    Err(DeviceError {
        device: DeviceName::Cuda(number),
        problem: DeviceProblem::NotBuilt,
        fix: "build it with the feature cuda, which is on unless --no-default-features is given".to_owned(),
    })
}

/// No library is looked for.
pub(super) fn libraries() -> Vec<DeviceFinding> {
    Vec::new()
}
