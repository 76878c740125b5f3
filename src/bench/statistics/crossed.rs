//! The crossed design: every unit is seen under every one of several treatments. Do the treatments differ, and how much
//! of the variance is due to them?

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::random::Random;

/// Number of rearrangements that the permutation test tries.
const PERMUTATIONS: usize = 9_999;

/// A value in [0, 1] for each unit and treatment, and a reference value for each unit. Units with equal values are
/// interchangeable, so each distinct row is stored once.
#[derive(Debug, Clone, Default)]
pub(crate) struct CrossedDesign {
    pub(super) treatments: usize,
    /// The distinct rows one after the other: the reference value, then the value under each treatment.
    pub(super) rows: Vec<f64>,
    by_bits: HashMap<Vec<u64>, u32>,
    /// The index of each unit's row.
    pub(super) row_of: Vec<u32>,
}

/// The result of Cochran's Q test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CochranQ {
    /// Number of units whose value differs between treatments; the others do not affect the test.
    pub differing: u64,
    /// The statistic; 0 when no unit differs.
    pub q: f64,
    /// P-value of the permutation test that rearranges each unit's values over the treatments. It is never 0 (Phipson &
    /// Smyth 2010).
    pub p: f64,
}

/// Variance components, estimated from mean squares. Each estimate is unbiased, so it may fall below 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct VarianceComponents {
    /// Variance between units.
    pub units: f64,
    /// Variance between treatments.
    pub treatments: f64,
    /// The remaining variance: units that respond to treatments differently, and chance.
    pub rest: f64,
}

impl CrossedDesign {
    /// Makes an empty design for this many treatments.
    pub(crate) fn new(treatments: usize) -> Self {
        Self {
            treatments,
            ..Self::default()
        }
    }

    /// Adds a unit with its reference value, NaN where there is none, and a value for each treatment. Missing values
    /// count as 0.
    pub(crate) fn push(&mut self, reference: f64, values: &[f64]) {
        let mut row = vec![reference];
        row.extend(values);
        row.resize(self.treatments + 1, 0.0);
        let bits = row.iter().map(|value| value.to_bits()).collect();
        let next = self.by_bits.len() as u32;
        let index = *self.by_bits.entry(bits).or_insert(next);
        if index == next {
            self.rows.extend(row);
        }
        self.row_of.push(index);
    }

    /// Number of units.
    pub(crate) fn units(&self) -> usize {
        self.row_of.len()
    }

    /// Each distinct row, and the number of units that have it.
    pub(super) fn distinct(&self) -> impl Iterator<Item = (&[f64], usize)> {
        let mut counts = vec![0; self.by_bits.len()];
        for &row in &self.row_of {
            counts[row as usize] += 1;
        }
        self.rows.chunks_exact(self.treatments + 1).zip(counts)
    }

    /// Mean of each treatment over the units. `None` without units.
    pub(crate) fn means(&self) -> Option<Vec<f64>> {
        let mut sums = vec![0.0; self.treatments];
        for (row, count) in self.distinct() {
            for (sum, value) in sums.iter_mut().zip(&row[1..]) {
                *sum += count as f64 * value;
            }
        }
        let n = self.units() as f64;
        (n > 0.0).then(|| sums.into_iter().map(|sum| sum / n).collect())
    }

    /// Cochran's Q test (Cochran 1950), in the form that also accepts proportions; for zeros and ones it is the original
    /// one. `None` with fewer than two treatments or without units.
    pub(crate) fn cochran_q(&self, seed: u64) -> Option<CochranQ> {
        let k = self.treatments;
        if k < 2 || self.units() == 0 {
            return None;
        }
        let mut rows: Vec<f64> = Vec::new();
        let (mut spread, mut fixed) = (0.0, 0.0);
        for (row, count) in self.distinct() {
            let values = &row[1..];
            let mean = values.iter().sum::<f64>() / k as f64;
            if values.iter().all(|value| *value == values[0]) {
                fixed += count as f64 * mean;
                continue;
            }
            let own: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            spread += count as f64 * own;
            for _ in 0..count {
                rows.extend(values);
            }
        }
        if rows.is_empty() {
            return Some(CochranQ {
                differing: 0,
                q: 0.0,
                p: 1.0,
            });
        }
        let statistic = |rows: &[f64]| {
            let mut sums = vec![fixed; k];
            for row in rows.chunks_exact(k) {
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += value;
                }
            }
            let mean = sums.iter().sum::<f64>() / k as f64;
            let between: f64 = sums.iter().map(|sum| (sum - mean).powi(2)).sum();
            (k - 1) as f64 * between / spread
        };
        let q = statistic(&rows);
        let differing = rows.len() / k;
        let mut random = Random::new(seed);
        let mut extreme = 1;
        for _ in 0..PERMUTATIONS {
            for row in rows.chunks_exact_mut(k) {
                random.shuffle(row);
            }
            extreme += usize::from(statistic(&rows) >= q - 1e-9 * q.max(1.0));
        }
        Some(CochranQ {
            differing: differing as u64,
            q,
            p: extreme as f64 / (PERMUTATIONS + 1) as f64,
        })
    }

    /// Variance components of the two-way layout with one value for each unit and treatment, by the method of moments
    /// (Searle, Casella & McCulloch 1992). `None` with fewer than two units or treatments.
    pub(crate) fn components(&self) -> Option<VarianceComponents> {
        let (n, k) = (self.units() as f64, self.treatments as f64);
        let means = self.means().filter(|_| n > 1.0 && k > 1.0)?;
        let grand = means.iter().sum::<f64>() / k;
        let between: f64 = means.iter().map(|mean| (mean - grand).powi(2)).sum();
        let (mut between_units, mut total) = (0.0, 0.0);
        for (row, count) in self.distinct() {
            let mean = row[1..].iter().sum::<f64>() / k;
            between_units += count as f64 * (mean - grand).powi(2);
            let own: f64 = row[1..].iter().map(|value| (value - grand).powi(2)).sum();
            total += count as f64 * own;
        }
        let rest = ((total - k * between_units - n * between) / ((n - 1.0) * (k - 1.0))).max(0.0);
        Some(VarianceComponents {
            units: (k * between_units / (n - 1.0) - rest) / k,
            treatments: (n * between / (k - 1.0) - rest) / n,
            rest,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        tables: Vec<Case>,
        shares: Vec<ProportionCase>,
    }

    #[derive(Deserialize)]
    struct Case {
        rows: Vec<Vec<f64>>,
        q: f64,
        /// Of all rearrangements where there are few of them, otherwise of the chi-square distribution.
        p: f64,
        exact: bool,
    }

    #[derive(Deserialize)]
    struct ProportionCase {
        rows: Vec<Vec<f64>>,
        units: f64,
        treatments: f64,
        rest: f64,
    }

    fn golden() -> Golden {
        serde_json::from_str(include_str!("../../../tests/golden/stats_crossed.json")).expect("valid JSON")
    }

    fn crossed(rows: &[Vec<f64>]) -> CrossedDesign {
        let mut crossed = CrossedDesign::new(rows[0].len());
        rows.iter().for_each(|row| crossed.push(f64::NAN, row));
        crossed
    }

    fn near(ours: f64, theirs: f64) -> bool {
        (ours - theirs).abs() <= 1e-9 * theirs.abs().max(1e-3)
    }

    /// The expected values are those of statsmodels; for small tables `tests/golden/stats_crossed.py` counted all
    /// rearrangements.
    #[test]
    fn cochrans_q_equals_statsmodels() {
        for case in golden().tables {
            let ours = crossed(&case.rows).cochran_q(1).expect("units");
            assert!(near(ours.q, case.q), "{ours:?}, {}", case.q);
            // Three standard errors of 9,999 rearrangements, plus the error of the chi-square approximation.
            let error = 3.0 * (case.p * (1.0 - case.p) / 1e4).sqrt() + if case.exact { 2e-4 } else { 0.02 };
            assert!((ours.p - case.p).abs() < error, "{ours:?}, {}", case.p);
        }
    }

    #[test]
    fn components_equal_those_of_statsmodels_mean_squares() {
        for case in golden().shares {
            let ours = crossed(&case.rows).components().expect("units");
            for (ours, theirs) in [
                (ours.units, case.units),
                (ours.treatments, case.treatments),
                (ours.rest, case.rest),
            ] {
                assert!(near(ours, theirs), "{ours} {theirs}");
            }
        }
    }

    #[test]
    fn too_little_data_gives_no_figures() {
        assert_eq!(CrossedDesign::new(3).cochran_q(0), None);
        assert_eq!(CrossedDesign::new(3).means(), None);
        let one = crossed(&[vec![1.0, 0.0]]);
        assert_eq!(one.components(), None);
        let same = crossed(&[vec![1.0, 1.0], vec![0.0, 0.0]]);
        let q = same.cochran_q(0).expect("units");
        assert_eq!((q.differing, q.q, q.p), (0, 0.0, 1.0));
    }
}
