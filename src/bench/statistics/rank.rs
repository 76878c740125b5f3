//! Rank correlation, with a version that only compares within groups.

use serde::{Deserialize, Serialize};

use super::{Interval, Z95};
use crate::random::Random;

/// Orders that the permutation test tries.
const PERMUTATIONS: usize = 9_999;

/// A rank correlation of two quantities over units.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RankCorrelation {
    /// Units.
    pub n: usize,
    /// Spearman's rho, in [-1, 1].
    pub spearman: f64,
    /// 95 % of rho by Fisher's z with the variance of Bonett & Wright (2000); absent with fewer than 5 units.
    pub interval: Option<Interval>,
    /// Kendall's tau-b; absent for the version within groups.
    pub kendall: Option<f64>,
    /// Two-sided permutation p-value of rho (Phipson & Smyth 2010: never 0).
    pub p: f64,
}

/// Spearman's rho and Kendall's tau-b of pairs (x, y). `None` with fewer than three pairs, or when either side
/// is constant.
pub fn rank_correlation(pairs: &[(f64, f64)], seed: u64) -> Option<RankCorrelation> {
    let (x, y): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let groups = vec![0; pairs.len()];
    Some(RankCorrelation {
        kendall: Some(kendall(&x, &y)?),
        ..of_ranks(&ranks(&x), &ranks(&y), &groups, seed)?
    })
}

/// The same, controlled for a grouping: ranks are compared with the mean rank of their group (partial Spearman
/// correlation given the group), and the permutation test shuffles within groups. Groups of one say nothing and
/// are left out. `None` when what is left is fewer than three pairs, or constant within every group.
pub fn rank_correlation_within(pairs: &[(f64, f64, usize)], seed: u64) -> Option<RankCorrelation> {
    let size = |group: usize| pairs.iter().filter(|pair| pair.2 == group).count();
    let kept: Vec<_> = pairs.iter().filter(|pair| size(pair.2) > 1).collect();
    let x: Vec<f64> = kept.iter().map(|pair| pair.0).collect();
    let y: Vec<f64> = kept.iter().map(|pair| pair.1).collect();
    let groups: Vec<usize> = kept.iter().map(|pair| pair.2).collect();
    of_ranks(
        &centred(&ranks(&x), &groups),
        &centred(&ranks(&y), &groups),
        &groups,
        seed,
    )
}

fn of_ranks(x: &[f64], y: &[f64], groups: &[usize], seed: u64) -> Option<RankCorrelation> {
    let n = x.len();
    if n < 3 {
        return None;
    }
    let spearman = pearson(x, y)?;
    let distinct: std::collections::BTreeSet<_> = groups.iter().collect();
    // What the groups' means take from the degrees of freedom.
    let free = n as f64 - 3.0 - (distinct.len() as f64 - 1.0);
    let interval = (free >= 2.0 && spearman.abs() < 1.0).then(|| {
        let half = Z95 * ((1.0 + spearman * spearman / 2.0) / free).sqrt();
        Interval {
            low: (spearman.atanh() - half).tanh(),
            high: (spearman.atanh() + half).tanh(),
        }
    });
    Some(RankCorrelation {
        n,
        spearman,
        interval,
        kendall: None,
        p: permutation_p(x, y, groups, spearman, seed),
    })
}

fn permutation_p(x: &[f64], y: &[f64], groups: &[usize], observed: f64, seed: u64) -> f64 {
    let mut members: std::collections::BTreeMap<usize, Vec<usize>> = Default::default();
    for (index, &group) in groups.iter().enumerate() {
        members.entry(group).or_default().push(index);
    }
    let mut random = Random::new(seed);
    let mut shuffled = y.to_vec();
    let mut extreme = 1;
    for _ in 0..PERMUTATIONS {
        for indices in members.values() {
            let mut values: Vec<f64> = indices.iter().map(|&i| y[i]).collect();
            random.shuffle(&mut values);
            for (&index, value) in indices.iter().zip(values) {
                shuffled[index] = value;
            }
        }
        let rho = pearson(x, &shuffled).unwrap_or(0.0);
        extreme += usize::from(rho.abs() >= observed.abs() - 1e-12);
    }
    extreme as f64 / (PERMUTATIONS + 1) as f64
}

/// Ranks from 1; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for run in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let shared = start as f64 + (run.len() as f64 + 1.0) / 2.0;
        for &index in run {
            ranks[index] = shared;
        }
        start += run.len();
    }
    ranks
}

/// Less the mean of the group.
fn centred(values: &[f64], groups: &[usize]) -> Vec<f64> {
    let mean = |group: usize| {
        let own = values.iter().zip(groups).filter(|(_, g)| **g == group);
        let (sum, count) = own.fold((0.0, 0.0), |(sum, count), (value, _)| (sum + value, count + 1.0));
        sum / count
    };
    values
        .iter()
        .zip(groups)
        .map(|(value, &group)| value - mean(group))
        .collect()
}

fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    let n = x.len() as f64;
    let (mean_x, mean_y) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (a, b) in x.iter().zip(y) {
        let (a, b) = (a - mean_x, b - mean_y);
        xy += a * b;
        xx += a * a;
        yy += b * b;
    }
    (xx > 1e-12 && yy > 1e-12).then(|| (xy / (xx * yy).sqrt()).clamp(-1.0, 1.0))
}

/// Kendall's tau-b (Kendall 1945): pairs in the same order less pairs in the opposite one, corrected for ties.
fn kendall(x: &[f64], y: &[f64]) -> Option<f64> {
    let sign = |a: f64, b: f64| f64::from(i8::from(a > b) - i8::from(a < b));
    let (mut balance, mut untied_x, mut untied_y) = (0.0, 0.0f64, 0.0f64);
    for i in 0..x.len() {
        for j in 0..i {
            let (dx, dy) = (sign(x[i], x[j]), sign(y[i], y[j]));
            balance += dx * dy;
            untied_x += dx.abs();
            untied_y += dy.abs();
        }
    }
    (untied_x > 0.0 && untied_y > 0.0).then(|| balance / (untied_x * untied_y).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Golden {
        x: Vec<f64>,
        y: Vec<f64>,
        groups: Vec<usize>,
        spearman: f64,
        kendall: f64,
        p: f64,
        low: f64,
        high: f64,
        partial: f64,
    }

    /// `tests/golden/stats_rank.py` asked scipy, and numpy's least squares for the partial correlation.
    #[test]
    fn correlations_equal_scipy() {
        let golden: Vec<Golden> =
            serde_json::from_str(include_str!("../../../tests/golden/stats_rank.json")).expect("valid JSON");
        assert!(golden.len() > 5);
        for case in golden {
            let pairs: Vec<_> = case.x.iter().copied().zip(case.y.iter().copied()).collect();
            let ours = rank_correlation(&pairs, 1).expect("not constant");
            assert!((ours.spearman - case.spearman).abs() < 1e-12, "{ours:?}");
            assert!(
                (ours.kendall.expect("plain") - case.kendall).abs() < 1e-12,
                "{ours:?}"
            );
            // Theirs is a permutation test, too: both have a random error.
            assert!((ours.p - case.p).abs() < 0.02, "{ours:?}, {}", case.p);
            let interval = ours.interval.expect("enough units");
            assert!((interval.low - case.low).abs() < 1e-12 && (interval.high - case.high).abs() < 1e-12);
            let grouped: Vec<_> = pairs
                .iter()
                .zip(&case.groups)
                .map(|(p, &g)| (p.0, p.1, g))
                .collect();
            let within = rank_correlation_within(&grouped, 1).expect("not constant");
            assert!(
                (within.spearman - case.partial).abs() < 1e-12,
                "{within:?} {}",
                case.partial
            );
        }
    }

    /// Between families there is a strong trend, within them there is none: only the controlled version says so.
    #[test]
    fn a_trend_between_groups_is_not_one_within() {
        let within = [(1.0, 2.0), (2.0, 4.0), (3.0, 1.0), (4.0, 3.0)];
        let pairs: Vec<_> = (0..4)
            .flat_map(|g| {
                within
                    .iter()
                    .map(move |(x, y)| (x + 10.0 * g as f64, y + 10.0 * g as f64, g))
            })
            .collect();
        let plain: Vec<_> = pairs.iter().map(|p| (p.0, p.1)).collect();
        assert!(rank_correlation(&plain, 1).is_some_and(|c| c.spearman > 0.9 && c.p < 0.001));
        assert!(rank_correlation_within(&pairs, 1).is_some_and(|c| c.spearman.abs() < 1e-9 && c.p > 0.9));
    }

    #[test]
    fn nothing_is_said_about_too_little() {
        assert_eq!(rank_correlation(&[(1.0, 2.0), (2.0, 3.0)], 1), None);
        assert_eq!(rank_correlation(&[(1.0, 2.0), (2.0, 2.0), (3.0, 2.0)], 1), None);
        let alone = [(1.0, 2.0, 0), (2.0, 3.0, 1), (3.0, 1.0, 2)];
        assert_eq!(rank_correlation_within(&alone, 1), None);
    }
}
