//! A confidence sequence for a proportion of a finite set: an interval that may be looked at after every draw. With 95 %
//! probability it contains the truth at all looks together.
//!
//! The set has N items, of which an unknown number K has some property. The items are drawn without replacement in random
//! order. With a uniform prior on K, the ratio of prior to posterior at the true K is a nonnegative martingale that starts
//! at 1. By Ville's inequality, the probability that it ever reaches 1/alpha is at most alpha, so the values of K at which
//! it is below 1/alpha form the confidence set (Waudby-Smith & Ramdas, "Confidence sequences for sampling without
//! replacement", NeurIPS 2020, arXiv 2006.04347, theorem 2.1). After s of t draws had the property, the posterior is
//! K - s ~ BetaBinomial(N - t, s + 1, t - s + 1).

use serde::{Deserialize, Serialize};

/// The probability that some interval of a sequence misses the truth.
const ALPHA: f64 = 0.05;

/// The confidence sequence of one set. It returns the intersection of all intervals so far, which the guarantee allows.
#[derive(Debug, Clone)]
pub struct ConfidenceSequence {
    size: usize,
    drawn: usize,
    with_property: usize,
    low: usize,
    high: usize,
    /// ln(n!) for each n up to size + 1.
    ln_factorials: Vec<f64>,
}

/// Bounds on the number of items of a set that have the property; both ends are included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountInterval {
    /// The lower bound.
    pub low: usize,
    /// The upper bound.
    pub high: usize,
    /// Number of items in the set.
    pub of: usize,
}

impl CountInterval {
    /// Half the width of the interval of the proportion.
    pub fn half_width(&self) -> f64 {
        (self.high - self.low) as f64 / (2 * self.of.max(1)) as f64
    }
}

impl ConfidenceSequence {
    /// Starts the sequence for a set of this size, before anything is drawn.
    pub fn new(size: usize) -> Self {
        let mut ln_factorials = vec![0.0; size + 2];
        for n in 1..ln_factorials.len() {
            ln_factorials[n] = ln_factorials[n - 1] + (n as f64).ln();
        }
        Self {
            size,
            drawn: 0,
            with_property: 0,
            low: 0,
            high: size,
            ln_factorials,
        }
    }

    /// Takes in one more draw. Draws beyond the size of the set are ignored.
    pub fn draw(&mut self, has_property: bool) {
        if self.drawn == self.size {
            return;
        }
        self.drawn += 1;
        self.with_property += usize::from(has_property);
        let (s, f, n) = (self.with_property, self.drawn - self.with_property, self.size);
        // The posterior is log-concave in K, so it falls to both sides of its mode.
        let mode = if s * n < f {
            0
        } else {
            (s * n - f) / self.drawn + 1
        }
        .clamp(s, n - f);
        let low = first(s, mode, |k| self.contains(k));
        let high = n - first(n - (n - f), n - mode, |mirrored| self.contains(n - mirrored));
        self.low = self.low.max(low);
        self.high = self.high.min(high);
    }

    /// The interval after the draws so far.
    pub fn interval(&self) -> CountInterval {
        CountInterval {
            low: self.low.min(self.high),
            high: self.high.max(self.low),
            of: self.size,
        }
    }

    /// Whether the ratio of prior to posterior at K = k is below 1/alpha.
    fn contains(&self, k: usize) -> bool {
        let ln = |n: usize| self.ln_factorials[n];
        let (s, t, n) = (self.with_property, self.drawn, self.size);
        let (f, left) = (t - s, n - t);
        let choose = ln(left) - ln(k - s) - ln(left - (k - s));
        let ln_beta = |a: usize, b: usize| ln(a - 1) + ln(b - 1) - ln(a + b - 1);
        let posterior = choose + ln_beta(k + 1, n - k + 1) - ln_beta(s + 1, f + 1);
        posterior > ALPHA.ln() - ((n + 1) as f64).ln()
    }
}

/// The smallest value in `from..=to` for which `holds` is true; it must be true from there up to `to`.
fn first(from: usize, to: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (from, to);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

    use super::*;

    /// A cell counts as covered only if the interval contains the truth after every draw.
    #[test]
    fn at_least_95_percent_of_simulated_cells_are_covered_at_every_look() {
        let mut random = StdRng::seed_from_u64(5);
        for (size, share) in [(20, 0.5), (60, 0.9), (150, 0.99), (150, 0.7), (300, 0.95)] {
            const CELLS: usize = 4000;
            let mut covered = 0;
            for _ in 0..CELLS {
                let with = (share * size as f64).round() as usize;
                let mut set: Vec<bool> = (0..size).map(|index| index < with).collect();
                set.shuffle(&mut random);
                let mut sequence = ConfidenceSequence::new(size);
                covered += usize::from(set.iter().all(|&has| {
                    sequence.draw(has);
                    let interval = sequence.interval();
                    (interval.low..=interval.high).contains(&with)
                }));
            }
            let coverage = covered as f64 / CELLS as f64;
            assert!(coverage >= 0.95, "{size} items, share {share}: {coverage}");
        }
    }

    /// The interval at which one stops is covered as well, which an interval for a fixed sample size does not promise.
    #[test]
    fn stopping_when_it_is_narrow_keeps_the_promise_and_saves_draws() {
        let mut random = StdRng::seed_from_u64(6);
        const CELLS: usize = 2000;
        let (mut covered, mut drawn) = (0, 0);
        for _ in 0..CELLS {
            let with = random.random_range(0..=400);
            let mut set: Vec<bool> = (0..400).map(|index| index < with).collect();
            set.shuffle(&mut random);
            let mut sequence = ConfidenceSequence::new(400);
            for has in set {
                sequence.draw(has);
                drawn += 1;
                if sequence.interval().half_width() <= 0.05 {
                    break;
                }
            }
            let interval = sequence.interval();
            covered += usize::from((interval.low..=interval.high).contains(&with));
        }
        assert!(covered as f64 / CELLS as f64 >= 0.95);
        assert!(drawn < CELLS * 400 * 9 / 10, "{drawn}");
    }

    /// Compares with the definition: all values of K at each look.
    #[test]
    fn the_interval_is_the_set_of_the_definition() {
        let mut random = StdRng::seed_from_u64(7);
        let choose = |n: f64, k: f64| {
            (1..=k as u64)
                .map(|i| (n - k + i as f64) / i as f64)
                .product::<f64>()
        };
        for size in 1..30 {
            let mut sequence = ConfidenceSequence::new(size);
            let (mut low, mut high) = (0, size);
            for t in 1..=size {
                sequence.draw(random.random_bool(0.6));
                let s = sequence.with_property;
                // Proportional to the likelihood P(s of t | K), and so to the posterior under the uniform prior.
                let likelihood = |k: usize| {
                    if k < s || size - k < t - s {
                        return 0.0;
                    }
                    choose(k as f64, s as f64) * choose((size - k) as f64, (t - s) as f64)
                };
                let total: f64 = (0..=size).map(likelihood).sum();
                let inside: Vec<_> = (0..=size)
                    .filter(|&k| likelihood(k) / total > ALPHA / (size + 1) as f64)
                    .collect();
                low = low.max(inside[0]);
                high = high.min(inside[inside.len() - 1]);
                let found = sequence.interval();
                assert_eq!((found.low, found.high), (low, high), "{s} of {t} of {size}");
            }
            assert_eq!(
                (low, high),
                (sequence.with_property, sequence.with_property),
                "all is known"
            );
        }
    }
}
