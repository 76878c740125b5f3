//! Refuses what is no decoder, on devices that compute decoders only.

use std::path::Path;

use crate::model::{EncoderKind, LoadError, LoadFault, ResourceProblem, spec::DeviceName};

/// # Errors
/// When the model at `path` is an encoder, which `device` does not compute.
pub(in crate::backend) fn expect_decoder(path: &Path, device: DeviceName) -> Result<(), LoadError> {
    match EncoderKind::detect(path) {
        None => Ok(()),
        Some(kind) => {
            let not_computed = ResourceProblem::NotOnDevice {
                what: kind.name(),
                device,
            };
            Err(LoadFault::from(not_computed).at(path.display().to_string()))
        }
    }
}
