//! Differences of two proportions, and Cohen's effect size.

use serde::{Deserialize, Serialize};

use super::interval::Interval;

/// A difference of two proportions, `first - second`, with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// In [-1, 1], or in points after [`Difference::in_points`].
    pub estimate: f64,
    /// The 95 % confidence interval.
    pub interval: Interval,
}

impl Difference {
    /// The same in percentage points instead of proportions.
    #[must_use]
    pub fn in_points(self) -> Self {
        Self {
            estimate: 100.0 * self.estimate,
            interval: self.interval.scaled(100.0),
        }
    }
}

/// A difference of proportions, `first - second`, with its 95 % interval where there is enough data for one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// In [-1, 1], or in points after [`Change::in_points`].
    pub estimate: f64,
    /// The 95 % confidence interval; absent with too few clusters.
    pub interval: Option<Interval>,
}

impl Change {
    /// The difference in the other direction: the second side less the first.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            estimate: -self.estimate,
            interval: self.interval.map(|interval| Interval {
                low: -interval.high,
                high: -interval.low,
            }),
        }
    }

    /// The same in percentage points instead of proportions.
    #[must_use]
    pub fn in_points(self) -> Self {
        Self {
            estimate: 100.0 * self.estimate,
            interval: self.interval.map(|interval| interval.scaled(100.0)),
        }
    }
}

/// Cohen's h (Cohen 1988), the distance of two proportions on the arcsine scale: 0.2 is small, 0.5 medium, 0.8 large.
/// It is positive when the first proportion is larger.
pub(crate) fn cohens_h(first: f64, second: f64) -> f64 {
    let angle = |p: f64| 2.0 * p.clamp(0.0, 1.0).sqrt().asin();
    angle(first) - angle(second)
}
