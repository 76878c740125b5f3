//! What a rate would be if the judge made no errors, given how often it errs on labelled items.

use serde::{Deserialize, Serialize};

use super::{Interval, Z95};

/// Below this Youden index a judge knows too little for a correction to mean anything.
const LEAST_YOUDEN: f64 = 0.1;

/// How often a judge is right, from labels. The counts of labels may be effective sizes of weighted samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct JudgeAccuracy {
    /// Share of unsafe items that it judges unsafe.
    pub sensitivity: f64,
    /// Unsafe labels behind it.
    pub unsafe_labels: f64,
    /// Share of safe items that it judges safe.
    pub specificity: f64,
    /// Safe labels behind it.
    pub safe_labels: f64,
}

/// A corrected share of unsafe items.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Corrected {
    /// In [0, 1].
    pub estimate: f64,
    /// 95 %, with the uncertainty of the judge's accuracy.
    pub interval: Interval,
    /// The formula left [0, 1] and was cut: the judge's assumed accuracy does not fit what was observed.
    pub clipped: bool,
}

/// Rogan & Gladen's estimator (1978) of the true share of unsafe items, with the interval of Lang & Reiczigel
/// (2014, Preventive Veterinary Medicine 113:13, eq. 16). `None` without items, without labels of either kind,
/// or when the judge hardly tells safe from unsafe (sensitivity + specificity - 1 below 0.1).
pub fn rogan_gladen(judged_unsafe: u64, judged: u64, accuracy: JudgeAccuracy) -> Option<Corrected> {
    let JudgeAccuracy {
        sensitivity,
        unsafe_labels,
        specificity,
        safe_labels,
    } = accuracy;
    let youden = sensitivity + specificity - 1.0;
    if judged == 0 || unsafe_labels <= 0.0 || safe_labels <= 0.0 || youden < LEAST_YOUDEN {
        return None;
    }
    let n = judged as f64;
    let apparent = judged_unsafe as f64 / n;
    let estimate = (apparent + specificity - 1.0) / youden;

    // One success and one failure more for the judge's accuracy, z²/2 of each for the rate.
    let z2 = Z95 * Z95;
    let n_rate = n + z2;
    let rate = (n * apparent + z2 / 2.0) / n_rate;
    let (n_sensitivity, n_specificity) = (unsafe_labels + 2.0, safe_labels + 2.0);
    let sensitivity = (unsafe_labels * sensitivity + 1.0) / n_sensitivity;
    let specificity = (safe_labels * specificity + 1.0) / n_specificity;
    let youden = sensitivity + specificity - 1.0;
    if youden <= 0.0 {
        return None;
    }
    let centre = (rate + specificity - 1.0) / youden;
    let of_sensitivity = sensitivity * (1.0 - sensitivity) / n_sensitivity;
    let of_specificity = specificity * (1.0 - specificity) / n_specificity;
    let shift = 2.0 * z2 * (centre * of_sensitivity - (1.0 - centre) * of_specificity);
    let variance = rate * (1.0 - rate) / n_rate
        + centre * centre * of_sensitivity
        + (1.0 - centre).powi(2) * of_specificity;
    let half = Z95 * variance.sqrt() / youden;
    Some(Corrected {
        estimate: estimate.clamp(0.0, 1.0),
        interval: Interval {
            low: (centre + shift - half).clamp(0.0, 1.0),
            high: (centre + shift + half).clamp(0.0, 1.0),
        },
        clipped: !(0.0..=1.0).contains(&estimate),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::bootstrap::Random, *};

    #[derive(serde::Deserialize)]
    struct Golden {
        judged_unsafe: u64,
        judged: u64,
        accuracy: JudgeAccuracy,
        estimate: f64,
        low: f64,
        high: f64,
    }

    /// `tests/golden/stats_correction.py` computed these on its own from the paper's equations.
    #[test]
    fn corrections_equal_the_independent_computation() {
        let golden: Vec<Golden> =
            serde_json::from_str(include_str!("../../../tests/golden/stats_correction.json"))
                .expect("valid JSON");
        assert!(golden.len() > 10);
        for case in golden {
            let ours =
                rogan_gladen(case.judged_unsafe, case.judged, case.accuracy).expect("can be corrected");
            for (ours, theirs) in [
                (ours.estimate, case.estimate),
                (ours.interval.low, case.low),
                (ours.interval.high, case.high),
            ] {
                assert!((ours - theirs).abs() < 1e-12, "{ours} {theirs}");
            }
        }
    }

    #[test]
    fn a_judge_that_cannot_tell_corrects_nothing() {
        let accuracy = |sensitivity, specificity, labels| JudgeAccuracy {
            sensitivity,
            unsafe_labels: labels,
            specificity,
            safe_labels: labels,
        };
        assert_eq!(rogan_gladen(5, 100, accuracy(0.5, 0.5, 50.0)), None);
        assert_eq!(rogan_gladen(5, 100, accuracy(0.9, 0.9, 0.0)), None);
        assert_eq!(rogan_gladen(0, 0, accuracy(0.9, 0.9, 50.0)), None);
        let perfect = rogan_gladen(5, 100, accuracy(1.0, 1.0, 50.0)).expect("can be corrected");
        assert!((perfect.estimate - 0.05).abs() < 1e-12 && !perfect.clipped);
        assert!(
            rogan_gladen(0, 100, accuracy(0.9, 0.9, 50.0)).is_some_and(|c| c.clipped && c.estimate == 0.0)
        );
    }

    /// A planted rate and a planted judge: the interval holds the truth about as often as it says.
    #[test]
    fn the_interval_covers_a_planted_rate() {
        let mut random = Random::new(9);
        let mut tosses = |n: u64, p: f64| {
            (0..n)
                .filter(|_| (random.bits() >> 11) as f64 / (1u64 << 53) as f64 <= p)
                .count() as u64
        };
        let (truth, sensitivity, specificity, labels) = (0.12, 0.85, 0.95, 60);
        let runs = 400;
        let mut covered = 0;
        for _ in 0..runs {
            let seen = tosses(1000, truth * sensitivity + (1.0 - truth) * (1.0 - specificity));
            let accuracy = JudgeAccuracy {
                sensitivity: tosses(labels, sensitivity) as f64 / labels as f64,
                unsafe_labels: labels as f64,
                specificity: tosses(labels, specificity) as f64 / labels as f64,
                safe_labels: labels as f64,
            };
            let corrected = rogan_gladen(seen, 1000, accuracy).expect("can be corrected");
            covered += u64::from(corrected.interval.holds(truth));
        }
        let coverage = covered as f64 / runs as f64;
        assert!((0.92..=1.0).contains(&coverage), "{coverage}");
    }
}
