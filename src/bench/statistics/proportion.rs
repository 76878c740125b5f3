//! Proportions of trials that come in clusters. All answers to one prompt, in every language and for every seed, are one
//! cluster: together they carry less information than as many answers to different prompts.

use super::{
    interval::{Interval, Z95},
    wilson::{wilson, wilson_at},
};

/// With fewer clusters of more than one trial each, there is too little data to estimate how much the trials of a cluster
/// have in common.
pub(crate) const MIN_CLUSTERS: u64 = 5;
/// The weight, in trials, of a prior on the design effect: before any cluster is seen, the trials of a cluster are taken
/// to be all alike. This keeps a handful of rare failures, each of which is in a cluster of its own by chance, from
/// passing for evidence of independence.
const PRIOR_TRIALS: f64 = 0.5;

/// Counts of successes and trials in clusters, and the sums over clusters from which the variance follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Proportion {
    /// Number of clusters that have a trial.
    pub clusters: u64,
    /// Number of trials in all clusters.
    pub trials: u64,
    /// Number of successes among the trials.
    pub successes: u64,
    /// Number of trials in the largest cluster.
    largest: u64,
    /// Sum over clusters of (successes)².
    successes_squared: u64,
    /// Sum over clusters of successes * trials.
    products: u64,
    /// Sum over clusters of (trials)².
    trials_squared: u64,
}

impl Proportion {
    /// Makes the counts from trials that are each a cluster of its own. `successes` must not exceed `trials`.
    pub fn from_independent(successes: u64, trials: u64) -> Self {
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

    /// Adds a cluster. A cluster without trials does not count.
    pub fn add_cluster(&mut self, successes: u64, trials: u64) {
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

    /// The sum of both, which must have no cluster in common.
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

    /// The estimated proportion: successes divided by trials, in [0, 1]. `None` without trials.
    pub fn estimate(&self) -> Option<f64> {
        (self.trials > 0).then(|| self.successes as f64 / self.trials as f64)
    }

    /// The 95 % interval of the proportion: Wilson's (1927) for the number of independent trials that would carry as much
    /// information (Korn & Graubard 1998, Survey Methodology 24:193; Franco, Little, Louis & Slud 2019, Journal of Survey
    /// Statistics and Methodology 7:334). With one trial in every cluster it is Wilson's original interval. `None`
    /// without trials, and with fewer than [`MIN_CLUSTERS`] clusters of several trials.
    pub fn interval(&self) -> Option<Interval> {
        match self.largest {
            0 => None,
            1 => wilson(self.successes, self.trials),
            _ => Some(wilson_at(self.estimate()?, self.effective_trials()?)),
        }
    }

    /// The number of independent trials that would carry as much information about the proportion as these; `None` where
    /// there are too few clusters to estimate it.
    pub(super) fn effective_trials(&self) -> Option<f64> {
        let is_known = self.largest == 1 || self.clusters >= MIN_CLUSTERS;
        (is_known && self.trials > 0)
            .then(|| self.trials as f64 * self.degrees_of_freedom_factor() / design_effect([self]))
    }

    /// A correction for few clusters, from which the variance is estimated poorly: the square of Student's quantile for
    /// the trials over that for the clusters (Korn & Graubard 1998).
    pub(super) fn degrees_of_freedom_factor(&self) -> f64 {
        (student_quantile(self.trials) / student_quantile(self.clusters)).powi(2)
    }

    /// Sum over clusters of (successes - proportion * trials)².
    pub(super) fn residuals_squared(&self) -> f64 {
        self.residual_products(self, self.successes_squared)
    }

    /// Sum over clusters of the product of the two sides' residuals. Both sides must have the same trials, and `products`
    /// is the sum of the products of their successes. The sum is exact up to the last division, so that it is exactly 0
    /// where it should be.
    pub(super) fn residual_products(&self, other: &Self, products: u64) -> f64 {
        let [trials, own, others, products] =
            [self.trials, self.successes, other.successes, products].map(i128::from);
        let sum = trials * trials * products
            - trials * others * i128::from(self.products)
            - trials * own * i128::from(other.products)
            + own * others * i128::from(self.trials_squared);
        if trials == 0 {
            0.0
        } else {
            sum as f64 / (trials * trials) as f64
        }
    }

    /// The expected value of [`Self::residuals_squared`] if all trials were independent.
    fn binomial_variance(&self) -> f64 {
        let estimate = self.estimate().unwrap_or_default();
        self.trials as f64 * estimate * (1.0 - estimate)
    }
}

/// The design effect (Kish 1965): the factor by which clustering makes the variance larger, pooled over strata that each
/// have a proportion of their own. It is at least 1, and at most its value when all trials of a cluster are alike.
pub(super) fn design_effect<'a>(strata: impl IntoIterator<Item = &'a Proportion>) -> f64 {
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
    let all_alike = trials_squared / trials;
    ((squares + PRIOR_TRIALS * all_alike) / (binomial + PRIOR_TRIALS)).clamp(1.0, all_alike)
}

/// The 97.5 % quantile of Student's t for a variance estimated from `units` units, by the expansion of Cornish & Fisher
/// (Abramowitz & Stegun 1964, 26.7.5). From five units on its error is below 0.2 %.
pub(super) fn student_quantile(units: u64) -> f64 {
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

    fn clustered(clusters: &[(u64, u64)]) -> Proportion {
        let mut proportion = Proportion::default();
        clusters
            .iter()
            .for_each(|&(successes, trials)| proportion.add_cluster(successes, trials));
        proportion
    }

    #[test]
    fn single_trials_have_wilsons_interval() {
        let proportion = clustered(&[(1, 1), (0, 1), (1, 1), (1, 1), (0, 0)]);
        assert_eq!(proportion, Proportion::from_independent(3, 4));
        assert_eq!(proportion.interval(), wilson(3, 4));
        assert_eq!(Proportion::default().interval(), None);
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
        // Every cluster has about as many successes as the others: trials of a cluster are no more alike than by chance.
        let mixed: Vec<(u64, u64)> = (0..100).map(|cluster| (4 + cluster % 2, 8)).collect();
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
        let proportion = clustered(&five);
        let interval = proportion.interval().expect("five clusters");
        assert!(interval.contains(proportion.estimate().expect("trials")));
        assert!(interval.high - interval.low > 0.4, "{interval:?}");
    }

    #[test]
    fn rare_failures_do_not_pass_for_independent_ones() {
        let mut rare = vec![(5, 5); 1000];
        rare.push((4, 5));
        let proportion = clustered(&rare);
        let alone = wilson(proportion.successes, proportion.trials).expect("trials");
        assert!(proportion.interval().expect("clusters").low < alone.low);
        let none = clustered(&[(5, 5); 1000]);
        let prompts = wilson(1000, 1000).expect("trials");
        let low = none.interval().expect("clusters").low;
        assert!((low - prompts.low).abs() < 2e-5, "{low} {prompts:?}");
    }

    /// The expected values are those of `scipy.stats.t.ppf(0.975, df)`.
    #[test]
    fn students_quantile_is_scipys() {
        for (units, quantile) in [(5, 2.776_445), (8, 2.364_624), (31, 2.042_272), (1001, 1.962_339)] {
            assert!(
                (student_quantile(units) / quantile - 1.0).abs() < 2e-3,
                "{units}: {}",
                student_quantile(units)
            );
        }
    }
}
