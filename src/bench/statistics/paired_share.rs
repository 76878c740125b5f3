//! Differences of two shares over the same trials, which come in clusters: two runs, or two languages, on the same
//! prompts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Bootstrap, Interval, MeanShare, Pairs, mean_of_shares,
    share::Share,
    sign_flip::{self, Flips, SignTest},
};

/// A difference of shares, `first - second`, with its 95 % interval where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// In [-1, 1], or in points.
    pub estimate: f64,
    /// 95 %; absent with too few clusters to say.
    pub interval: Option<Interval>,
}

impl Change {
    /// The second side less the first.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            estimate: -self.estimate,
            interval: self.interval.map(|interval| Interval {
                low: -interval.high,
                high: -interval.low,
            }),
        }
    }

    /// From shares to points.
    #[must_use]
    pub fn in_points(self) -> Self {
        Self {
            estimate: 100.0 * self.estimate,
            interval: self.interval.map(|interval| interval.scaled(100.0)),
        }
    }
}

/// Successes on both sides, of the same trials in clusters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PairedShare {
    /// The first side.
    pub first: Share,
    /// The second side.
    pub second: Share,
    /// Sum over clusters of the product of the sides' successes.
    products: u64,
    /// Clusters by how many more successes the first side has; none with as many.
    pub(super) net: BTreeMap<i64, u64>,
}

impl PairedShare {
    /// Of pairs that are each a cluster of its own.
    pub fn of_pairs(pairs: Pairs) -> Self {
        let n = pairs.total();
        let net = [(1, pairs.first_only), (-1, pairs.second_only)];
        Self {
            first: Share::of_single(pairs.both + pairs.first_only, n),
            second: Share::of_single(pairs.both + pairs.second_only, n),
            products: pairs.both,
            net: net.into_iter().filter(|(_, count)| *count > 0).collect(),
        }
    }

    /// Counts a cluster; one without trials is none.
    pub fn add(&mut self, first: u64, second: u64, trials: u64) {
        self.first.add(first, trials);
        self.second.add(second, trials);
        if trials > 0 {
            self.products += first * second;
            if first != second {
                *self.net.entry(first as i64 - second as i64).or_default() += 1;
            }
        }
    }

    /// The share of the first side less that of the second. The interval is that for paired data of Newcombe (1998,
    /// Statistics in Medicine 17:2635, method 10), with the sides' intervals and their correlation taken over clusters;
    /// with one trial in every cluster it is Newcombe's own. `None` without trials.
    pub fn difference(&self) -> Option<Change> {
        Some(newcombe(
            self.first.mean()?,
            self.second.mean()?,
            self.covariance(),
        ))
    }

    /// Whether the sides differ by more than chance: a sign-flip permutation test over clusters.
    pub fn sign_test(&self) -> SignTest {
        sign_flip::exact(&self.net)
    }

    fn covariance(&self) -> Covariance {
        Covariance {
            first: self.first.residuals_squared(),
            second: self.second.residuals_squared(),
            both: self.first.residual_products(&self.second, self.products),
        }
    }
}

/// Variances of two sides and their covariance, up to a common factor.
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

/// Newcombe's method 10 from the sides' intervals and their correlation, which is corrected for continuity by what half
/// a pair less in common would change.
fn newcombe(first: MeanShare, second: MeanShare, covariance: Covariance) -> Change {
    let (p, q) = (first.estimate, second.estimate);
    let estimate = p - q;
    let known = first.interval.zip(second.interval);
    let interval = known.map(|(a, b)| {
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

/// The difference of two shares, or means of shares, that have no cluster in common: the hybrid score interval for
/// independent ones (Newcombe 1998, Statistics in Medicine 17:873, method 10).
pub fn disjoint_difference(first: MeanShare, second: MeanShare) -> Change {
    newcombe(first, second, Covariance::default())
}

/// The difference of the means over strata, each stratum weighing the same, with the p-value of the test under random
/// signs; `None` without trials. Strata without trials are left out.
///
/// The interval is made of the means' own as [`PairedShare::difference`] makes it of shares.
pub fn mean_difference(strata: &[PairedShare], bootstrap: Bootstrap) -> Option<(Change, f64)> {
    let strata: Vec<&PairedShare> = strata.iter().filter(|stratum| stratum.first.trials > 0).collect();
    let mean = |of: fn(&PairedShare) -> Share| {
        let shares: Vec<Share> = strata.iter().map(|stratum| of(stratum)).collect();
        mean_of_shares(&shares)
    };
    let (first, second) = (mean(|stratum| stratum.first)?, mean(|stratum| stratum.second)?);
    let weight = |stratum: &PairedShare| 1.0 / (strata.len() as f64 * stratum.first.trials as f64);
    let covariance = strata.iter().fold(Covariance::default(), |sum, stratum| {
        sum.plus(stratum.covariance(), weight(stratum).powi(2))
    });
    let flips: Vec<Flips> = strata
        .iter()
        .flat_map(|stratum| {
            sign_flip::classes(&stratum.net)
                .into_iter()
                .map(|flips| flips.times(weight(stratum)))
        })
        .collect();
    let change = newcombe(first, second, covariance);
    Some((change, sign_flip::sampled(&flips, change.estimate, bootstrap)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn paired(clusters: &[(u64, u64, u64)]) -> PairedShare {
        let mut share = PairedShare::default();
        clusters
            .iter()
            .for_each(|&(first, second, trials)| share.add(first, second, trials));
        share
    }

    #[test]
    fn single_trials_are_pairs() {
        let clusters: Vec<_> = [(1, 1), (1, 0), (0, 0), (0, 1), (1, 0)]
            .map(|(a, b)| (a, b, 1))
            .into();
        let pairs = Pairs {
            both: 1,
            first_only: 2,
            second_only: 1,
            neither: 1,
        };
        assert_eq!(paired(&clusters), PairedShare::of_pairs(pairs));
        assert_eq!(PairedShare::default().difference(), None);
    }

    #[test]
    fn a_cluster_that_changes_as_a_whole_counts_once() {
        let alike: Vec<_> = (0..40)
            .map(|place| if place < 25 { (5, 0, 5) } else { (0, 5, 5) })
            .collect();
        let single: Vec<_> = alike.iter().map(|&(a, b, _)| (a / 5, b / 5, 1)).collect();
        let (alike, single) = (paired(&alike), paired(&single));
        assert_eq!(alike.sign_test().mid_p, single.sign_test().mid_p);
        let width = |share: &PairedShare| {
            let interval = share
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
        assert!(two.sign_test().mid_p > 0.2);
    }

    #[test]
    fn the_mean_over_one_stratum_is_the_stratum() {
        let one = paired(
            &(0..50)
                .map(|place| (place % 3, place % 4 % 3, 3))
                .collect::<Vec<_>>(),
        );
        let alone = one.difference().expect("trials");
        let (mean, p) =
            mean_difference(&[one.clone(), PairedShare::default()], Bootstrap::default()).expect("trials");
        let ends = |change: Change| change.interval.map(|i| [i.low, i.high]).expect("clusters");
        assert!(
            ends(alone)
                .iter()
                .zip(ends(mean))
                .all(|(a, b)| (a - b).abs() < 1e-12)
        );
        // Sampled signs, of which those as far from 0 as the difference count whole.
        let exact = one.sign_test().exact_p;
        assert!((p - exact).abs() < 0.02, "{p} {exact}");
    }

    /// Two runs whose verdicts lean to a side of each prompt of its own, the same in all five languages.
    #[test]
    fn effects_of_a_prompt_on_a_run_do_not_pass_for_a_difference_of_runs() {
        let mut random = Random::new(8);
        let mut share = || (random.bits() >> 11) as f64 / (1u64 << 53) as f64;
        let (runs, mut found, mut covered) = (600, 0, 0);
        for _ in 0..runs {
            let mut both = PairedShare::default();
            for _ in 0..60 {
                // Safe shares of a prompt are nearly all 0 or 1.
                let mut side = || {
                    let lean = if share() < 0.7 { 0.95 } else { 0.05 };
                    (0..5).filter(|_| share() < lean).count() as u64
                };
                let (first, second) = (side(), side());
                both.add(first, second, 5);
            }
            found += u32::from(both.sign_test().mid_p < 0.05);
            let interval = both
                .difference()
                .and_then(|change| change.interval)
                .expect("clusters");
            covered += u32::from(interval.holds(0.0));
        }
        // Pooled as if independent, about a quarter would be found.
        assert!((12..48).contains(&found), "{found} of {runs}");
        assert!(covered > 555, "{covered} of {runs}");
    }
}
