//! Names of the devices that models are computed on, as settings and provenance write them.

use std::{fmt, str::FromStr};

/// A device that models are computed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceName {
    /// `cpu`: the host's processor.
    Cpu,
    /// `cuda:N`: the NVIDIA card with this number, counted as the driver counts them.
    Cuda(u32),
    /// `candle:DEVICE`: a device that the candle library computes on.
    Candle(CandleDevice),
}

/// A device of the candle library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CandleDevice {
    /// `candle:cpu`: the host's processor.
    Cpu,
    /// `candle:metal`: the GPU of an Apple computer.
    Metal,
    /// `candle:cuda:N`: the NVIDIA card with this number.
    Cuda(u32),
}

/// The device that a setting asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceChoice {
    /// `auto`: a card that has the memory for the model, or else the host's processor.
    Auto,
    /// This device and no other.
    Only(DeviceName),
}

/// What a device may be called, for error messages.
const EXPECTED: &str = "there are cpu, cuda:N (such as cuda:0), candle:cpu, candle:metal and candle:cuda:N";

/// What a setting of a device may say, for error messages.
const EXPECTED_CHOICE: &str =
    "there are auto, cpu, cuda:N (such as cuda:0), candle:cpu, candle:metal and candle:cuda:N";

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Candle(device) => write!(f, "candle:{device}"),
        }
    }
}

impl fmt::Display for CandleDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Metal => f.write_str("metal"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Only(device) => device.fmt(f),
        }
    }
}

impl FromStr for DeviceName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split(':').collect();
        match parts[..] {
            ["cpu"] => Ok(Self::Cpu),
            ["cuda", number] => Ok(Self::Cuda(card_number(number)?)),
            ["candle", "cpu"] => Ok(Self::Candle(CandleDevice::Cpu)),
            ["candle", "metal"] => Ok(Self::Candle(CandleDevice::Metal)),
            ["candle", "cuda", number] => Ok(Self::Candle(CandleDevice::Cuda(card_number(number)?))),
            _ => Err(EXPECTED),
        }
    }
}

/// A card's number, in the only way of writing it.
fn card_number(text: &str) -> Result<u32, &'static str> {
    let number: u32 = text.parse().map_err(|_| EXPECTED)?;
    if number.to_string() == text {
        Ok(number)
    } else {
        Err(EXPECTED)
    }
}

impl FromStr for DeviceChoice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Only).map_err(|_| EXPECTED_CHOICE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let names = [
            "cpu",
            "cuda:0",
            "cuda:11",
            "candle:cpu",
            "candle:metal",
            "candle:cuda:3",
        ];
        for name in names {
            let device: DeviceName = name.parse().unwrap();
            assert_eq!(device.to_string(), name);
            assert_eq!(name.parse(), Ok(DeviceChoice::Only(device)));
            assert_eq!(DeviceChoice::Only(device).to_string(), name);
        }
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
        assert_eq!(DeviceChoice::Auto.to_string(), "auto");
    }

    #[test]
    fn what_names_no_device_is_refused_with_the_names_that_there_are() {
        let wrong = [
            "",
            "gpu",
            "CPU",
            "cuda",
            "cuda:",
            "cuda:x",
            "cuda:-1",
            "cuda:+1",
            "cuda:01",
            "cuda:4294967296",
            "cuda:0:1",
            "metal",
            "candle",
            "candle:cuda",
            "cpu:0",
            " cpu",
        ];
        for name in wrong {
            assert_eq!(name.parse::<DeviceName>(), Err(EXPECTED), "{name}");
            assert_eq!(name.parse::<DeviceChoice>(), Err(EXPECTED_CHOICE), "{name}");
        }
        assert_eq!("auto".parse::<DeviceName>(), Err(EXPECTED));
    }
}
