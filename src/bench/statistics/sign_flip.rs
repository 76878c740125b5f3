//! Sign-flip permutation tests: were the two sides of each cluster exchanged by chance, how often would they differ as
//! much as they do? (Fisher 1935, The Design of Experiments; Winkler et al. 2015, NeuroImage 123:253, for clusters.)
//! With one trial in every cluster it is McNemar's test.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::bootstrap::{Bootstrap, replicates};
use crate::random::Random;

/// Random signs that [`sampled`] draws.
const DRAWS: usize = 9_999;
/// Probabilities of sums below this are nothing beside rounding.
const NEGLIGIBLE: f64 = 1e-22;

/// Two sides of the same clusters: do they lean to different sides?
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SignTest {
    /// Clusters with more successes on the first side.
    pub first_more: u64,
    /// Clusters with more successes on the second side.
    pub second_more: u64,
    /// Two-sided exact p-value: never too small, often too large.
    pub exact_p: f64,
    /// Two-sided mid-p value: close to its level.
    pub mid_p: f64,
}

/// So many clusters whose sides differ by the same, whichever is larger.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Flips {
    by: f64,
    count: u64,
}

impl Flips {
    pub(super) fn times(self, weight: f64) -> Self {
        Self {
            by: self.by * weight,
            ..self
        }
    }
}

/// Clusters by the size of their difference.
pub(super) fn classes(net: &BTreeMap<i64, u64>) -> Vec<Flips> {
    sizes(net)
        .into_iter()
        .map(|(by, count)| Flips { by: by as f64, count })
        .collect()
}

fn sizes(net: &BTreeMap<i64, u64>) -> BTreeMap<u64, u64> {
    let mut sizes = BTreeMap::new();
    for (by, count) in net {
        *sizes.entry(by.unsigned_abs()).or_default() += count;
    }
    sizes
}

/// From clusters by how many more successes the first side has. Without any difference both p-values are 1.
pub fn exact(net: &BTreeMap<i64, u64>) -> SignTest {
    let more = |positive: bool| {
        net.iter()
            .filter(|(by, _)| (**by > 0) == positive)
            .map(|(_, count)| count)
            .sum()
    };
    let sum: i64 = net.iter().map(|(by, count)| by * *count as i64).sum();
    let sizes = sizes(net);
    let total: u64 = sizes.iter().map(|(by, count)| by * count).sum();
    // With random signs the sum is 2 * (sum of what is positive) - total.
    let positive = positive_sums(&sizes);
    // By symmetry, of the lower half.
    let at = (total - sum.unsigned_abs()) / 2;
    let below: f64 = positive.iter().take(at as usize).sum();
    let there = positive.get(at as usize).copied().unwrap_or_default();
    let both = |p: f64| if sum == 0 { 1.0 } else { (2.0 * p).min(1.0) };
    SignTest {
        first_more: more(true),
        second_more: more(false),
        exact_p: both(below + there),
        mid_p: both(below + there / 2.0),
    }
}

/// Probability of each sum of the differences that get a positive sign.
fn positive_sums(sizes: &BTreeMap<u64, u64>) -> Vec<f64> {
    let mut sums = vec![1.0];
    for (&by, &count) in sizes {
        let mut next = vec![0.0; sums.len() + (by * count) as usize];
        for (heads, probability) in fair_tosses(count) {
            let from = (by * heads) as usize;
            for (sum, old) in next[from..].iter_mut().zip(&sums) {
                *sum += probability * old;
            }
        }
        sums = next;
    }
    sums
}

/// How likely each number of heads is, but for those that are next to impossible.
fn fair_tosses(count: u64) -> Vec<(u64, f64)> {
    let middle = count / 2;
    let n = count as f64;
    // By logarithms: the factors alone would overflow.
    let ways: f64 = (1..=middle)
        .map(|k| ((n - middle as f64 + k as f64) / k as f64).ln())
        .sum();
    let most = n.mul_add(-std::f64::consts::LN_2, ways).exp();
    let mut list = vec![(middle, most)];
    let mut probability = most;
    for heads in middle + 1..=count {
        probability *= (count - heads + 1) as f64 / heads as f64;
        if probability < NEGLIGIBLE {
            break;
        }
        list.push((heads, probability));
        // As many tails.
        if count - heads != middle {
            list.push((count - heads, probability));
        }
    }
    list
}

/// Two-sided p-value of a weighted sum of differences, from random sign flips. The observed signs count as one of the draws
/// (Phipson & Smyth 2010), so that it is never 0.
pub(super) fn sampled(flips: &[Flips], observed: f64, bootstrap: Bootstrap) -> f64 {
    let limit = observed.abs() - 1e-12;
    let draws = Bootstrap {
        resamples: DRAWS,
        ..bootstrap
    };
    let as_far = replicates(draws, |random, _| {
        let sum: f64 = flips
            .iter()
            .map(|flips| flips.by * (2.0 * heads(random, flips.count) as f64 - flips.count as f64))
            .sum();
        sum.abs() >= limit
    });
    let count = as_far.into_iter().filter(|as_far| *as_far).count();
    (1 + count) as f64 / (1 + DRAWS) as f64
}

fn heads(random: &mut Random, tosses: u64) -> u64 {
    let words: u64 = (0..tosses / 64)
        .map(|_| u64::from(random.bits().count_ones()))
        .sum();
    match tosses % 64 {
        0 => words,
        rest => words + u64::from((random.bits() >> (64 - rest)).count_ones()),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::mcnemar, *};

    fn net(pairs: &[(i64, u64)]) -> BTreeMap<i64, u64> {
        pairs.iter().copied().collect()
    }

    #[test]
    fn single_trials_are_mcnemars_test() {
        for (first, second) in [(0, 1), (3, 3), (1, 9), (40, 12), (300, 260), (4000, 3800)] {
            let (ours, theirs) = (exact(&net(&[(1, first), (-1, second)])), mcnemar(first, second));
            let close = |a: f64, b: f64| (a - b).abs() < 1e-9 * b.max(1e-3);
            assert!(close(ours.exact_p, theirs.exact_p), "{ours:?} {theirs:?}");
            assert!(close(ours.mid_p, theirs.mid_p.min(1.0)), "{ours:?} {theirs:?}");
            assert_eq!((ours.first_more, ours.second_more), (first, second));
        }
    }

    /// All signs of five differences, one by one.
    #[test]
    fn every_arrangement_is_counted() {
        let differences = [5i64, -1, 2, 2, 3];
        let observed: i64 = differences.iter().sum();
        let sums: Vec<i64> = (0..32u32)
            .map(|signs| {
                let signed = differences.iter().enumerate();
                signed
                    .map(|(place, d)| if signs >> place & 1 == 1 { -d } else { *d })
                    .sum()
            })
            .collect();
        let count = |keep: &dyn Fn(i64) -> bool| sums.iter().filter(|sum| keep(**sum)).count() as f64 / 32.0;
        let test = exact(&net(&[(5, 1), (-1, 1), (2, 2), (3, 1)]));
        let (further, at) = (
            count(&|s| s.abs() > observed.abs()),
            count(&|s| s.abs() == observed.abs()),
        );
        assert!((test.exact_p - further - at).abs() < 1e-12, "{test:?}");
        assert!((test.mid_p - further - at / 2.0).abs() < 1e-12, "{test:?}");
        let sampled = sampled(
            &classes(&net(&[(5, 1), (-1, 1), (2, 2), (3, 1)])),
            observed as f64,
            Bootstrap::default(),
        );
        assert!((sampled - test.exact_p).abs() < 0.02, "{sampled} {test:?}");
    }

    #[test]
    fn tosses_add_up_to_one() {
        for count in [0, 1, 2, 63, 64, 65, 1000, 20_001] {
            let sum: f64 = fair_tosses(count)
                .iter()
                .map(|(_, probability)| probability)
                .sum();
            assert!((sum - 1.0).abs() < 1e-9, "{count}: {sum}");
        }
    }

    #[test]
    fn no_difference_is_no_evidence() {
        for clusters in [net(&[]), net(&[(3, 2), (-3, 2)])] {
            let test = exact(&clusters);
            assert_eq!((test.exact_p, test.mid_p), (1.0, 1.0));
        }
    }
}
