//! How well two judges agree, and how often one judge is right against labels.

use serde::{Deserialize, Serialize};

use super::interval::{Interval, Z95};

/// Cohen's kappa: agreement of two judges beyond what chance alone would give.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Kappa {
    /// Number of units that both judges judged.
    pub n: u64,
    /// Proportion of the units with equal verdicts, in [0, 1].
    pub observed: f64,
    /// 1 is perfect agreement, 0 is chance. Absent when both judges gave every unit the same single verdict.
    pub kappa: Option<f64>,
    /// The 95 % confidence interval of kappa; absent where there is no kappa or too little data for an interval.
    pub interval: Option<Interval>,
}

/// Computes kappa from a square table of counts, `table[first judge][second judge]`. `None` without units.
pub(crate) fn kappa<const K: usize>(table: &[[u64; K]; K]) -> Option<Kappa> {
    let n: u64 = table.iter().flatten().sum();
    if n == 0 {
        return None;
    }
    let terms = KappaTerms::of(&as_floats(table));
    let interval = |kappa: f64| {
        let half = Z95 * (terms.variance / n as f64).sqrt();
        Interval {
            low: (kappa - half).max(-1.0),
            high: (kappa + half).min(1.0),
        }
    };
    Some(Kappa {
        n,
        observed: terms.observed,
        kappa: terms.kappa,
        interval: terms.kappa.map(interval),
    })
}

pub(super) fn as_floats<const K: usize>(table: &[[u64; K]; K]) -> [[f64; K]; K] {
    table.map(|row| row.map(|count| count as f64))
}

/// Kappa of a table, and the influence of each cell on it, from which its variance follows.
#[derive(Debug, Clone, Copy)]
pub(super) struct KappaTerms<const K: usize> {
    /// Proportion of the units with equal verdicts, in [0, 1].
    pub observed: f64,
    /// Absent when both judges gave every unit the same single verdict.
    pub kappa: Option<f64>,
    /// How far one more unit in each cell moves kappa, times the number of units; zero where kappa does not exist. The
    /// large-sample variance of kappa is the mean of these squared (Fleiss, Cohen & Everitt 1969).
    pub influence: [[f64; K]; K],
    /// Mean of the squared influences, weighted by the cells: the variance of kappa for a sample of one unit.
    pub variance: f64,
}

impl<const K: usize> KappaTerms<K> {
    /// Computes the terms from `table[first judge][second judge]`, which holds counts or weights. At least one must be
    /// positive.
    pub(super) fn of(table: &[[f64; K]; K]) -> Self {
        let total: f64 = table.iter().flatten().sum();
        let p = |i: usize, j: usize| table[i][j] / total;
        let rows: [f64; K] = std::array::from_fn(|i| (0..K).map(|j| p(i, j)).sum());
        let columns: [f64; K] = std::array::from_fn(|j| (0..K).map(|i| p(i, j)).sum());
        let observed: f64 = (0..K).map(|i| p(i, i)).sum();
        let chance: f64 = (0..K).map(|i| rows[i] * columns[i]).sum();
        if chance >= 1.0 {
            return Self {
                observed,
                kappa: None,
                influence: [[0.0; K]; K],
                variance: 0.0,
            };
        }
        let kappa = (observed - chance) / (1.0 - chance);
        let rest = 1.0 - kappa;
        let mean = kappa - chance * rest;
        let influence: [[f64; K]; K] = std::array::from_fn(|i| {
            std::array::from_fn(|j| {
                let equal = f64::from(u8::from(i == j));
                (equal - (columns[i] + rows[j]) * rest - mean) / (1.0 - chance)
            })
        });
        let cells = table.iter().flatten().zip(influence.iter().flatten());
        Self {
            observed,
            kappa: Some(kappa),
            influence,
            variance: cells.map(|(units, moved)| units / total * moved * moved).sum(),
        }
    }
}

/// A judge's verdicts counted against labels. "Positive" means unsafe. The counts may be sums of weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct BinaryCounts {
    /// Labelled unsafe and judged unsafe.
    pub true_positive: f64,
    /// Labelled safe but judged unsafe.
    pub false_positive: f64,
    /// Labelled unsafe but judged safe.
    pub false_negative: f64,
    /// Labelled safe and judged safe.
    pub true_negative: f64,
}

impl BinaryCounts {
    /// Adds units that share one verdict, of which `are_unsafe` are labelled unsafe and `are_safe` safe.
    pub fn add(&mut self, judged_unsafe: bool, are_unsafe: f64, are_safe: f64) {
        if judged_unsafe {
            self.true_positive += are_unsafe;
            self.false_positive += are_safe;
        } else {
            self.false_negative += are_unsafe;
            self.true_negative += are_safe;
        }
    }

    /// The counts as `table[label][verdict]`, unsafe first.
    pub(super) fn table(&self) -> [[f64; 2]; 2] {
        [
            [self.true_positive, self.false_negative],
            [self.false_positive, self.true_negative],
        ]
    }

    /// Proportion of right verdicts among all units.
    pub fn accuracy(&self) -> Option<f64> {
        let right = self.true_positive + self.true_negative;
        ratio(right, right + self.false_positive + self.false_negative)
    }

    /// Proportion of the units judged unsafe that are labelled unsafe.
    pub fn precision(&self) -> Option<f64> {
        ratio(self.true_positive, self.true_positive + self.false_positive)
    }

    /// Proportion of the units labelled unsafe that are judged unsafe (recall).
    pub fn sensitivity(&self) -> Option<f64> {
        ratio(self.true_positive, self.true_positive + self.false_negative)
    }

    /// Proportion of the units labelled safe that are judged safe.
    pub fn specificity(&self) -> Option<f64> {
        ratio(self.true_negative, self.true_negative + self.false_positive)
    }

    /// Harmonic mean of precision and sensitivity; absent when no unit is labelled or judged unsafe.
    pub fn f1(&self) -> Option<f64> {
        ratio(
            2.0 * self.true_positive,
            2.0 * self.true_positive + self.false_positive + self.false_negative,
        )
    }
}

fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        kappa2: Vec<KappaCase<2>>,
        kappa3: Vec<KappaCase<3>>,
        binary: Vec<BinaryCase>,
    }

    struct KappaCase<const K: usize> {
        table: [[u64; K]; K],
        kappa: f64,
        standard_error: f64,
    }

    impl<'de, const K: usize> Deserialize<'de> for KappaCase<K> {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            #[derive(Deserialize)]
            struct Raw {
                table: Vec<Vec<u64>>,
                kappa: f64,
                standard_error: f64,
            }
            let raw = Raw::deserialize(deserializer)?;
            let mut table = [[0; K]; K];
            for (row, values) in table.iter_mut().zip(&raw.table) {
                row.copy_from_slice(values);
            }
            Ok(Self {
                table,
                kappa: raw.kappa,
                standard_error: raw.standard_error,
            })
        }
    }

    #[derive(Deserialize)]
    struct BinaryCase {
        counts: [f64; 4],
        accuracy: f64,
        precision: f64,
        recall: f64,
        f1: f64,
    }

    fn golden() -> Golden {
        serde_json::from_str(include_str!("../../../tests/golden/stats_agreement.json")).expect("valid JSON")
    }

    fn check<const K: usize>(case: &KappaCase<K>) {
        let ours = kappa(&case.table).expect("units");
        let found = ours.kappa.expect("not constant");
        assert!((found - case.kappa).abs() < 1e-12, "{ours:?}, {}", case.kappa);
        let interval = ours.interval.expect("not constant");
        let half = Z95 * case.standard_error;
        assert!(
            (interval.low - (case.kappa - half).max(-1.0)).abs() < 1e-10,
            "{ours:?}"
        );
        assert!(
            (interval.high - (case.kappa + half).min(1.0)).abs() < 1e-10,
            "{ours:?}"
        );
    }

    /// The expected values are those of statsmodels, written by `tests/golden/stats_agreement.py`.
    #[test]
    fn kappa_and_its_error_equal_statsmodels() {
        let golden = golden();
        assert!(golden.kappa2.len() > 10 && golden.kappa3.len() > 5);
        golden.kappa2.iter().for_each(check);
        golden.kappa3.iter().for_each(check);
    }

    #[test]
    fn judges_that_always_say_the_same_have_no_kappa() {
        let constant = kappa(&[[7, 0], [0, 0]]).expect("units");
        assert_eq!((constant.observed, constant.kappa), (1.0, None));
        assert_eq!(kappa(&[[0, 0], [0, 0]]), None);
    }

    /// The expected values are those of scikit-learn, written by `tests/golden/stats_agreement.py`.
    #[test]
    fn binary_figures_equal_scikit_learn() {
        for case in golden().binary {
            let [true_positive, false_positive, false_negative, true_negative] = case.counts;
            let counts = BinaryCounts {
                true_positive,
                false_positive,
                false_negative,
                true_negative,
            };
            let pairs = [
                (counts.accuracy(), case.accuracy),
                (counts.precision(), case.precision),
                (counts.sensitivity(), case.recall),
                (counts.f1(), case.f1),
            ];
            for (ours, theirs) in pairs {
                assert!((ours.unwrap_or(0.0) - theirs).abs() < 1e-12, "{counts:?}");
            }
        }
        assert_eq!(BinaryCounts::default().f1(), None);
        assert_eq!(BinaryCounts::default().specificity(), None);
    }
}
