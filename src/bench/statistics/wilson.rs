//! Wilson's score interval of a proportion.

use super::interval::{Interval, Z95};

/// Wilson's score interval (Wilson 1927) at 95 % for `successes` of `trials`; `None` without trials. Unlike the normal
/// approximation, it never leaves [0, 1] and never has width zero.
pub fn wilson(successes: u64, trials: u64) -> Option<Interval> {
    if trials == 0 || successes > trials {
        return None;
    }
    Some(wilson_at(successes as f64 / trials as f64, trials as f64))
}

/// Wilson's interval around the proportion `p` of `n` trials. With clusters or weights, `n` is the number of independent
/// trials that would carry as much information; it does not need to be whole, and neither do the successes.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        successes: u64,
        trials: u64,
        low: f64,
        high: f64,
    }

    /// The expected values are those of statsmodels, written by `tests/golden/stats_wilson.py`.
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
        fn the_interval_holds_the_estimate_and_is_symmetric(trials in 1u64..20_000, proportion in 0.0f64..=1.0) {
            let successes = (proportion * trials as f64).floor() as u64;
            let interval = wilson(successes, trials).expect("there are trials");
            let estimate = successes as f64 / trials as f64;
            prop_assert!(0.0 <= interval.low && interval.low <= estimate);
            prop_assert!(estimate <= interval.high && interval.high <= 1.0);
            prop_assert!(interval.low < interval.high);
            let mirror = wilson(trials - successes, trials).expect("there are trials");
            prop_assert!((interval.low - (1.0 - mirror.high)).abs() < 1e-12);
        }
    }

    #[test]
    fn there_is_no_interval_without_trials() {
        assert_eq!(wilson(0, 0), None);
        assert_eq!(wilson(2, 1), None);
    }
}
