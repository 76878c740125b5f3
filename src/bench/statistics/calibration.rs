//! Whether scores mean what they say: of the items scored 0.8, are 80 % unsafe?

use serde::{Deserialize, Serialize};

/// Bins of the reliability diagram.
pub const BINS: usize = 10;

/// Scores against labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Labelled items with a score.
    pub n: u64,
    /// Mean squared distance of score and label (Brier 1950): 0 is perfect, always 0.5 gives 0.25.
    pub brier: f64,
    /// Expected calibration error (Naeini, Cooper & Hauskrecht 2015), over ten bins of equal width.
    pub expected_calibration_error: f64,
    /// The bins that hold items, from low to high scores.
    pub bins: Vec<ReliabilityBin>,
}

/// Items with scores in `[from, from + 0.1)`; the last bin holds 1, too.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// Lower edge.
    pub from: f64,
    /// Items in it.
    pub n: u64,
    /// Their mean score.
    pub mean_score: f64,
    /// Share of them that is labelled unsafe.
    pub unsafe_share: f64,
}

/// From (score in [0, 1], labelled unsafe). `None` without items.
pub fn calibration(items: impl IntoIterator<Item = (f64, bool)>) -> Option<Calibration> {
    let mut bins = [(0u64, 0.0, 0u64); BINS];
    let mut squares = 0.0;
    for (score, is_unsafe) in items {
        let bin = &mut bins[bin_of(score)];
        bin.0 += 1;
        bin.1 += score;
        bin.2 += u64::from(is_unsafe);
        squares += (score - f64::from(u8::from(is_unsafe))).powi(2);
    }
    let n: u64 = bins.iter().map(|bin| bin.0).sum();
    let bins: Vec<_> = bins
        .iter()
        .enumerate()
        .filter(|(_, bin)| bin.0 > 0)
        .map(|(index, &(n, scores, labelled))| ReliabilityBin {
            from: index as f64 / BINS as f64,
            n,
            mean_score: scores / n as f64,
            unsafe_share: labelled as f64 / n as f64,
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

/// The bin of a score in [0, 1].
pub fn bin_of(score: f64) -> usize {
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

    /// `tests/golden/stats_calibration.py` asked scikit-learn.
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
