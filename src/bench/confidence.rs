//! A confidence sequence for a share of a finite set: an interval that may be read after every draw, and that holds the true share
//! after all of the draws together with 95 % probability.
//!
//! The set has N items, of which an unknown number K has a property; items are drawn without replacement in
//! random order. With the uniform prior on K, the ratio of prior to posterior at the true K is a nonnegative
//! martingale that starts at 1, so by Ville's inequality it ever reaches 1/alpha with probability at most alpha:
//! the K where it is below 1/alpha are the confidence set (Waudby-Smith & Ramdas, "Confidence sequences for
//! sampling without replacement", NeurIPS 2020, arXiv 2006.04347, theorem 2.1). The posterior after s of t draws is
//! K - s ~ BetaBinomial(N - t, s + 1, t - s + 1).

use serde::{Deserialize, Serialize};

/// Probability that any interval of a sequence misses the true share.
const ALPHA: f64 = 0.05;

/// The sequence for one set. All intervals so far are intersected, which the guarantee allows.
#[derive(Debug, Clone)]
pub struct ConfidenceSequence {
    size: usize,
    drawn: usize,
    /// How many of the drawn items have the property.
    with_property: usize,
    low: usize,
    high: usize,
    /// ln(n!) for n up to size + 1.
    ln_factorials: Vec<f64>,
}

/// An interval for how many items of the set have the property; both ends are included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountInterval {
    /// The least number.
    pub low: usize,
    /// The largest number.
    pub high: usize,
    /// Size of the set.
    pub of: usize,
}

impl CountInterval {
    /// Half of the width of the interval, as a share of the set.
    pub fn half_width(&self) -> f64 {
        (self.high - self.low) as f64 / (2 * self.of.max(1)) as f64
    }
}

impl ConfidenceSequence {
    /// The sequence for a set of this size, before the first draw.
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

    /// Takes in one more draw; draws beyond the size of the set are ignored.
    pub fn draw(&mut self, has_property: bool) {
        if self.drawn == self.size {
            return;
        }
        self.drawn += 1;
        self.with_property += usize::from(has_property);
        let (s, f, n) = (self.with_property, self.drawn - self.with_property, self.size);
        // The posterior's mode; the posterior falls to both sides of it, since it is log-concave in K.
        let mode = if s * n < f {
            0
        } else {
            (s * n - f) / self.drawn + 1
        }
        .clamp(s, n - f);
        let low = first(s, mode, |k| self.holds(k));
        let high = n - first(n - (n - f), n - mode, |mirrored| self.holds(n - mirrored));
        self.low = self.low.max(low);
        self.high = self.high.min(high);
    }

    /// What is known now.
    pub fn interval(&self) -> CountInterval {
        CountInterval {
            low: self.low.min(self.high),
            high: self.high.max(self.low),
            of: self.size,
        }
    }

    /// Whether prior / posterior at K = k is below 1/alpha.
    fn holds(&self, k: usize) -> bool {
        let ln = |n: usize| self.ln_factorials[n];
        let (s, t, n) = (self.with_property, self.drawn, self.size);
        let (f, left) = (t - s, n - t);
        let choose = ln(left) - ln(k - s) - ln(left - (k - s));
        let ln_beta = |a: usize, b: usize| ln(a - 1) + ln(b - 1) - ln(a + b - 1);
        let posterior = choose + ln_beta(k + 1, n - k + 1) - ln_beta(s + 1, f + 1);
        posterior > ALPHA.ln() - ((n + 1) as f64).ln()
    }
}

/// The first in `from..=to` where `holds`, which holds from there to `to`.
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

    /// After every draw the truth must be inside, for the cell to count as covered: this is the peeking.
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

    /// The estimate that stopping gives is covered too, which a fixed-time interval does not promise.
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

    /// By the definition, all K at each look.
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
                // P(s of t | K) / sum over K', under the uniform prior.
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
