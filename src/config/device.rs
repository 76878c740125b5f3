//! Values of the keys that say which device models are on, how much of its memory they may take and what it must promise.

use super::value::{Bytes, Raw, Setting};
use crate::model::spec::DeviceChoice;

/// How much of the memory of a device that has memory of its own all its models together may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceBudget {
    /// This many hundredths of what is free there when the server starts.
    Percent(u8),
    /// This many bytes, or what is free if that is less.
    Bytes(u64),
}

impl DeviceBudget {
    /// What `auto` means. The last tenth is for what the budget does not count: the driver's own needs, which grow while
    /// kernels run, and workspaces of libraries.
    pub const AUTO: Self = Self::Percent(90);

    /// The budget in bytes on a device that has so many bytes free.
    pub fn of(self, free: u64) -> u64 {
        match self {
            // The division comes first, so that no product exceeds the type.
            Self::Percent(percent) => free / 100 * u64::from(percent),
            Self::Bytes(bytes) => bytes.min(free),
        }
    }
}

/// What is done about a model whose results may depend on what else is in its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeterminismPolicy {
    /// It is served, and the provenance of its answers says so.
    Report,
    /// It is not served.
    Required,
}

impl Setting for DeviceChoice {
    const EXPECTS: &'static str =
        "write auto, cpu, cuda:N (such as cuda:0), candle:cpu, candle:metal or candle:cuda:N";

    fn parse(raw: &Raw) -> Option<Self> {
        raw.text()?.parse().ok()
    }

    fn placeholder() -> Self {
        Self::Auto
    }
}

impl Setting for DeviceBudget {
    const EXPECTS: &'static str = "write a size such as 20GiB, a percentage from 1% to 100%, or auto";

    fn parse(raw: &Raw) -> Option<Self> {
        let text = raw.text()?;
        match text.strip_suffix('%') {
            Some(percent) => {
                let percent: u8 = percent.parse().ok()?;
                (1..=100).contains(&percent).then_some(Self::Percent(percent))
            }
            None if text == "auto" => Some(Self::AUTO),
            None => Bytes::parse(raw).map(|Bytes(bytes)| Self::Bytes(bytes)),
        }
    }

    fn placeholder() -> Self {
        Self::AUTO
    }
}

impl Setting for DeterminismPolicy {
    const EXPECTS: &'static str = "write report or required";

    fn parse(raw: &Raw) -> Option<Self> {
        match raw.text()? {
            "report" => Some(Self::Report),
            "required" => Some(Self::Required),
            _ => None,
        }
    }

    fn placeholder() -> Self {
        Self::Report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_part_of_what_is_free_and_never_more() {
        assert_eq!(DeviceBudget::AUTO.of(1_000), 900);
        assert_eq!(DeviceBudget::Percent(100).of(u64::MAX), u64::MAX / 100 * 100);
        assert_eq!(DeviceBudget::Bytes(700).of(1_000), 700);
        assert_eq!(DeviceBudget::Bytes(2_000).of(1_000), 1_000);
    }

    #[test]
    fn budgets_are_sizes_percentages_or_auto() {
        let parse = |text: &str| DeviceBudget::parse(&Raw::Text(text.to_owned()));
        assert_eq!(parse("auto"), Some(DeviceBudget::AUTO));
        assert_eq!(parse("55%"), Some(DeviceBudget::Percent(55)));
        assert_eq!(parse("2GiB"), Some(DeviceBudget::Bytes(2 << 30)));
        for wrong in ["0%", "101%", "5.5%", "%", "-1%", "much", ""] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
