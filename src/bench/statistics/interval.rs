//! A confidence interval, and the normal quantile that most intervals use.

use serde::{Deserialize, Serialize};

/// The 97.5 % quantile of the standard normal distribution, which two-sided 95 % intervals use.
pub(crate) const Z95: f64 = 1.959_963_984_540_054;

/// A range of values that includes both of its ends.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Interval {
    /// Both ends multiplied by `factor`, which must be positive; for example 100 turns proportions into percent.
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            low: self.low * factor,
            high: self.high * factor,
        }
    }

    /// Whether the value lies in the range.
    pub fn contains(self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }
}
