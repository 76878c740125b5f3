//! The cluster bootstrap. Clusters are resampled as a whole: all items of a prompt are drawn together.
//!
//! Each cluster is a vector of sums, such as (pairs with equal verdicts, pairs). Clusters with equal vectors are
//! interchangeable, so a resample only counts how often each distinct vector was drawn.

use std::{collections::HashMap, thread};

use super::interval::Interval;
use crate::random::Random;

/// The settings of a bootstrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bootstrap {
    /// Number of resamples.
    pub resamples: usize,
    /// Seed of the random numbers. The same seed gives the same result, whatever the number of threads.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self {
            resamples: 2_000,
            seed: 0,
        }
    }
}

/// A stratum with fewer clusters than this has no interval. Resamples of `n` clusters understate the variance by the
/// factor `(n - 1) / n`; with a single cluster there is no variation at all.
const MIN_CLUSTERS_PER_STRATUM: usize = 5;

/// The clusters that are drawn with replacement, stratum by stratum.
#[derive(Debug, Clone, Default)]
pub struct Clusters {
    width: usize,
    /// The distinct vectors, one after the other.
    vectors: Vec<f64>,
    by_bits: HashMap<Vec<u64>, u32>,
    /// For each stratum, the index of each cluster's vector.
    strata: Vec<Vec<u32>>,
}

impl Clusters {
    /// Makes an empty set for vectors of `width` sums.
    pub fn new(width: usize) -> Self {
        Self {
            width,
            ..Self::default()
        }
    }

    /// Adds a cluster to a stratum. `vector` must have the given width; a shorter one is filled up with zeros.
    pub fn push(&mut self, stratum: usize, vector: &[f64]) {
        let mut vector = vector.to_vec();
        vector.resize(self.width, 0.0);
        let bits = vector.iter().map(|value| value.to_bits()).collect();
        let next = self.by_bits.len() as u32;
        let class = *self.by_bits.entry(bits).or_insert(next);
        if class == next {
            self.vectors.extend(vector);
        }
        if self.strata.len() <= stratum {
            self.strata.resize(stratum + 1, Vec::new());
        }
        self.strata[stratum].push(class);
    }

    /// Number of clusters in all strata.
    pub fn count(&self) -> usize {
        self.strata.iter().map(Vec::len).sum()
    }

    /// The sums over all clusters, each counted once.
    pub fn sums(&self) -> Vec<f64> {
        let mut counts = vec![0u32; self.by_bits.len()];
        for &class in self.strata.iter().flatten() {
            counts[class as usize] += 1;
        }
        self.weigh(&counts)
    }

    fn weigh(&self, counts: &[u32]) -> Vec<f64> {
        let mut sums = vec![0.0; self.width];
        for (vector, &count) in self.vectors.chunks_exact(self.width.max(1)).zip(counts) {
            if count > 0 {
                for (sum, value) in sums.iter_mut().zip(vector) {
                    *sum += f64::from(count) * value;
                }
            }
        }
        sums
    }

    /// The 95 % percentile intervals (Efron 1979, with percentiles interpolated as numpy does) of the statistics that
    /// `statistics` computes from the resampled sums. A resample in which a statistic is NaN is left out for it, and a
    /// statistic that is NaN in every resample has no interval. There are no intervals at all when a stratum has fewer
    /// than five clusters but not none.
    pub fn intervals<const K: usize>(
        &self,
        bootstrap: Bootstrap,
        statistics: impl Fn(&[f64]) -> [f64; K] + Sync,
    ) -> [Option<Interval>; K] {
        let few = |stratum: &Vec<u32>| (1..MIN_CLUSTERS_PER_STRATUM).contains(&stratum.len());
        if self.strata.iter().any(few) {
            return [None; K];
        }
        let draws = replicates(bootstrap, |random, _| {
            let mut counts = vec![0u32; self.by_bits.len()];
            self.resample(random, &mut counts);
            statistics(&self.weigh(&counts))
        });
        percentiles(&draws)
    }

    fn resample(&self, random: &mut Random, counts: &mut [u32]) {
        counts.fill(0);
        for stratum in self.strata.iter().filter(|stratum| !stratum.is_empty()) {
            for _ in 0..stratum.len() {
                let class = stratum[random.below(stratum.len())];
                counts[class as usize] += 1;
            }
        }
    }
}

/// Runs `draw` once for each resample and collects the results, in no particular order. `draw` gets a random stream of
/// the resample's own, so that results do not depend on the number of threads, and the resample's number.
pub(super) fn replicates<T: Send>(
    bootstrap: Bootstrap,
    draw: impl Fn(&mut Random, usize) -> T + Sync,
) -> Vec<T> {
    let threads = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(bootstrap.resamples.max(1));
    let every_nth = |thread: usize| -> Vec<T> {
        (thread..bootstrap.resamples)
            .step_by(threads)
            .map(|resample| {
                let stream = bootstrap.seed ^ (resample as u64).wrapping_mul(0xd134_2543_de82_ef95);
                draw(&mut Random::new(stream), resample)
            })
            .collect()
    };
    thread::scope(|scope| {
        let every_nth = &every_nth;
        let others: Vec<_> = (1..threads).map(|t| scope.spawn(move || every_nth(t))).collect();
        let mut all = every_nth(0);
        for other in others {
            // Joining fails only for a thread that panicked, which `draw` must never do.
            all.extend(other.join().unwrap_or_default());
        }
        all
    })
}

/// The 95 % percentile interval of each statistic; `None` for one that is NaN in every resample.
pub(super) fn percentiles<const K: usize>(draws: &[[f64; K]]) -> [Option<Interval>; K] {
    std::array::from_fn(|k| {
        let mut values: Vec<f64> = draws.iter().map(|draw| draw[k]).filter(|v| !v.is_nan()).collect();
        values.sort_by(f64::total_cmp);
        Some(Interval {
            low: quantile(&values, 0.025)?,
            high: quantile(&values, 0.975)?,
        })
    })
}

/// The quantile at `probability`, linearly interpolated between the closest ranks; `None` for an empty slice.
fn quantile(sorted: &[f64], probability: f64) -> Option<f64> {
    let rank = probability * sorted.len().checked_sub(1)? as f64;
    let below = rank.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    Some((sorted[above] - sorted[below]).mul_add(rank - rank.floor(), sorted[below]))
}

#[cfg(test)]
mod tests {
    use super::{super::wilson::wilson, *};

    fn coin(successes: usize, trials: usize) -> Clusters {
        let mut clusters = Clusters::new(2);
        for unit in 0..trials {
            clusters.push(0, &[f64::from(u8::from(unit < successes)), 1.0]);
        }
        clusters
    }

    fn ratio(sums: &[f64]) -> [f64; 1] {
        [sums[0] / sums[1]]
    }

    #[test]
    fn a_plain_proportion_has_the_interval_that_theory_gives() {
        let clusters = coin(700, 1000);
        assert_eq!(clusters.sums(), [700.0, 1000.0]);
        let [found] = clusters.intervals(Bootstrap::default(), ratio);
        let (found, expected) = (found.expect("numbers"), wilson(700, 1000).expect("trials"));
        assert!((found.low - expected.low).abs() < 0.004, "{found:?} {expected:?}");
        assert!(
            (found.high - expected.high).abs() < 0.004,
            "{found:?} {expected:?}"
        );
    }

    #[test]
    fn items_of_a_cluster_are_drawn_together() {
        // 200 clusters of 10 equal items each are as uncertain as 200 items, not as 2,000.
        let mut clusters = Clusters::new(2);
        for unit in 0..200 {
            clusters.push(0, &[if unit < 100 { 10.0 } else { 0.0 }, 10.0]);
        }
        let [found] = clusters.intervals(Bootstrap::default(), ratio);
        let (found, alone) = (found.expect("numbers"), wilson(100, 200).expect("trials"));
        let width = |i: Interval| i.high - i.low;
        assert!(
            (width(found) / width(alone) - 1.0).abs() < 0.1,
            "{found:?} {alone:?}"
        );
    }

    #[test]
    fn strata_keep_their_size() {
        // All the variance is between the strata, and none within them.
        let mut clusters = Clusters::new(2);
        for unit in 0..50 {
            clusters.push(usize::from(unit < 25), &[f64::from(u8::from(unit < 25)), 1.0]);
        }
        let [found] = clusters.intervals(Bootstrap::default(), ratio);
        assert_eq!(found, Some(Interval { low: 0.5, high: 0.5 }));
    }

    #[test]
    fn a_stratum_of_few_clusters_has_no_interval() {
        let mut clusters = coin(30, 100);
        for _ in 0..MIN_CLUSTERS_PER_STRATUM - 1 {
            clusters.push(7, &[1.0, 1.0]);
            assert_eq!(clusters.intervals(Bootstrap::default(), ratio), [None]);
        }
        clusters.push(7, &[1.0, 1.0]);
        assert!(clusters.intervals(Bootstrap::default(), ratio)[0].is_some());
    }

    #[test]
    fn the_seed_alone_decides() {
        let clusters = coin(30, 100);
        let with = |seed| {
            let bootstrap = Bootstrap { resamples: 501, seed };
            clusters.intervals(bootstrap, ratio)[0]
        };
        assert_eq!(with(1), with(1));
        assert_ne!(with(1), with(2));
        let [nothing] = clusters.intervals(Bootstrap::default(), |_| [f64::NAN]);
        assert_eq!(nothing, None);
        assert_eq!(Clusters::new(2).intervals(Bootstrap::default(), ratio), [None]);
    }

    #[test]
    fn percentiles_are_numpys() {
        let values = [1.0, 2.0, 4.0, 8.0, 16.0];
        // The expected values are those of numpy.percentile(values, [0, 2.5, 50, 97.5, 100]).
        let expected = [1.0, 1.1, 4.0, 15.2, 16.0];
        for (probability, expected) in [0.0, 0.025, 0.5, 0.975, 1.0].into_iter().zip(expected) {
            let found = quantile(&values, probability).expect("values");
            assert!((found - expected).abs() < 1e-12, "{probability}: {found}");
        }
    }
}
