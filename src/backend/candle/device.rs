//! Opening the devices of candle.

use candle_core::Device;

use super::faults;
use crate::model::spec::CandleDevice;

/// Why a device of candle cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The program was built without it.
    #[error("candle:{device} is not part of this build: build with {options}")]
    NotBuilt {
        /// The device.
        device: CandleDevice,
        /// Options of `cargo build` that it is built with.
        options: &'static str,
    },
    /// The system does not have the device, or its driver refuses it.
    #[error("candle:{device} cannot be opened: {reason}")]
    Refused {
        /// The device.
        device: CandleDevice,
        /// The driver's reason.
        reason: String,
    },
}

/// Opens a device.
///
/// # Errors
/// When it is not part of this build, or the driver refuses it.
pub(super) fn open(device: CandleDevice) -> Result<Device, OpenError> {
    let missing = |options| Err(OpenError::NotBuilt { device, options });
    let opened = match device {
        CandleDevice::Cpu => Ok(Device::Cpu),
        CandleDevice::Metal if !cfg!(feature = "metal") => return missing("--features metal"),
        CandleDevice::Metal => Device::new_metal(0),
        CandleDevice::Cuda(_) if !cfg!(feature = "candle-cuda") => {
            return missing("--no-default-features --features candle-cuda");
        }
        CandleDevice::Cuda(number) => Device::new_cuda(number as usize),
    };
    opened.map_err(|error| OpenError::Refused {
        device,
        reason: faults::text(&error),
    })
}

/// What a device computes with, as provenance says it.
pub(super) fn architecture(device: CandleDevice) -> &'static str {
    match device {
        CandleDevice::Cpu => std::env::consts::ARCH,
        CandleDevice::Metal => "metal",
        CandleDevice::Cuda(_) => "cuda",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_built_names_its_feature() {
        if cfg!(feature = "candle-cuda") {
            return;
        }
        let error = open(CandleDevice::Cuda(3)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "candle:cuda:3 is not part of this build: build with --no-default-features --features candle-cuda"
        );
    }
}
