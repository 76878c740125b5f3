//! Quantiles of the beta distribution, and the confidence limits of a proportion that follow from Jeffreys' prior.

use super::interval::Interval;

/// Jeffreys' 95 % limits of a proportion (Brown, Cai & DasGupta 2001, Statistical Science 16:101, section 4.1.2): the
/// 2.5 % and 97.5 % quantiles of the beta distribution with parameters `successes` + 1/2 and `trials` - `successes` +
/// 1/2. Without successes the lower limit is 0; without failures the upper limit is 1. Neither number needs to be
/// whole. Without trials the interval is [0, 1].
pub(super) fn jeffreys(successes: f64, trials: f64) -> Interval {
    let limit = |probability| quantile(probability, successes + 0.5, trials - successes + 0.5);
    let estimate = successes / trials;
    Interval {
        low: if successes > 0.0 {
            limit(0.025).min(estimate)
        } else {
            0.0
        },
        high: if successes < trials {
            limit(0.975).max(estimate)
        } else {
            1.0
        },
    }
}

/// The value below which the beta distribution with parameters `a` and `b` has this probability, found by bisection.
fn quantile(probability: f64, a: f64, b: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    // 60 halvings reach the precision of an f64 near 1/2, and the quantiles of interest are not much closer to 0.
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if cumulative(middle, a, b) < probability {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// The regularised incomplete beta function (DLMF 8.17.22 and 8.17.4): the beta distribution's probability below `x`.
fn cumulative(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    // The continued fraction converges quickly only below the mean; above it, the function's symmetry helps.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - cumulative_below(1.0 - x, b, a);
    }
    cumulative_below(x, a, b)
}

fn cumulative_below(x: f64, a: f64, b: f64) -> f64 {
    let ln_front = a * x.ln() + b * (-x).ln_1p() + ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b);
    // The continued fraction 1 + d1 / (1 + d2 / (1 + ...)), by Lentz's algorithm (1976).
    let (mut fraction, mut c, mut d) = (1.0, 1.0, 0.0);
    for step in 1..10_000 {
        let m = f64::from(step / 2);
        let term = if step % 2 == 0 {
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        } else {
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        };
        d = 1.0 / (1.0 + term * d);
        c = 1.0 + term / c;
        let change: f64 = c * d;
        fraction *= change;
        if (change - 1.0).abs() < f64::EPSILON {
            break;
        }
    }
    ln_front.exp() / (a * fraction)
}

/// The logarithm of the gamma function of a positive number, by Stirling's series (DLMF 5.11.1). Numbers below 10 are
/// first raised to 10 or more with the recurrence of the gamma function, because the series is exact enough only there.
fn ln_gamma(mut x: f64) -> f64 {
    let mut factor = 1.0;
    while x < 10.0 {
        factor *= x;
        x += 1.0;
    }
    let r = 1.0 / (x * x);
    let series = (1.0 / 12.0 - r * (1.0 / 360.0 - r * (1.0 / 1260.0 - r * (1.0 / 1680.0 - r / 1188.0)))) / x;
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series - f64::ln(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Golden {
        successes: f64,
        trials: f64,
        low: f64,
        high: f64,
    }

    /// The expected values are those of scipy, written by `tests/golden/stats_stratified.py`.
    #[test]
    fn limits_equal_scipy() {
        #[derive(serde::Deserialize)]
        struct File {
            jeffreys: Vec<Golden>,
        }
        let golden = include_str!("../../../tests/golden/stats_stratified.json");
        let golden: File = serde_json::from_str(golden).expect("valid JSON");
        assert!(golden.jeffreys.len() > 30);
        for case in golden.jeffreys {
            let ours = jeffreys(case.successes, case.trials);
            let near = |a: f64, b: f64| (a - b).abs() < 1e-11;
            assert!(
                near(ours.low, case.low) && near(ours.high, case.high),
                "{} of {}: {ours:?}, scipy {} {}",
                case.successes,
                case.trials,
                case.low,
                case.high
            );
        }
    }

    #[test]
    fn limits_contain_the_estimate_and_mirror() {
        for trials in [1.0, 2.0, 10.0, 57.0] {
            for half in 0..=(2.0 * trials) as u32 {
                let successes = f64::from(half) / 2.0;
                let (ours, mirror) = (jeffreys(successes, trials), jeffreys(trials - successes, trials));
                assert!(
                    ours.contains(successes / trials) && ours.low < ours.high,
                    "{ours:?}"
                );
                assert!(
                    (ours.low - (1.0 - mirror.high)).abs() < 1e-12,
                    "{ours:?} {mirror:?}"
                );
            }
        }
    }
}
