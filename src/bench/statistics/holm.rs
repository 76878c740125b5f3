//! Holm's correction for testing many hypotheses at once.

/// Holm's step-down adjustment (Holm 1979): the adjusted p-values can all be compared with the same level. They are
/// returned in the order given. No p-value may be NaN.
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

/// Adjusts the p-values of a family of tests by Holm's method: `p` reads the p-value of a test, and `put` stores the
/// adjusted one.
pub(crate) fn adjust_by_holm<T>(family: &mut [T], p: impl Fn(&T) -> f64, put: impl Fn(&mut T, f64)) {
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
        holm: Vec<Adjusted>,
    }

    #[derive(Deserialize)]
    struct Adjusted {
        p: Vec<f64>,
        adjusted: Vec<f64>,
    }

    #[test]
    fn holm_equals_statsmodels() {
        let golden: Golden = serde_json::from_str(include_str!("../../../tests/golden/stats_paired.json"))
            .expect("valid JSON");
        for case in golden.holm {
            let ours = holm(&case.p);
            for (ours, theirs) in ours.iter().zip(&case.adjusted) {
                assert!((ours - theirs).abs() < 1e-12, "{ours} {theirs}");
            }
        }
        assert!(holm(&[]).is_empty());
    }
}
