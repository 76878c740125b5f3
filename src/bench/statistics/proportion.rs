//! Proportions, differences of proportions and their means, with score intervals.

use serde::{Deserialize, Serialize};

use super::{Interval, PairedShare, Z95};

/// Wilson's score interval (Wilson 1927) for `successes` of `trials` at 95 %; `None` without trials.
/// Never wider than [0, 1] and never of width zero, unlike the normal approximation.
pub fn wilson(successes: u64, trials: u64) -> Option<Interval> {
    if trials == 0 || successes > trials {
        return None;
    }
    Some(wilson_at(successes as f64 / trials as f64, trials as f64))
}

/// Wilson's interval around the share `p` of `n` trials, which may be as many as say the same of it: both need not be
/// whole.
pub(super) fn wilson_at(p: f64, n: f64) -> Interval {
    let z2 = Z95 * Z95;
    let scale = 1.0 + z2 / n;
    let centre = (p + z2 / (2.0 * n)) / scale;
    let half = Z95 * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt() / scale;
    Interval {
        low: if p <= 0.0 { 0.0 } else { (centre - half).max(0.0) },
        high: if p >= 1.0 { 1.0 } else { (centre + half).min(1.0) },
    }
}

/// A difference of two proportions, `first - second`, with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// In [-1, 1].
    pub estimate: f64,
    /// 95 %.
    pub interval: Interval,
}

impl Difference {
    /// From shares to points.
    #[must_use]
    pub fn in_points(self) -> Self {
        Self {
            estimate: 100.0 * self.estimate,
            interval: self.interval.scaled(100.0),
        }
    }
}

/// Counts of pairs by what happened on either side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pairs {
    /// Success on both sides.
    pub both: u64,
    /// Success on the first side only.
    pub first_only: u64,
    /// Success on the second side only.
    pub second_only: u64,
    /// Success on neither.
    pub neither: u64,
}

impl Pairs {
    /// All pairs.
    pub fn total(&self) -> u64 {
        self.both + self.first_only + self.second_only + self.neither
    }

    /// Counts one pair.
    pub fn add(&mut self, first: bool, second: bool) {
        *match (first, second) {
            (true, true) => &mut self.both,
            (true, false) => &mut self.first_only,
            (false, true) => &mut self.second_only,
            (false, false) => &mut self.neither,
        } += 1;
    }
}

/// Difference of two proportions over the same units, with the score interval for paired data (Newcombe 1998,
/// Statistics in Medicine 17:2635, method 10, its correlation corrected for continuity). `None` without pairs.
pub fn paired_difference(pairs: Pairs) -> Option<Difference> {
    let change = PairedShare::of_pairs(pairs).difference()?;
    Some(Difference {
        estimate: change.estimate,
        interval: change.interval?,
    })
}

/// Cohen's h (Cohen 1988), the distance of two proportions on the arcsine scale: 0.2 is small, 0.5 medium, 0.8
/// large. Positive when the first is larger.
pub fn cohens_h(first: f64, second: f64) -> f64 {
    let angle = |p: f64| 2.0 * p.clamp(0.0, 1.0).sqrt().asin();
    angle(first) - angle(second)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::{
        super::{Share, disjoint_difference},
        *,
    };

    #[derive(Deserialize)]
    struct Golden {
        successes: u64,
        trials: u64,
        low: f64,
        high: f64,
    }

    /// `tests/golden/stats_wilson.py` asked statsmodels.
    #[test]
    fn wilson_equals_statsmodels() {
        let golden: Vec<Golden> =
            serde_json::from_str(include_str!("../../../tests/golden/stats_wilson.json"))
                .expect("valid JSON");
        assert!(golden.len() > 50);
        for case in golden {
            let ours = wilson(case.successes, case.trials).expect("there are trials");
            let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
            assert!(
                close(ours.low, case.low) && close(ours.high, case.high),
                "{} of {}: {ours:?}, statsmodels {} {}",
                case.successes,
                case.trials,
                case.low,
                case.high
            );
        }
    }

    proptest! {
        #[test]
        fn the_interval_holds_the_estimate_and_is_symmetric(trials in 1u64..20_000, share in 0.0f64..=1.0) {
            let successes = (share * trials as f64).floor() as u64;
            let interval = wilson(successes, trials).expect("there are trials");
            let estimate = successes as f64 / trials as f64;
            prop_assert!(0.0 <= interval.low && interval.low <= estimate);
            prop_assert!(estimate <= interval.high && interval.high <= 1.0);
            prop_assert!(interval.low < interval.high);
            let mirror = wilson(trials - successes, trials).expect("there are trials");
            prop_assert!((interval.low - (1.0 - mirror.high)).abs() < 1e-12);
        }
    }

    #[derive(Deserialize)]
    struct Differences {
        independent: Vec<Independent>,
        paired: Vec<Paired>,
    }

    #[derive(Deserialize)]
    struct Independent {
        first: (u64, u64),
        second: (u64, u64),
        low: f64,
        high: f64,
        cohens_h: f64,
    }

    #[derive(Deserialize)]
    struct Paired {
        #[serde(flatten)]
        pairs: Pairs,
        low: f64,
        high: f64,
    }

    /// `tests/golden/stats_proportion.py` asked statsmodels for independent ones and computed paired ones.
    #[test]
    fn differences_equal_the_references() {
        let golden: Differences =
            serde_json::from_str(include_str!("../../../tests/golden/stats_proportion.json"))
                .expect("valid JSON");
        let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
        let independent = |first: (u64, u64), second: (u64, u64)| {
            let share = |(successes, trials)| Share::of_single(successes, trials).mean();
            Some(disjoint_difference(share(first)?, share(second)?))
        };
        for case in golden.independent {
            let ours = independent(case.first, case.second).expect("there are trials");
            let interval = ours.interval.expect("single trials");
            assert!(
                close(interval.low, case.low) && close(interval.high, case.high),
                "{ours:?}"
            );
            let share = |(successes, trials): (u64, u64)| successes as f64 / trials as f64;
            assert!(close(
                cohens_h(share(case.first), share(case.second)),
                case.cohens_h
            ));
        }
        for case in golden.paired {
            let ours = paired_difference(case.pairs).expect("there are pairs");
            assert!(
                close(ours.interval.low, case.low) && close(ours.interval.high, case.high),
                "{ours:?}"
            );
        }
        assert_eq!(independent((0, 0), (1, 2)), None);
        assert_eq!(paired_difference(Pairs::default()), None);
    }

    #[test]
    fn nothing_is_said_about_no_trials() {
        assert_eq!(wilson(0, 0), None);
        assert_eq!(wilson(2, 1), None);
    }
}
