//! Tests for paired verdicts, and the correction for asking many of them.

use serde::{Deserialize, Serialize};

/// McNemar's test: do two verdicts on the same units lean to different sides?
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct McNemar {
    /// Units with success on the first side only.
    pub first_only: u64,
    /// Units with success on the second side only.
    pub second_only: u64,
    /// Two-sided exact binomial p-value: never too small, often too large.
    pub exact_p: f64,
    /// Two-sided mid-p value (Fagerland, Lydersen & Laake 2013): close to its level.
    pub mid_p: f64,
}

/// McNemar's test from the discordant pairs. Without any, both p-values are 1.
pub fn mcnemar(first_only: u64, second_only: u64) -> McNemar {
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

/// P(X = k) and P(X <= k) for X heads of n fair tosses, k <= n / 2.
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

/// ln(n!), by Stirling's series where it is exact to the last digits.
fn ln_factorial(n: u64) -> f64 {
    if n < 32 {
        return (2..=n).map(|k| k as f64).product::<f64>().ln();
    }
    let x = n as f64;
    let series = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1260.0 * x.powi(5));
    x.mul_add(x.ln(), -x) + 0.5 * (std::f64::consts::TAU * x).ln() + series
}

/// Holm's step-down adjustment (Holm 1979): p-values that may be held against one level together. In the order
/// given; NaN is not expected.
fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut highest = 0.0f64;
    for (rank, &index) in order.iter().enumerate() {
        let scaled = p_values[index] * (p_values.len() - rank) as f64;
        highest = highest.max(scaled.min(1.0));
        adjusted[index] = highest;
    }
    adjusted
}

/// Holm's adjustment of each test of a family, which `put` takes down.
pub fn adjust_by_holm<T>(family: &mut [T], p: impl Fn(&T) -> f64, put: impl Fn(&mut T, f64)) {
    let p_values: Vec<f64> = family.iter().map(p).collect();
    for (test, adjusted) in family.iter_mut().zip(holm(&p_values)) {
        put(test, adjusted);
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        mcnemar: Vec<Case>,
        holm: Vec<Adjusted>,
    }

    #[derive(Deserialize)]
    struct Case {
        first_only: u64,
        second_only: u64,
        exact_p: f64,
        mid_p: f64,
    }

    #[derive(Deserialize)]
    struct Adjusted {
        p: Vec<f64>,
        adjusted: Vec<f64>,
    }

    fn golden() -> Golden {
        serde_json::from_str(include_str!("../../../tests/golden/stats_paired.json")).expect("valid JSON")
    }

    fn near(ours: f64, theirs: f64) -> bool {
        (ours - theirs).abs() <= 1e-9 * theirs.abs()
    }

    /// `tests/golden/stats_paired.py` asked statsmodels (exact) and scipy (mid-p).
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

    #[test]
    fn holm_equals_statsmodels() {
        for case in golden().holm {
            let ours = holm(&case.p);
            for (ours, theirs) in ours.iter().zip(&case.adjusted) {
                assert!((ours - theirs).abs() < 1e-12, "{ours} {theirs}");
            }
        }
        assert!(holm(&[]).is_empty());
    }
}
