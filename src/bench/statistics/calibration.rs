//! Calibration: do the scores mean what they say? Of the items with score 0.8, are 80 % unsafe?

use serde::{Deserialize, Serialize};

/// Number of bins of the reliability diagram.
pub(crate) const BINS: usize = 10;

/// How well unsafe scores match the labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Number of labelled items with a score.
    pub n: u64,
    /// Mean squared distance of score and label (Brier 1950). 0 is perfect; always scoring 0.5 gives 0.25.
    pub brier: f64,
    /// Expected calibration error (Naeini, Cooper & Hauskrecht 2015), over ten bins of equal width.
    pub expected_calibration_error: f64,
    /// The bins that contain items, from low to high scores.
    pub bins: Vec<ReliabilityBin>,
}

/// The items with scores in `[from, from + 0.1)`; the last bin includes 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// The bin's lower edge.
    pub from: f64,
    /// Number of items in the bin.
    pub n: u64,
    /// Mean score of the items.
    pub mean_score: f64,
    /// Proportion of the items that is labelled unsafe.
    pub unsafe_share: f64,
}

/// Sums over the items of one bin.
#[derive(Debug, Clone, Copy, Default)]
struct BinSums {
    n: u64,
    scores: f64,
    unsafe_labels: u64,
}

/// Computes the calibration of pairs of a score in [0, 1] and whether the item is labelled unsafe. `None` without items.
pub(crate) fn calibration(items: impl IntoIterator<Item = (f64, bool)>) -> Option<Calibration> {
    let mut bins = [BinSums::default(); BINS];
    let mut squares = 0.0;
    for (score, is_unsafe) in items {
        let bin = &mut bins[bin_of(score)];
        bin.n += 1;
        bin.scores += score;
        bin.unsafe_labels += u64::from(is_unsafe);
        squares += (score - f64::from(u8::from(is_unsafe))).powi(2);
    }
    let n: u64 = bins.iter().map(|bin| bin.n).sum();
    let bins: Vec<_> = bins
        .iter()
        .enumerate()
        .filter(|(_, bin)| bin.n > 0)
        .map(|(index, bin)| ReliabilityBin {
            from: index as f64 / BINS as f64,
            n: bin.n,
            mean_score: bin.scores / bin.n as f64,
            unsafe_share: bin.unsafe_labels as f64 / bin.n as f64,
        })
        .collect();
    let error = bins
        .iter()
        .map(|bin| bin.n as f64 * (bin.mean_score - bin.unsafe_share).abs())
        .sum::<f64>();
    (n > 0).then(|| Calibration {
        n,
        brier: squares / n as f64,
        expected_calibration_error: error / n as f64,
        bins,
    })
}

/// The index of the bin that a score in [0, 1] falls into.
pub(crate) fn bin_of(score: f64) -> usize {
    ((score * BINS as f64) as usize).min(BINS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Golden {
        scores: Vec<f64>,
        labels: Vec<u8>,
        brier: f64,
        expected_calibration_error: f64,
        mean_scores: Vec<f64>,
        unsafe_shares: Vec<f64>,
    }

    /// The expected values are those of scikit-learn, written by `tests/golden/stats_calibration.py`.
    #[test]
    fn calibration_equals_scikit_learn() {
        let golden: Vec<Golden> =
            serde_json::from_str(include_str!("../../../tests/golden/stats_calibration.json"))
                .expect("valid JSON");
        assert!(golden.len() > 2);
        for case in golden {
            let items = case
                .scores
                .iter()
                .copied()
                .zip(case.labels.iter().map(|l| *l == 1));
            let ours = calibration(items).expect("items");
            assert!((ours.brier - case.brier).abs() < 1e-12);
            let error = ours.expected_calibration_error - case.expected_calibration_error;
            assert!(error.abs() < 1e-12, "{error}");
            assert_eq!(ours.bins.len(), case.mean_scores.len());
            for (bin, (mean, share)) in ours
                .bins
                .iter()
                .zip(case.mean_scores.iter().zip(&case.unsafe_shares))
            {
                assert!((bin.mean_score - mean).abs() < 1e-12 && (bin.unsafe_share - share).abs() < 1e-12);
            }
        }
        assert_eq!(calibration([]), None);
    }
}
