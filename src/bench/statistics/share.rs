//! Shares of trials that come in clusters: all answers to one prompt, in every language and for every seed, say less
//! together than as many answers to different prompts.

use super::{
    Interval, MeanShare, Z95,
    proportion::{wilson, wilson_at},
};

/// With fewer clusters of more than one trial each, nothing can be said of how much the trials of a cluster have in
/// common.
pub const FEWEST_CLUSTERS: u64 = 5;
/// What is taken to be known before any cluster was seen: so many trials' binomial variance, with trials of a cluster
/// that are all alike. It keeps a handful of rare failures, each in a cluster of its own by chance, from passing for
/// independence.
const PRIOR_TRIALS: f64 = 0.5;

/// Counts of successes and trials in clusters, and the sums over clusters that its variance is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// Clusters with a trial.
    pub clusters: u64,
    /// Trials of all clusters.
    pub trials: u64,
    /// Successes among them.
    pub successes: u64,
    /// Most trials of a cluster.
    largest: u64,
    /// Sum of (successes)².
    successes_squared: u64,
    /// Sum of successes * trials.
    products: u64,
    /// Sum of (trials)².
    trials_squared: u64,
}

impl Share {
    /// Of trials that are each a cluster of its own. `successes` must not be more than `trials`.
    pub fn of_single(successes: u64, trials: u64) -> Self {
        Self {
            clusters: trials,
            trials,
            successes,
            largest: trials.min(1),
            successes_squared: successes,
            products: successes,
            trials_squared: trials,
        }
    }

    /// Counts a cluster; one without trials is none.
    pub fn add(&mut self, successes: u64, trials: u64) {
        if trials == 0 {
            return;
        }
        self.clusters += 1;
        self.trials += trials;
        self.successes += successes;
        self.largest = self.largest.max(trials);
        self.successes_squared += successes * successes;
        self.products += successes * trials;
        self.trials_squared += trials * trials;
    }

    /// Both together, which must have no cluster in common.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            clusters: self.clusters + other.clusters,
            trials: self.trials + other.trials,
            successes: self.successes + other.successes,
            largest: self.largest.max(other.largest),
            successes_squared: self.successes_squared + other.successes_squared,
            products: self.products + other.products,
            trials_squared: self.trials_squared + other.trials_squared,
        }
    }

    /// Successes of all trials, in [0, 1]; `None` without trials.
    pub fn estimate(&self) -> Option<f64> {
        (self.trials > 0).then(|| self.successes as f64 / self.trials as f64)
    }

    /// 95 % interval of the share: Wilson's (1927) on the number of independent trials that would say as much (Korn &
    /// Graubard 1998, Survey Methodology 24:193; Franco, Little, Louis & Slud 2019, Journal of Survey Statistics and
    /// Methodology 7:334). With one trial in every cluster it is Wilson's own. `None` without trials, and with fewer
    /// than [`FEWEST_CLUSTERS`] clusters of several trials.
    pub fn interval(&self) -> Option<Interval> {
        match self.largest {
            0 => None,
            1 => wilson(self.successes, self.trials),
            _ => Some(wilson_at(self.estimate()?, self.effective_trials()?)),
        }
    }

    /// With its interval, to be compared; `None` without trials.
    pub fn mean(&self) -> Option<MeanShare> {
        Some(MeanShare {
            estimate: self.estimate()?,
            interval: self.interval(),
            effective_trials: self.effective_trials(),
        })
    }

    /// Independent trials that would say as much of the share as these; `None` where that cannot be told.
    pub(super) fn effective_trials(&self) -> Option<f64> {
        let known = self.largest == 1 || self.clusters >= FEWEST_CLUSTERS;
        (known && self.trials > 0)
            .then(|| self.trials as f64 * self.few_clusters_factor() / design_effect([self]))
    }

    /// Fewer clusters tell less of their variance: the square of Student's quantile for the trials over that for the
    /// clusters (Korn & Graubard 1998).
    pub(super) fn few_clusters_factor(&self) -> f64 {
        (student(self.trials) / student(self.clusters)).powi(2)
    }

    /// Sum over clusters of (successes - share * trials)².
    pub(super) fn residuals_squared(&self) -> f64 {
        self.residual_products(self, self.successes_squared)
    }

    /// Sum over clusters of the residuals of both sides, which have the same trials; `products` is the sum of the
    /// products of their successes. Exact up to the last division, so that it is 0 where it should be.
    pub(super) fn residual_products(&self, other: &Self, products: u64) -> f64 {
        let [trials, ours, theirs, products] =
            [self.trials, self.successes, other.successes, products].map(i128::from);
        let sum = trials * trials * products
            - trials * theirs * i128::from(self.products)
            - trials * ours * i128::from(other.products)
            + ours * theirs * i128::from(self.trials_squared);
        if trials == 0 {
            0.0
        } else {
            sum as f64 / (trials * trials) as f64
        }
    }

    /// What [`Self::residuals_squared`] is on average where trials are independent.
    fn binomial_variance(&self) -> f64 {
        let share = self.estimate().unwrap_or_default();
        self.trials as f64 * share * (1.0 - share)
    }
}

/// By what factor clusters make the variance larger (Kish 1965), pooled over strata that each have a share of their own.
/// At least 1, and at most what it is where all trials of a cluster are alike.
pub(super) fn design_effect<'a>(strata: impl IntoIterator<Item = &'a Share>) -> f64 {
    let (mut squares, mut binomial, mut trials, mut trials_squared) = (0.0, 0.0, 0.0, 0.0);
    for stratum in strata {
        squares += stratum.residuals_squared();
        binomial += stratum.binomial_variance();
        trials += stratum.trials as f64;
        trials_squared += stratum.trials_squared as f64;
    }
    if trials_squared <= trials {
        return 1.0;
    }
    let alike = trials_squared / trials;
    ((squares + PRIOR_TRIALS * alike) / (binomial + PRIOR_TRIALS)).clamp(1.0, alike)
}

/// The 97.5 % quantile of Student's t for a variance from `units` units: the expansion of Cornish & Fisher (Abramowitz &
/// Stegun 1964, 26.7.5), within 0.2 % from five units on.
fn student(units: u64) -> f64 {
    let df = units.saturating_sub(1).max(1) as f64;
    let z = Z95;
    let polynomials = [
        (z.powi(3) + z) / 4.0,
        (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0,
        (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0,
        (79.0 * z.powi(9) + 776.0 * z.powi(7) + 1482.0 * z.powi(5) - 1920.0 * z.powi(3) - 945.0 * z)
            / 92160.0,
    ];
    let terms = polynomials
        .iter()
        .zip(1..)
        .map(|(term, power)| term / df.powi(power));
    z + terms.sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clustered(clusters: &[(u64, u64)]) -> Share {
        let mut share = Share::default();
        clusters
            .iter()
            .for_each(|&(successes, trials)| share.add(successes, trials));
        share
    }

    #[test]
    fn single_trials_have_wilsons_interval() {
        let share = clustered(&[(1, 1), (0, 1), (1, 1), (1, 1), (0, 0)]);
        assert_eq!(share, Share::of_single(3, 4));
        assert_eq!(share.interval(), wilson(3, 4));
        assert_eq!(Share::default().interval(), None);
    }

    #[test]
    fn trials_that_are_alike_count_as_one() {
        let mut alike = vec![(8, 8); 60];
        alike.extend(vec![(0, 8); 40]);
        let found = clustered(&alike).interval().expect("many clusters");
        let (one, width) = (wilson(60, 100).expect("trials"), |i: Interval| i.high - i.low);
        assert!(
            (width(found) / width(one) - 1.0).abs() < 0.02,
            "{found:?} {one:?}"
        );
        // As many in each cluster: no more alike than by chance.
        let mixed: Vec<(u64, u64)> = (0..100).map(|place| (4 + place % 2, 8)).collect();
        let found = clustered(&mixed).interval().expect("many clusters");
        let all = wilson(450, 800).expect("trials");
        assert!(
            (width(found) / width(all) - 1.0).abs() < 0.02,
            "{found:?} {all:?}"
        );
    }

    #[test]
    fn a_few_clusters_of_several_trials_have_no_interval() {
        let four = [(2, 5), (5, 5), (0, 5), (4, 5)];
        assert_eq!(clustered(&four).interval(), None);
        let mut five = four.to_vec();
        five.push((3, 5));
        let share = clustered(&five);
        let interval = share.interval().expect("five clusters");
        assert!(interval.holds(share.estimate().expect("trials")));
        assert!(interval.high - interval.low > 0.4, "{interval:?}");
    }

    #[test]
    fn rare_failures_do_not_pass_for_independent_ones() {
        let mut rare = vec![(5, 5); 1000];
        rare.push((4, 5));
        let share = clustered(&rare);
        let alone = wilson(share.successes, share.trials).expect("trials");
        assert!(share.interval().expect("clusters").low < alone.low);
        let none = clustered(&[(5, 5); 1000]);
        let prompts = wilson(1000, 1000).expect("trials");
        let low = none.interval().expect("clusters").low;
        assert!((low - prompts.low).abs() < 2e-5, "{low} {prompts:?}");
    }

    /// `scipy.stats.t.ppf(0.975, df)`.
    #[test]
    fn students_quantile_is_scipys() {
        for (units, quantile) in [(5, 2.776_445), (8, 2.364_624), (31, 2.042_272), (1001, 1.962_339)] {
            assert!(
                (student(units) / quantile - 1.0).abs() < 2e-3,
                "{units}: {}",
                student(units)
            );
        }
    }
}
