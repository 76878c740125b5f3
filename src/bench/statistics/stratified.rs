//! Estimates for all units of a run from labels on a stratified sample: the proportion that is unsafe, and how well the
//! guard agrees with the labels.
//!
//! The strata are formed by the guard's verdict, among other things, and the size of each is known. This is double
//! sampling (Tenenbein 1970, JASA 65:1350). Every quantity here is a function of the strata's unsafe proportions, and
//! each of these proportions has its own Jeffreys limits. The interval of the quantity follows from the method of
//! variance estimates recovery (MOVER: Zou, Huang & Zhang 2009, Computational Statistics & Data Analysis 53:1080): one
//! proportion at a time is set to its limit, the resulting changes of the quantity are squared, and the squares are
//! summed over the strata. A stratum without an error has limits as wide as its few labels make them, so that no
//! interval has width zero.

use super::{
    agreement::{BinaryCounts, Kappa, KappaTerms},
    beta::jeffreys,
    interval::{Interval, Z95},
    wilson::wilson_at,
};

/// Units of the same kind, of which a random sample was labelled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Stratum {
    /// The guard's verdict, which is the same for every unit of the stratum.
    pub judged_unsafe: bool,
    /// Number of units that the stratum stands for; may be a sum of weights.
    pub size: f64,
    /// Number of labelled units.
    pub labels: f64,
    /// Number of labels that say unsafe; a label on which people are divided counts one half.
    pub unsafe_labels: f64,
    /// Sampling fraction: the proportion of the units that has a label. Labelled units are known, so they add no
    /// uncertainty.
    pub sampling_fraction: f64,
}

/// An estimate of a proportion, with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Estimate {
    /// In [0, 1].
    pub value: f64,
    /// The 95 % confidence interval.
    pub interval: Interval,
}

/// Estimates the proportion of unsafe units in the population that these units were drawn from.
///
/// The units are themselves a sample, worth `effective_units` independent draws. That uncertainty enters as Wilson's
/// interval for as many trials; when every unit is labelled, it is the only uncertainty. `None` without units, and when
/// a stratum has no label.
pub(crate) fn unsafe_proportion(strata: &[Stratum], effective_units: f64) -> Option<Estimate> {
    let strata: Vec<Stratum> = strata.iter().copied().filter(|one| one.size > 0.0).collect();
    if strata.is_empty() || strata.iter().any(|one| one.labels <= 0.0) {
        return None;
    }
    let mover = mover(&strata, |counts| {
        let [unsafe_units, safe_units] = counts.table().map(|row| row.iter().sum::<f64>());
        Some(unsafe_units / (unsafe_units + safe_units))
    })?;
    let population = wilson_at(mover.value, effective_units);
    Some(Estimate {
        value: mover.value,
        interval: Interval {
            low: (mover.value - mover.below.sqrt().hypot(mover.value - population.low)).max(0.0),
            high: (mover.value + mover.above.sqrt().hypot(population.high - mover.value)).min(1.0),
        },
    })
}

/// The guard's verdicts counted against the labels, each label weighted so that the counts stand for all units.
pub(crate) fn counts(strata: &[Stratum]) -> BinaryCounts {
    let proportions: Vec<f64> = strata.iter().map(Stratum::unsafe_proportion).collect();
    counts_at(strata, &proportions)
}

/// Cohen's kappa between guard and labels, for all units that the strata stand for. Every stratum must have a label.
/// As in [`unsafe_proportion`], the units are themselves a sample: the variance of Fleiss, Cohen & Everitt (1969) for
/// `effective_units` draws is added. `None` without strata.
pub(crate) fn kappa(strata: &[Stratum], effective_units: f64) -> Option<Kappa> {
    if strata.is_empty() {
        return None;
    }
    let terms = KappaTerms::of(&counts(strata).table());
    let mover = mover(strata, |counts| KappaTerms::of(&counts.table()).kappa);
    let population = Z95 * Z95 * terms.variance / effective_units;
    Some(Kappa {
        n: strata.iter().map(|one| one.labels).sum::<f64>().round() as u64,
        observed: terms.observed,
        kappa: terms.kappa,
        interval: mover.map(|mover| Interval {
            low: (mover.value - (mover.below + population).sqrt()).max(-1.0),
            high: (mover.value + (mover.above + population).sqrt()).min(1.0),
        }),
    })
}

impl Stratum {
    fn unsafe_proportion(&self) -> f64 {
        self.unsafe_labels / self.labels
    }
}

/// A quantity at the estimated proportions, and its variance recovered below and above from the strata's limits: sums of
/// squared changes.
struct Mover {
    value: f64,
    below: f64,
    above: f64,
}

/// Recovers a quantity's variance from the strata's Jeffreys limits. `None` when the quantity does not exist at the
/// estimated proportions. A limit at which it does not exist adds nothing.
fn mover(strata: &[Stratum], quantity: impl Fn(BinaryCounts) -> Option<f64>) -> Option<Mover> {
    let proportions: Vec<f64> = strata.iter().map(Stratum::unsafe_proportion).collect();
    let value = quantity(counts_at(strata, &proportions))?;
    let (mut below, mut above) = (0.0, 0.0);
    for (index, stratum) in strata.iter().enumerate() {
        let limits = jeffreys(stratum.unsafe_labels, stratum.labels);
        for limit in [limits.low, limits.high] {
            let mut proportions = proportions.clone();
            proportions[index] = limit;
            let change = quantity(counts_at(strata, &proportions)).map_or(0.0, |at| at - value);
            let sum = if change < 0.0 { &mut below } else { &mut above };
            *sum += (1.0 - stratum.sampling_fraction) * change * change;
        }
    }
    Some(Mover { value, below, above })
}

fn counts_at(strata: &[Stratum], proportions: &[f64]) -> BinaryCounts {
    let mut counts = BinaryCounts::default();
    for (stratum, proportion) in strata.iter().zip(proportions) {
        counts.add(
            stratum.judged_unsafe,
            stratum.size * proportion,
            stratum.size * (1.0 - proportion),
        );
    }
    counts
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::random::Random;

    #[derive(Deserialize)]
    struct Sample {
        strata: Vec<Raw>,
        independent: f64,
        share: [f64; 3],
        kappa: Option<[f64; 3]>,
    }

    #[derive(Deserialize)]
    struct Raw {
        judged_unsafe: bool,
        size: f64,
        labels: f64,
        unsafe_labels: f64,
    }

    fn stratum(judged_unsafe: bool, size: f64, labels: f64, unsafe_labels: f64) -> Stratum {
        Stratum {
            judged_unsafe,
            size,
            labels,
            unsafe_labels,
            sampling_fraction: labels / size,
        }
    }

    /// The expected values were computed with scipy, scikit-learn and statsmodels by `tests/golden/stats_stratified.py`.
    #[test]
    fn proportion_and_kappa_equal_the_independent_computation() {
        #[derive(Deserialize)]
        struct File {
            samples: Vec<Sample>,
        }
        let golden = include_str!("../../../tests/golden/stats_stratified.json");
        let golden: File = serde_json::from_str(golden).expect("valid JSON");
        assert!(golden.samples.len() > 10);
        let check = |value: f64, interval: Interval, theirs: [f64; 3], within: f64| {
            for (ours, theirs) in [value, interval.low, interval.high].into_iter().zip(theirs) {
                assert!((ours - theirs).abs() < within, "{ours} {theirs}");
            }
        };
        for case in golden.samples {
            let of = |raw: &Raw| stratum(raw.judged_unsafe, raw.size, raw.labels, raw.unsafe_labels);
            let strata: Vec<Stratum> = case.strata.iter().map(of).collect();
            let found = unsafe_proportion(&strata, case.independent).expect("labels everywhere");
            check(found.value, found.interval, case.share, 1e-11);
            let ours = kappa(&strata, case.independent).expect("strata");
            let theirs = case.kappa.expect("kappa exists");
            // The square root of a variance of zero is wrong by the square root of the rounding error, hence the wide tolerance.
            check(
                ours.kappa.expect("kappa exists"),
                ours.interval.expect("kappa exists"),
                theirs,
                1e-7,
            );
        }
    }

    /// Rogan & Gladen's estimator (1978), with sensitivity and specificity estimated from the same strata, equals the
    /// stratified proportion: the proportions judged unsafe cancel. Offering it as well would add nothing.
    #[test]
    fn rogan_and_gladen_say_the_same() {
        let strata = [
            stratum(true, 90.0, 15.0, 9.5),
            stratum(true, 30.0, 15.0, 12.0),
            stratum(false, 14_000.0, 15.0, 0.5),
            stratum(false, 800.0, 25.0, 3.0),
        ];
        let counts = counts(&strata);
        let (sensitivity, specificity) = (
            counts.sensitivity().expect("unsafe"),
            counts.specificity().expect("safe"),
        );
        let seen = (90.0 + 30.0) / 14_920.0;
        let corrected = (seen + specificity - 1.0) / (sensitivity + specificity - 1.0);
        let found = unsafe_proportion(&strata, 14_920.0).expect("labels everywhere");
        assert!((found.value - corrected).abs() < 1e-12, "{found:?} {corrected}");
    }

    #[test]
    fn strata_without_errors_are_not_certain() {
        let all_right = [stratum(true, 50.0, 10.0, 10.0), stratum(false, 950.0, 10.0, 0.0)];
        let found = unsafe_proportion(&all_right, 1000.0).expect("labels everywhere");
        assert!((found.value - 0.05).abs() < 1e-12);
        assert!(
            found.interval.low < 0.045 && found.interval.high > 0.2,
            "{found:?}"
        );
        let kappa = kappa(&all_right, 1000.0).expect("strata");
        let interval = kappa.interval.expect("kappa exists");
        assert!(
            kappa.kappa == Some(1.0) && interval.high == 1.0 && interval.low < 0.6,
            "{kappa:?}"
        );
    }

    #[test]
    fn all_labels_leave_what_the_run_itself_leaves_open() {
        let census = [
            stratum(true, 50.0, 50.0, 40.0),
            stratum(false, 950.0, 950.0, 20.0),
        ];
        let found = unsafe_proportion(&census, 1000.0).expect("labels everywhere");
        let wilson = wilson_at(0.06, 1000.0);
        assert!(
            (found.interval.low - wilson.low).abs() < 1e-12
                && (found.interval.high - wilson.high).abs() < 1e-12
        );
    }

    #[test]
    fn a_stratum_without_labels_leaves_the_proportion_unknown() {
        let bare = stratum(false, 10.0, 0.0, 0.0);
        let labelled = stratum(true, 50.0, 10.0, 10.0);
        assert_eq!(unsafe_proportion(&[labelled, bare], 60.0), None);
        assert!(unsafe_proportion(&[labelled, stratum(false, 0.0, 0.0, 0.0)], 50.0).is_some());
        assert_eq!(unsafe_proportion(&[], 10.0), None);
        assert_eq!(kappa(&[], 10.0), None);
    }

    /// Draws `count` of `size` units without replacement and returns how many of the drawn ones are among the `marked`.
    fn draw_marked(random: &mut Random, size: usize, marked: usize, count: usize) -> usize {
        let (mut left, mut found) = (marked, 0);
        for taken in 0..count {
            if random.below(size - taken) < left {
                left -= 1;
                found += 1;
            }
        }
        found
    }

    /// Each simulated run has 400 answers, 12 % of them unsafe, 60 labels, and a guard with sensitivity 0.8 and specificity
    /// 0.95.
    #[test]
    fn intervals_cover_the_truth_as_often_as_they_say() {
        let (truth, sensitivity, specificity) = (0.12, 0.8, 0.95);
        let cells = [
            truth * sensitivity,
            (1.0 - truth) * (1.0 - specificity),
            truth * (1.0 - sensitivity),
            (1.0 - truth) * specificity,
        ];
        let true_kappa = KappaTerms::of(&[[cells[0], cells[2]], [cells[1], cells[3]]]).kappa;
        let mut random = Random::new(9);
        let runs = 2_000u32;
        let (mut proportions, mut kappas) = (0, 0);
        for _ in 0..runs {
            let mut counts = [0usize; 4];
            for _ in 0..400 {
                let at = random.below(1_000_000) as f64 / 1e6;
                let mut edge = 0.0;
                let cell = cells.iter().position(|cell| {
                    edge += cell;
                    at < edge
                });
                counts[cell.unwrap_or(3)] += 1;
            }
            let strata: Vec<Stratum> = [(true, counts[0], counts[1]), (false, counts[2], counts[3])]
                .map(|(judged_unsafe, are_unsafe, are_safe)| {
                    let size = are_unsafe + are_safe;
                    let labels = size.min(30);
                    let found = draw_marked(&mut random, size, are_unsafe, labels);
                    stratum(judged_unsafe, size as f64, labels as f64, found as f64)
                })
                .to_vec();
            let found = unsafe_proportion(&strata, 400.0).expect("labels everywhere");
            proportions += usize::from(found.interval.contains(truth));
            let kappa = kappa(&strata, 400.0).and_then(|kappa| kappa.interval);
            kappas += usize::from(
                kappa
                    .expect("kappa exists")
                    .contains(true_kappa.expect("kappa exists")),
            );
        }
        for covered in [proportions, kappas] {
            let covered = covered as f64 / f64::from(runs);
            assert!((0.935..0.97).contains(&covered), "{covered}");
        }
    }
}
