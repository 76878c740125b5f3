//! Differences of two proportions over the same trials, which come in clusters: two runs, or two languages, on the same
//! prompts.

use std::collections::BTreeMap;

use super::{
    bootstrap::Bootstrap,
    difference::{Change, Difference},
    interval::Interval,
    macro_average::{MacroAverage, macro_average},
    pairs::PairCounts,
    proportion::Proportion,
    sign_flip::{self, DifferenceClass, SignFlipTest},
};

/// Counts of successes on two sides of the same trials, which come in clusters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PairedDifference {
    /// Successes of the first side.
    pub first: Proportion,
    /// Successes of the second side.
    pub second: Proportion,
    /// Sum over the clusters of the product of the two sides' successes, from which the covariance follows.
    products: u64,
    /// For each nonzero excess of the first side's successes over the second's, the number of clusters with that excess.
    clusters_by_excess: BTreeMap<i64, u64>,
}

impl PairedDifference {
    /// Makes the counts from pairs, each of which is a cluster of its own.
    pub(crate) fn from_pairs(pairs: PairCounts) -> Self {
        let n = pairs.total();
        let by_excess = [(1, pairs.first_only), (-1, pairs.second_only)];
        Self {
            first: Proportion::from_independent(pairs.both + pairs.first_only, n),
            second: Proportion::from_independent(pairs.both + pairs.second_only, n),
            products: pairs.both,
            clusters_by_excess: by_excess.into_iter().filter(|(_, count)| *count > 0).collect(),
        }
    }

    /// Adds a cluster. A cluster without trials does not count.
    pub(crate) fn add_cluster(&mut self, first: u64, second: u64, trials: u64) {
        self.first.add_cluster(first, trials);
        self.second.add_cluster(second, trials);
        if trials > 0 {
            self.products += first * second;
            if first != second {
                *self
                    .clusters_by_excess
                    .entry(first as i64 - second as i64)
                    .or_default() += 1;
            }
        }
    }

    /// The proportion of the first side less that of the second. The interval is Newcombe's for paired data (1998,
    /// Statistics in Medicine 17:2635, method 10), with the sides' intervals and their correlation taken over clusters.
    /// With one trial in every cluster it is Newcombe's original interval. `None` without trials.
    pub(crate) fn difference(&self) -> Option<Change> {
        let [first, second] = [&self.first, &self.second].map(MacroAverage::of_one);
        Some(newcombe(first?, second?, self.covariance()))
    }

    /// Tests whether the sides differ by more than chance: a sign-flip permutation test over clusters.
    pub(crate) fn sign_flip_test(&self) -> SignFlipTest {
        sign_flip::exact(&self.clusters_by_excess)
    }

    fn covariance(&self) -> Covariance {
        Covariance {
            first: self.first.residuals_squared(),
            second: self.second.residuals_squared(),
            both: self.first.residual_products(&self.second, self.products),
        }
    }
}

/// The variances of two sides and their covariance, up to a common factor.
#[derive(Debug, Clone, Copy, Default)]
struct Covariance {
    first: f64,
    second: f64,
    both: f64,
}

impl Covariance {
    fn plus(self, other: Self, weight: f64) -> Self {
        Self {
            first: self.first + weight * other.first,
            second: self.second + weight * other.second,
            both: self.both + weight * other.both,
        }
    }
}

/// Newcombe's method 10 from the sides' intervals and their correlation. As a continuity correction, a positive
/// correlation is reduced by what half a concordant pair less would change.
fn newcombe(first: MacroAverage, second: MacroAverage, covariance: Covariance) -> Change {
    let (p, q) = (first.estimate, second.estimate);
    let estimate = p - q;
    let intervals = first.interval.zip(second.interval);
    let interval = intervals.map(|(a, b)| {
        let scale = (covariance.first * covariance.second).sqrt();
        let correlation = if scale > 0.0 { covariance.both / scale } else { 0.0 };
        let spread = (p * (1.0 - p) * q * (1.0 - q)).sqrt();
        let trials = first.effective_trials.zip(second.effective_trials);
        let half_pair = trials.map_or(0.0, |(a, b)| 1.0 / (2.0 * (a * b).sqrt() * spread));
        let correlation = match correlation {
            c if c > 0.0 => (c - half_pair).max(0.0),
            c => c,
        };
        let width = |x: f64, y: f64| (x * x - 2.0 * correlation * x * y + y * y).max(0.0).sqrt();
        Interval {
            low: (estimate - width(p - a.low, b.high - q)).max(-1.0),
            high: (estimate + width(a.high - p, q - b.low)).min(1.0),
        }
    });
    Change { estimate, interval }
}

/// The difference of two proportions over the same units, with the score interval for paired data (Newcombe 1998,
/// Statistics in Medicine 17:2635, method 10, with its correlation corrected for continuity). `None` without pairs.
pub(crate) fn paired_difference(pairs: PairCounts) -> Option<Difference> {
    let change = PairedDifference::from_pairs(pairs).difference()?;
    Some(Difference {
        estimate: change.estimate,
        interval: change.interval?,
    })
}

/// The difference of two proportions, or of two macro averages, that have no cluster in common. The interval is the
/// hybrid score interval for independent proportions (Newcombe 1998, Statistics in Medicine 17:873, method 10).
pub(crate) fn disjoint_difference(first: MacroAverage, second: MacroAverage) -> Change {
    newcombe(first, second, Covariance::default())
}

/// A difference with the p-value of its test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TestedChange {
    /// The difference and its interval.
    pub change: Change,
    /// Two-sided p-value of a sign-flip permutation test.
    pub p: f64,
}

/// The difference of the macro averages of the two sides over strata, with the p-value of a sign-flip permutation test.
/// Each stratum weighs the same, and strata without trials are left out. `None` without trials.
///
/// The interval is made from the averages' intervals as [`PairedDifference::difference`] makes it from proportions.
pub(crate) fn macro_difference(strata: &[PairedDifference], bootstrap: Bootstrap) -> Option<TestedChange> {
    let strata: Vec<&PairedDifference> = strata.iter().filter(|stratum| stratum.first.trials > 0).collect();
    let average = |side: fn(&PairedDifference) -> Proportion| {
        let proportions: Vec<Proportion> = strata.iter().map(|stratum| side(stratum)).collect();
        macro_average(&proportions)
    };
    let (first, second) = (
        average(|stratum| stratum.first)?,
        average(|stratum| stratum.second)?,
    );
    let weight = |stratum: &PairedDifference| 1.0 / (strata.len() as f64 * stratum.first.trials as f64);
    let covariance = strata.iter().fold(Covariance::default(), |sum, stratum| {
        sum.plus(stratum.covariance(), weight(stratum).powi(2))
    });
    let classes: Vec<DifferenceClass> = strata
        .iter()
        .flat_map(|stratum| {
            sign_flip::difference_classes(&stratum.clusters_by_excess)
                .into_iter()
                .map(|class| class.weighted(weight(stratum)))
        })
        .collect();
    let change = newcombe(first, second, covariance);
    let p = sign_flip::sampled(&classes, change.estimate, bootstrap);
    Some(TestedChange { change, p })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::{super::difference::cohens_h, *};
    use crate::random::Random;

    fn paired(clusters: &[(u64, u64, u64)]) -> PairedDifference {
        let mut both = PairedDifference::default();
        clusters
            .iter()
            .for_each(|&(first, second, trials)| both.add_cluster(first, second, trials));
        both
    }

    #[test]
    fn single_trials_are_pairs() {
        let clusters: Vec<_> = [(1, 1), (1, 0), (0, 0), (0, 1), (1, 0)]
            .map(|(a, b)| (a, b, 1))
            .into();
        let pairs = PairCounts {
            both: 1,
            first_only: 2,
            second_only: 1,
            neither: 1,
        };
        assert_eq!(paired(&clusters), PairedDifference::from_pairs(pairs));
        assert_eq!(PairedDifference::default().difference(), None);
    }

    #[test]
    fn a_cluster_that_changes_as_a_whole_counts_once() {
        let alike: Vec<_> = (0..40)
            .map(|cluster| if cluster < 25 { (5, 0, 5) } else { (0, 5, 5) })
            .collect();
        let single: Vec<_> = alike.iter().map(|&(a, b, _)| (a / 5, b / 5, 1)).collect();
        let (alike, single) = (paired(&alike), paired(&single));
        assert_eq!(alike.sign_flip_test().mid_p, single.sign_flip_test().mid_p);
        let width = |both: &PairedDifference| {
            let interval = both
                .difference()
                .and_then(|change| change.interval)
                .expect("clusters");
            interval.high - interval.low
        };
        assert!((width(&alike) / width(&single) - 1.0).abs() < 0.06);
    }

    #[test]
    fn two_prompts_say_nothing() {
        let two = paired(&[(5, 0, 5), (5, 0, 5)]);
        let change = two.difference().expect("trials");
        assert_eq!((change.estimate, change.interval), (1.0, None));
        assert!(two.sign_flip_test().mid_p > 0.2);
    }

    #[test]
    fn the_mean_over_one_stratum_is_the_stratum() {
        let one = paired(
            &(0..50)
                .map(|cluster| (cluster % 3, cluster % 4 % 3, 3))
                .collect::<Vec<_>>(),
        );
        let alone = one.difference().expect("trials");
        let mean = macro_difference(&[one.clone(), PairedDifference::default()], Bootstrap::default())
            .expect("trials");
        let ends = |change: Change| change.interval.map(|i| [i.low, i.high]).expect("clusters");
        assert!(
            ends(alone)
                .iter()
                .zip(ends(mean.change))
                .all(|(a, b)| (a - b).abs() < 1e-12)
        );
        // The p-value is from sampled signs, and ties with the observed difference count fully, as in the exact p-value.
        let exact = one.sign_flip_test().exact_p;
        assert!((mean.p - exact).abs() < 0.02, "{} {exact}", mean.p);
    }

    /// Two runs whose verdicts lean to one side for each prompt, independently of each other but the same in all five
    /// languages.
    #[test]
    fn effects_of_a_prompt_on_a_run_do_not_pass_for_a_difference_of_runs() {
        let mut random = Random::new(8);
        let mut uniform = || (random.bits() >> 11) as f64 / (1u64 << 53) as f64;
        let (runs, mut found, mut covered) = (600, 0, 0);
        for _ in 0..runs {
            let mut both = PairedDifference::default();
            for _ in 0..60 {
                // The safe proportions of most prompts are close to 0 or 1.
                let mut side = || {
                    let lean = if uniform() < 0.7 { 0.95 } else { 0.05 };
                    (0..5).filter(|_| uniform() < lean).count() as u64
                };
                let (first, second) = (side(), side());
                both.add_cluster(first, second, 5);
            }
            found += u32::from(both.sign_flip_test().mid_p < 0.05);
            let interval = both
                .difference()
                .and_then(|change| change.interval)
                .expect("clusters");
            covered += u32::from(interval.contains(0.0));
        }
        // If the verdicts were pooled as if independent, about a quarter of the simulations would find a difference.
        assert!((12..48).contains(&found), "{found} of {runs}");
        assert!(covered > 555, "{covered} of {runs}");
    }

    #[derive(Deserialize)]
    struct Differences {
        independent: Vec<Independent>,
        paired: Vec<Paired>,
    }

    /// Written as an array of two numbers.
    #[derive(Clone, Copy, Deserialize)]
    struct Sample {
        successes: u64,
        trials: u64,
    }

    #[derive(Deserialize)]
    struct Independent {
        first: Sample,
        second: Sample,
        low: f64,
        high: f64,
        cohens_h: f64,
    }

    #[derive(Deserialize)]
    struct Paired {
        #[serde(flatten)]
        pairs: PairCounts,
        low: f64,
        high: f64,
    }

    /// The expected values for independent proportions are those of statsmodels; those for paired ones were computed by
    /// `tests/golden/stats_proportion.py`.
    #[test]
    fn differences_equal_the_references() {
        let golden: Differences =
            serde_json::from_str(include_str!("../../../tests/golden/stats_proportion.json"))
                .expect("valid JSON");
        let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
        let independent = |first: Sample, second: Sample| {
            let average = |sample: Sample| {
                MacroAverage::of_one(&Proportion::from_independent(sample.successes, sample.trials))
            };
            Some(disjoint_difference(average(first)?, average(second)?))
        };
        for case in golden.independent {
            let ours = independent(case.first, case.second).expect("there are trials");
            let interval = ours.interval.expect("single trials");
            assert!(
                close(interval.low, case.low) && close(interval.high, case.high),
                "{ours:?}"
            );
            let proportion = |sample: Sample| sample.successes as f64 / sample.trials as f64;
            assert!(close(
                cohens_h(proportion(case.first), proportion(case.second)),
                case.cohens_h
            ));
        }
        for case in golden.paired {
            let ours = paired_difference(case.pairs).expect("there are pairs");
            assert!(
                close(ours.interval.low, case.low) && close(ours.interval.high, case.high),
                "{ours:?}"
            );
        }
        let sample = |successes, trials| Sample { successes, trials };
        assert_eq!(independent(sample(0, 0), sample(1, 2)), None);
        assert_eq!(paired_difference(PairCounts::default()), None);
    }
}
