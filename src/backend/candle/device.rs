//! Devices of candle by their names.

use std::{fmt, str::FromStr};

use candle_core::Device;

use super::faults;

/// A device that candle computes on. As text it is the name that settings and provenance use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CandleDevice {
    /// `candle:cpu`: the host's processor.
    Cpu,
    /// `candle:metal`: Apple's GPU.
    Metal,
    /// `candle:cuda:0`: the NVIDIA GPU of this index, as CUDA counts them.
    Cuda(usize),
}

/// A name that is not one of candle's devices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a device of candle: there are candle:cpu, candle:metal and candle:cuda:N")]
pub struct UnknownDevice {
    /// The name.
    pub found: String,
}

/// Why a device of candle cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The program was built without it.
    #[error("{device} is not part of this build: build with --features {feature}")]
    NotBuilt {
        /// The device.
        device: CandleDevice,
        /// The feature that it is part of.
        feature: &'static str,
    },
    /// The system does not have the device, or its driver refuses it.
    #[error("{device} cannot be opened: {reason}")]
    Refused {
        /// The device.
        device: CandleDevice,
        /// The driver's reason.
        reason: String,
    },
}

impl CandleDevice {
    /// Opens the device.
    ///
    /// # Errors
    /// When it is not part of this build, or the driver refuses it.
    pub(super) fn open(self) -> Result<Device, OpenError> {
        let missing = |feature| {
            Err(OpenError::NotBuilt {
                device: self,
                feature,
            })
        };
        let opened = match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Metal if !cfg!(feature = "metal") => return missing("metal"),
            Self::Metal => Device::new_metal(0),
            Self::Cuda(_) if !cfg!(feature = "candle-cuda") => return missing("candle-cuda"),
            Self::Cuda(index) => Device::new_cuda(index),
        };
        opened.map_err(|error| OpenError::Refused {
            device: self,
            reason: faults::text(&error),
        })
    }

    /// What it computes with, as provenance says it.
    pub(super) fn architecture(self) -> &'static str {
        match self {
            Self::Cpu => std::env::consts::ARCH,
            Self::Metal => "metal",
            Self::Cuda(_) => "cuda",
        }
    }
}

impl fmt::Display for CandleDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("candle:cpu"),
            Self::Metal => f.write_str("candle:metal"),
            Self::Cuda(index) => write!(f, "candle:cuda:{index}"),
        }
    }
}

impl FromStr for CandleDevice {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = match text {
            "candle:cpu" => Some(Self::Cpu),
            "candle:metal" => Some(Self::Metal),
            _ => text
                .strip_prefix("candle:cuda:")
                // A sign or a leading zero would give one device two names.
                .and_then(|index| index.parse().ok())
                .map(Self::Cuda)
                .filter(|device| device.to_string() == text),
        };
        found.ok_or_else(|| UnknownDevice {
            found: text.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for device in [
            CandleDevice::Cpu,
            CandleDevice::Metal,
            CandleDevice::Cuda(0),
            CandleDevice::Cuda(11),
        ] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        for wrong in [
            "",
            "cpu",
            "candle",
            "candle:cuda",
            "candle:cuda:",
            "candle:cuda:-1",
            "candle:cuda:+1",
            "candle:cuda:01",
        ] {
            let error = wrong.parse::<CandleDevice>().unwrap_err();
            assert_eq!(error.found, wrong);
            assert!(error.to_string().contains("candle:cuda:N"), "{error}");
        }
    }

    #[test]
    fn a_device_that_is_not_built_names_its_feature() {
        if cfg!(feature = "candle-cuda") {
            return;
        }
        let error = CandleDevice::Cuda(3).open().unwrap_err();
        assert_eq!(
            error.to_string(),
            "candle:cuda:3 is not part of this build: build with --features candle-cuda"
        );
    }
}
