//! Units that were each seen under every one of several treatments: do the treatments differ, and how much of all
//! variance is theirs?

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::random::Random;

/// Rearrangements that the permutation test tries.
const PERMUTATIONS: usize = 9_999;

/// A value for each unit and treatment, and a reference value of the unit. Values are shares in [0, 1]. Units with equal
/// values are interchangeable.
#[derive(Debug, Clone, Default)]
pub struct Crossed {
    pub(super) treatments: usize,
    /// Distinct rows one after the other: the reference, then a value for each treatment.
    pub(super) rows: Vec<f64>,
    by_bits: HashMap<Vec<u64>, u32>,
    /// The row of each unit.
    pub(super) row_of: Vec<u32>,
}

/// Cochran's Q.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CochranQ {
    /// Units that treatments differ on; no others have a say.
    pub differing: u64,
    /// The statistic; 0 when no unit differs.
    pub q: f64,
    /// P-value of rearranging each unit's values over the treatments (Phipson & Smyth 2010: never 0).
    pub p: f64,
}

/// Variances of shares, estimated from mean squares. Each is unbiased, so that one may fall below 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Components {
    /// Between units.
    pub units: f64,
    /// Between treatments.
    pub treatments: f64,
    /// What is left: units that take treatments differently, and chance.
    pub rest: f64,
}

impl Crossed {
    /// For so many treatments.
    pub fn new(treatments: usize) -> Self {
        Self {
            treatments,
            ..Self::default()
        }
    }

    /// Adds a unit: its reference value, NaN where there is none, and a value for each treatment. Values that are missing
    /// are 0.
    pub fn push(&mut self, reference: f64, values: &[f64]) {
        let mut row = vec![reference];
        row.extend(values);
        row.resize(self.treatments + 1, 0.0);
        let bits = row.iter().map(|value| value.to_bits()).collect();
        let next = self.by_bits.len() as u32;
        let own = *self.by_bits.entry(bits).or_insert(next);
        if own == next {
            self.rows.extend(row);
        }
        self.row_of.push(own);
    }

    /// How many units there are.
    pub fn units(&self) -> usize {
        self.row_of.len()
    }

    /// Each distinct row, and how many units have it.
    pub(super) fn distinct(&self) -> impl Iterator<Item = (&[f64], usize)> {
        let mut counts = vec![0; self.by_bits.len()];
        for &row in &self.row_of {
            counts[row as usize] += 1;
        }
        self.rows.chunks_exact(self.treatments + 1).zip(counts)
    }

    /// Each treatment's mean. `None` without units.
    pub fn means(&self) -> Option<Vec<f64>> {
        let mut sums = vec![0.0; self.treatments];
        for (row, count) in self.distinct() {
            for (sum, value) in sums.iter_mut().zip(&row[1..]) {
                *sum += count as f64 * value;
            }
        }
        let n = self.units() as f64;
        (n > 0.0).then(|| sums.into_iter().map(|sum| sum / n).collect())
    }

    /// Cochran's Q (Cochran 1950), in the form that also takes shares; of zeros and ones it is his. `None` with fewer
    /// than two treatments or without units.
    pub fn cochran_q(&self, seed: u64) -> Option<CochranQ> {
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
    pub fn components(&self) -> Option<Components> {
        let (n, k) = (self.units() as f64, self.treatments as f64);
        let means = self.means().filter(|_| n > 1.0 && k > 1.0)?;
        let grand = means.iter().sum::<f64>() / k;
        let between: f64 = means.iter().map(|mean| (mean - grand).powi(2)).sum();
        let (mut of_units, mut all) = (0.0, 0.0);
        for (row, count) in self.distinct() {
            let mean = row[1..].iter().sum::<f64>() / k;
            of_units += count as f64 * (mean - grand).powi(2);
            let own: f64 = row[1..].iter().map(|value| (value - grand).powi(2)).sum();
            all += count as f64 * own;
        }
        let rest = ((all - k * of_units - n * between) / ((n - 1.0) * (k - 1.0))).max(0.0);
        Some(Components {
            units: (k * of_units / (n - 1.0) - rest) / k,
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
        shares: Vec<Shares>,
    }

    #[derive(Deserialize)]
    struct Case {
        rows: Vec<Vec<f64>>,
        q: f64,
        /// Of all rearrangements where there are few, otherwise of the chi-square distribution.
        p: f64,
        exact: bool,
    }

    #[derive(Deserialize)]
    struct Shares {
        rows: Vec<Vec<f64>>,
        units: f64,
        treatments: f64,
        rest: f64,
    }

    fn golden() -> Golden {
        serde_json::from_str(include_str!("../../../tests/golden/stats_crossed.json")).expect("valid JSON")
    }

    fn crossed(rows: &[Vec<f64>]) -> Crossed {
        let mut crossed = Crossed::new(rows[0].len());
        rows.iter().for_each(|row| crossed.push(f64::NAN, row));
        crossed
    }

    fn near(ours: f64, theirs: f64) -> bool {
        (ours - theirs).abs() <= 1e-9 * theirs.abs().max(1e-3)
    }

    /// `tests/golden/stats_crossed.py` asked statsmodels, and counted all rearrangements of small tables.
    #[test]
    fn cochrans_q_equals_statsmodels() {
        for case in golden().tables {
            let ours = crossed(&case.rows).cochran_q(1).expect("units");
            assert!(near(ours.q, case.q), "{ours:?}, {}", case.q);
            // Three standard errors of 9,999 rearrangements, and what chi-square is wrong by.
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
    fn what_says_nothing_is_no_number() {
        assert_eq!(Crossed::new(3).cochran_q(0), None);
        assert_eq!(Crossed::new(3).means(), None);
        let one = crossed(&[vec![1.0, 0.0]]);
        assert_eq!(one.components(), None);
        let same = crossed(&[vec![1.0, 1.0], vec![0.0, 0.0]]);
        let q = same.cochran_q(0).expect("units");
        assert_eq!((q.differing, q.q, q.p), (0, 0.0, 1.0));
    }
}
