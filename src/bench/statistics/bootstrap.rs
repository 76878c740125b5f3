//! The cluster bootstrap: what belongs together (all items of a prompt) is drawn together.
//!
//! A unit is a vector of sums, such as (pairs with equal verdicts, pairs). Units with equal vectors are
//! interchangeable, so that a resample only counts how often each distinct vector was drawn.

use std::{collections::HashMap, thread};

use super::Interval;
use crate::random::Random;

/// How to resample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bootstrap {
    /// How many resamples.
    pub resamples: usize,
    /// The same seed gives the same result, whatever the number of threads.
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

/// Fewer units in a stratum have no interval. Resamples of `n` units vary by the factor `(n - 1) / n` too little: of one
/// unit, not at all.
const FEWEST_UNITS: usize = 5;

/// The units that are drawn with replacement, stratum by stratum.
#[derive(Debug, Clone, Default)]
pub struct Clusters {
    width: usize,
    /// Distinct vectors, one after the other.
    vectors: Vec<f64>,
    by_bits: HashMap<Vec<u64>, u32>,
    /// The vector of each unit.
    strata: Vec<Vec<u32>>,
}

impl Clusters {
    /// For vectors of `width` sums.
    pub fn new(width: usize) -> Self {
        Self {
            width,
            ..Self::default()
        }
    }

    /// Adds a unit to a stratum. `vector` must have the width given; a shorter one is filled with zeros.
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

    /// Units in all strata.
    pub fn units(&self) -> usize {
        self.strata.iter().map(Vec::len).sum()
    }

    /// Sums over all units, each once.
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

    /// 95 % percentile intervals (Efron 1979; percentiles as numpy interpolates them) of the statistics that
    /// `of` makes from the resampled sums. A statistic that is NaN in a resample is left out there, and is
    /// `None` when it is never a number. All are `None` when a stratum has units, but fewer than five.
    pub fn intervals<const K: usize>(
        &self,
        bootstrap: Bootstrap,
        of: impl Fn(&[f64]) -> [f64; K] + Sync,
    ) -> [Option<Interval>; K] {
        let few = |stratum: &Vec<u32>| (1..FEWEST_UNITS).contains(&stratum.len());
        if self.strata.iter().any(few) {
            return [None; K];
        }
        let draws = replicates(bootstrap, |random, _| {
            let mut counts = vec![0u32; self.by_bits.len()];
            self.resample(random, &mut counts);
            of(&self.weigh(&counts))
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

/// What `draw` makes of each resample, from a random stream of the resample's own and its number. The order is not
/// that of the numbers.
pub(super) fn replicates<T: Send>(
    bootstrap: Bootstrap,
    draw: impl Fn(&mut Random, usize) -> T + Sync,
) -> Vec<T> {
    let threads = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(bootstrap.resamples.max(1));
    let share = |thread: usize| -> Vec<T> {
        (thread..bootstrap.resamples)
            .step_by(threads)
            .map(|resample| {
                let stream = bootstrap.seed ^ (resample as u64).wrapping_mul(0xd134_2543_de82_ef95);
                draw(&mut Random::new(stream), resample)
            })
            .collect()
    };
    thread::scope(|scope| {
        let share = &share;
        let others: Vec<_> = (1..threads).map(|t| scope.spawn(move || share(t))).collect();
        let mut all = share(0);
        for other in others {
            // A thread that cannot be joined has panicked, which `draw` must not.
            all.extend(other.join().unwrap_or_default());
        }
        all
    })
}

/// 95 % percentile intervals of each statistic; `None` of one that is never a number.
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

/// Linear interpolation between the closest ranks; `None` of nothing.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * sorted.len().checked_sub(1)? as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    Some((sorted[above] - sorted[below]).mul_add(place - place.floor(), sorted[below]))
}

#[cfg(test)]
mod tests {
    use super::{super::wilson, *};

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
        // 200 clusters of 10 equal items: as uncertain as 200 items, not as 2,000.
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
        // Between strata there is all the variance, within none.
        let mut clusters = Clusters::new(2);
        for unit in 0..50 {
            clusters.push(usize::from(unit < 25), &[f64::from(u8::from(unit < 25)), 1.0]);
        }
        let [found] = clusters.intervals(Bootstrap::default(), ratio);
        assert_eq!(found, Some(Interval { low: 0.5, high: 0.5 }));
    }

    #[test]
    fn a_stratum_of_few_units_has_no_interval() {
        let mut clusters = coin(30, 100);
        for _ in 0..FEWEST_UNITS - 1 {
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
        // numpy.percentile(values, [0, 2.5, 50, 97.5, 100])
        let expected = [1.0, 1.1, 4.0, 15.2, 16.0];
        for (share, expected) in [0.0, 0.025, 0.5, 0.975, 1.0].into_iter().zip(expected) {
            let found = quantile(&values, share).expect("values");
            assert!((found - expected).abs() < 1e-12, "{share}: {found}");
        }
    }
}
