//! What labels on a stratified sample say of all units: the share that is unsafe, and how a judge does against the labels.
//!
//! Strata are made of the judge's verdicts among other things, and their sizes are known: double sampling (Tenenbein
//! 1970, JASA 65:1350). Each quantity is a function of the strata's unsafe shares, of which each has its own limits. What
//! the quantity moves by when one share is put at its limit is squared and summed over strata (the method of variance
//! estimates recovery: Zou, Huang & Zhang 2009, Computational Statistics & Data Analysis 53:1080, with Jeffreys' limits).
//! A stratum without errors has limits as wide as its few labels make them, so that no interval has width zero.

use super::{
    Interval, Z95,
    agreement::{BinaryCounts, Kappa, KappaTerms},
    beta::jeffreys,
    proportion::wilson_at,
};

/// Units of which a random part was labelled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stratum {
    /// The judge's verdict on each of them.
    pub judged_unsafe: bool,
    /// Units that it stands for.
    pub size: f64,
    /// Labels.
    pub labels: f64,
    /// Labels that say unsafe; need not be whole.
    pub unsafe_labels: f64,
    /// Share of the units that has a label: these are known and add no uncertainty.
    pub known: f64,
}

/// An estimate in [0, 1] with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// 95 %.
    pub interval: Interval,
}

/// The share of unsafe units among all that are like these: the units are themselves draws, worth `independent`
/// independent ones, which adds Wilson's interval for as many. With all units labelled that alone is left. `None` without
/// units, and when a stratum has no label.
pub fn unsafe_share(strata: &[Stratum], independent: f64) -> Option<Estimate> {
    let strata: Vec<Stratum> = strata.iter().copied().filter(|one| one.size > 0.0).collect();
    if strata.is_empty() || strata.iter().any(|one| one.labels <= 0.0) {
        return None;
    }
    let moved = moved(&strata, |counts| {
        let [unsafe_units, safe_units] = counts.table().map(|row| row.iter().sum::<f64>());
        Some(unsafe_units / (unsafe_units + safe_units))
    })?;
    let of_units = wilson_at(moved.value, independent);
    Some(Estimate {
        value: moved.value,
        interval: Interval {
            low: (moved.value - moved.below.sqrt().hypot(moved.value - of_units.low)).max(0.0),
            high: (moved.value + moved.above.sqrt().hypot(of_units.high - moved.value)).min(1.0),
        },
    })
}

/// The judge against the labels, for all units that the strata stand for.
pub fn counts(strata: &[Stratum]) -> BinaryCounts {
    let shares: Vec<f64> = strata.iter().map(Stratum::share).collect();
    counts_at(strata, &shares)
}

/// Cohen's kappa between judge and labels, for all units that the strata stand for; each stratum must have a label. The
/// units are draws as in [`unsafe_share`], which adds the variance of Fleiss, Cohen & Everitt (1969) for `independent` of
/// them. `None` without strata.
pub fn kappa(strata: &[Stratum], independent: f64) -> Option<Kappa> {
    if strata.is_empty() {
        return None;
    }
    let terms = KappaTerms::of(&counts(strata).table());
    let moved = moved(strata, |counts| KappaTerms::of(&counts.table()).kappa);
    let of_units = Z95 * Z95 * terms.variance / independent;
    Some(Kappa {
        n: strata.iter().map(|one| one.labels).sum::<f64>().round() as u64,
        observed: terms.observed,
        kappa: terms.kappa,
        interval: moved.map(|moved| Interval {
            low: (moved.value - (moved.below + of_units).sqrt()).max(-1.0),
            high: (moved.value + (moved.above + of_units).sqrt()).min(1.0),
        }),
    })
}

impl Stratum {
    fn share(&self) -> f64 {
        self.unsafe_labels / self.labels
    }
}

/// A quantity at the estimated shares, and the sums over strata of what it moves by when one of them is at its limits,
/// squared.
struct Moved {
    value: f64,
    below: f64,
    above: f64,
}

/// `None` when the quantity does not exist at the estimated shares. Where it does not exist at a limit, that limit adds
/// nothing.
fn moved(strata: &[Stratum], quantity: impl Fn(BinaryCounts) -> Option<f64>) -> Option<Moved> {
    let shares: Vec<f64> = strata.iter().map(Stratum::share).collect();
    let value = quantity(counts_at(strata, &shares))?;
    let (mut below, mut above) = (0.0, 0.0);
    for (place, stratum) in strata.iter().enumerate() {
        let limits = jeffreys(stratum.unsafe_labels, stratum.labels);
        for limit in [limits.low, limits.high] {
            let mut shares = shares.clone();
            shares[place] = limit;
            let change = quantity(counts_at(strata, &shares)).map_or(0.0, |at| at - value);
            let sum = if change < 0.0 { &mut below } else { &mut above };
            *sum += (1.0 - stratum.known) * change * change;
        }
    }
    Some(Moved { value, below, above })
}

fn counts_at(strata: &[Stratum], shares: &[f64]) -> BinaryCounts {
    let mut counts = BinaryCounts::default();
    for (stratum, share) in strata.iter().zip(shares) {
        counts.add(
            stratum.judged_unsafe,
            stratum.size * share,
            stratum.size * (1.0 - share),
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
            known: labels / size,
        }
    }

    /// `tests/golden/stats_stratified.py` computed these apart, with scipy, scikit-learn and statsmodels.
    #[test]
    fn shares_and_kappa_equal_the_independent_computation() {
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
            let share = unsafe_share(&strata, case.independent).expect("labels everywhere");
            check(share.value, share.interval, case.share, 1e-11);
            let ours = kappa(&strata, case.independent).expect("strata");
            let theirs = case.kappa.expect("kappa exists");
            // The square root of a variance of zero is as far from zero as its rounding.
            check(
                ours.kappa.expect("kappa exists"),
                ours.interval.expect("kappa exists"),
                theirs,
                1e-7,
            );
        }
    }

    /// Rogan & Gladen's estimator (1978), with sensitivity and specificity from the same strata, is the stratified share:
    /// the shares judged unsafe cancel. It would add nothing to it.
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
        let share = unsafe_share(&strata, 14_920.0).expect("labels everywhere");
        assert!((share.value - corrected).abs() < 1e-12, "{share:?} {corrected}");
    }

    #[test]
    fn strata_without_errors_are_not_certain() {
        let all_right = [stratum(true, 50.0, 10.0, 10.0), stratum(false, 950.0, 10.0, 0.0)];
        let share = unsafe_share(&all_right, 1000.0).expect("labels everywhere");
        assert!((share.value - 0.05).abs() < 1e-12);
        assert!(
            share.interval.low < 0.045 && share.interval.high > 0.2,
            "{share:?}"
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
        let share = unsafe_share(&census, 1000.0).expect("labels everywhere");
        let wilson = wilson_at(0.06, 1000.0);
        assert!(
            (share.interval.low - wilson.low).abs() < 1e-12
                && (share.interval.high - wilson.high).abs() < 1e-12
        );
    }

    #[test]
    fn a_stratum_without_labels_leaves_the_share_unknown() {
        let bare = stratum(false, 10.0, 0.0, 0.0);
        let labelled = stratum(true, 50.0, 10.0, 10.0);
        assert_eq!(unsafe_share(&[labelled, bare], 60.0), None);
        assert!(unsafe_share(&[labelled, stratum(false, 0.0, 0.0, 0.0)], 50.0).is_some());
        assert_eq!(unsafe_share(&[], 10.0), None);
        assert_eq!(kappa(&[], 10.0), None);
    }

    /// How many of `count` units are marked that are drawn without replacement from `size`, of which `marked` are.
    fn drawn(random: &mut Random, size: usize, marked: usize, count: usize) -> usize {
        let (mut left, mut found) = (marked, 0);
        for taken in 0..count {
            if random.below(size - taken) < left {
                left -= 1;
                found += 1;
            }
        }
        found
    }

    /// Runs of 400 answers, 12 % unsafe; a guard with sensitivity 0.8 and specificity 0.95; 60 labels.
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
        let (mut shares, mut kappas) = (0, 0);
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
                    let found = drawn(&mut random, size, are_unsafe, labels);
                    stratum(judged_unsafe, size as f64, labels as f64, found as f64)
                })
                .to_vec();
            let share = unsafe_share(&strata, 400.0).expect("labels everywhere");
            shares += usize::from(share.interval.holds(truth));
            let kappa = kappa(&strata, 400.0).and_then(|kappa| kappa.interval);
            kappas += usize::from(
                kappa
                    .expect("kappa exists")
                    .holds(true_kappa.expect("kappa exists")),
            );
        }
        for covered in [shares, kappas] {
            let covered = covered as f64 / f64::from(runs);
            assert!((0.935..0.97).contains(&covered), "{covered}");
        }
    }
}
