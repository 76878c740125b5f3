//! McNemar's test for paired verdicts.

use serde::{Deserialize, Serialize};

/// The result of McNemar's test: do two verdicts on the same units lean to different sides?
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct McNemar {
    /// Number of units with success on the first side only.
    pub first_only: u64,
    /// Number of units with success on the second side only.
    pub second_only: u64,
    /// Two-sided exact binomial p-value. It is conservative: never too small, often too large.
    pub exact_p: f64,
    /// Two-sided mid-p value (Fagerland, Lydersen & Laake 2013), whose error rate is close to its nominal level.
    pub mid_p: f64,
}

/// McNemar's test from the numbers of discordant pairs. Without any, both p-values are 1.
pub(crate) fn mcnemar(first_only: u64, second_only: u64) -> McNemar {
    let n = first_only + second_only;
    let smaller = first_only.min(second_only);
    let (at, up_to) = fair_coin(smaller, n);
    McNemar {
        first_only,
        second_only,
        exact_p: (2.0 * up_to).min(1.0),
        mid_p: (2.0 * up_to - at).min(1.0),
    }
}

/// For X heads of n fair tosses, P(X = k) and P(X <= k). `k` must be at most n / 2.
fn fair_coin(k: u64, n: u64) -> (f64, f64) {
    let tosses = n as f64 * std::f64::consts::LN_2;
    let at = (ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k) - tosses).exp();
    let (mut term, mut sum) = (at, at);
    for heads in (1..=k).rev() {
        term *= heads as f64 / (n - heads + 1) as f64;
        sum += term;
        if term < sum * f64::EPSILON / 4.0 {
            break;
        }
    }
    (at, sum)
}

/// ln(n!). From 32 on Stirling's series is used, which is exact to the last digits there.
fn ln_factorial(n: u64) -> f64 {
    if n < 32 {
        return (2..=n).map(|k| k as f64).product::<f64>().ln();
    }
    let x = n as f64;
    let series = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1260.0 * x.powi(5));
    x.mul_add(x.ln(), -x) + 0.5 * (std::f64::consts::TAU * x).ln() + series
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        mcnemar: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        first_only: u64,
        second_only: u64,
        exact_p: f64,
        mid_p: f64,
    }

    fn golden() -> Golden {
        serde_json::from_str(include_str!("../../../tests/golden/stats_paired.json")).expect("valid JSON")
    }

    fn near(ours: f64, theirs: f64) -> bool {
        (ours - theirs).abs() <= 1e-9 * theirs.abs()
    }

    /// The expected values are those of statsmodels (exact) and scipy (mid-p), written by `tests/golden/stats_paired.py`.
    #[test]
    fn mcnemar_equals_the_references() {
        let golden = golden();
        assert!(golden.mcnemar.len() > 30);
        for case in golden.mcnemar {
            let ours = mcnemar(case.first_only, case.second_only);
            assert!(
                near(ours.exact_p, case.exact_p),
                "{ours:?}, exact {}",
                case.exact_p
            );
            assert!(near(ours.mid_p, case.mid_p), "{ours:?}, mid-p {}", case.mid_p);
            assert_eq!(ours.exact_p, mcnemar(case.second_only, case.first_only).exact_p);
        }
        assert_eq!((mcnemar(0, 0).exact_p, mcnemar(0, 0).mid_p), (1.0, 1.0));
    }
}
