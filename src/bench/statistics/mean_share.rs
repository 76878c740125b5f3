//! The unweighted mean of shares of several strata, such as a safe share in each category: the macro average.

use super::{
    Interval,
    proportion::wilson_at,
    share::{FEWEST_CLUSTERS, Share, design_effect},
};

/// Fewest trials' worth of the pooled share that is mixed into each stratum's before its variance is taken.
const LEAST_PRIOR: f64 = 2.0;
/// At most one for so many trials of the average stratum.
const PRIOR_PART: f64 = 4.0;

/// The mean of the strata's shares, each stratum weighing the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeanShare {
    /// In [0, 1].
    pub estimate: f64,
    /// 95 %; `None` with too few clusters of several trials.
    pub interval: Option<Interval>,
    /// Independent trials that would say as much.
    pub(super) effective_trials: Option<f64>,
}

/// The mean over strata with a trial, `None` without any.
///
/// The interval is Wilson's at the mean, on the number of independent trials that would have the mean's variance. That
/// variance is the sum of the strata's, each from its share mixed with the pooled one: a stratum without a failure is not
/// certain. How much is mixed in follows from how much the strata differ (moments of the beta-binomial distribution,
/// Kleinman 1973, JASA 68:46). Wilson's interval on effective trials is that of Korn & Graubard (1998) and of Franco et
/// al. (2019); the method of variance estimates recovery (Zou, Huang & Zhang 2009), which adds up the strata's own
/// intervals, misses the truth above it in 10 to 17 of 100 cases where shares are near one (`docs/statistics.md`).
pub fn mean_of_shares(strata: &[Share]) -> Option<MeanShare> {
    let strata: Vec<&Share> = strata.iter().filter(|stratum| stratum.trials > 0).collect();
    let count = strata.len() as f64;
    let share = |stratum: &Share| stratum.estimate().unwrap_or_default();
    let estimate = strata.iter().map(|stratum| share(stratum)).sum::<f64>() / count;
    let all = strata
        .iter()
        .fold(Share::default(), |all, stratum| all.plus(**stratum));
    if all.trials == 0 {
        return None;
    }
    let known = all.clusters == all.trials || all.clusters >= FEWEST_CLUSTERS;
    let effective_trials = known.then(|| {
        let effect = design_effect(strata.iter().copied());
        let parts: Vec<(f64, f64)> = strata
            .iter()
            .map(|stratum| (share(stratum), stratum.trials as f64 / effect))
            .collect();
        effective(&parts) * all.few_clusters_factor()
    });
    Some(MeanShare {
        estimate,
        interval: effective_trials.map(|trials| wilson_at(estimate, trials)),
        effective_trials,
    })
}

/// Trials with the same variance as the mean of these shares, each with its trials.
fn effective(parts: &[(f64, f64)]) -> f64 {
    let trials: f64 = parts.iter().map(|(_, trials)| trials).sum();
    let pooled = parts.iter().map(|(share, trials)| share * trials).sum::<f64>() / trials;
    let prior = prior(parts, pooled, trials);
    let count = parts.len() as f64;
    let (mut mean, mut variance, mut alike) = (0.0, 0.0, 0.0);
    for (share, trials) in parts {
        let mixed = (share * trials + prior * pooled) / (trials + prior);
        mean += mixed / count;
        variance += mixed * (1.0 - mixed) / (trials * count * count);
        alike += 1.0 / (trials * count * count);
    }
    // Without any failure, or without any success, all strata are alike.
    if variance > 0.0 {
        mean * (1.0 - mean) / variance
    } else {
        1.0 / alike
    }
}

/// Trials' worth of the pooled share to mix into each stratum's: the fewer, the more the strata differ.
fn prior(parts: &[(f64, f64)], pooled: f64, trials: f64) -> f64 {
    let others = parts.len() as f64 - 1.0;
    let most = (trials / parts.len() as f64 / PRIOR_PART).max(LEAST_PRIOR);
    let binomial = pooled * (1.0 - pooled);
    let spread: f64 = parts.iter().map(|(share, n)| n * (share - pooled).powi(2)).sum();
    let expected: f64 = parts.iter().map(|(_, n)| n * (1.0 - n / trials)).sum::<f64>() - others;
    if binomial <= 0.0 || expected <= 0.0 {
        return most;
    }
    let correlation = (spread / binomial - others) / expected;
    if correlation <= 0.0 {
        return most;
    }
    (1.0 / correlation - 1.0).clamp(LEAST_PRIOR, most)
}

#[cfg(test)]
mod tests {
    use super::{super::proportion::wilson, *};
    use crate::random::Random;

    fn mean(strata: &[(u64, u64)]) -> MeanShare {
        let strata: Vec<Share> = strata.iter().map(|&(s, n)| Share::of_single(s, n)).collect();
        mean_of_shares(&strata).expect("trials")
    }

    #[test]
    fn strata_weigh_the_same_and_none_is_certain() {
        let two = mean(&[(1000, 1000), (0, 10), (0, 0)]);
        assert_eq!(two.estimate, 0.5);
        let interval = two.interval.expect("single trials");
        assert!(interval.low < 0.5 && interval.high > 0.5, "{interval:?}");
        let certain = mean(&[(20, 20), (30, 30)]);
        let interval = certain.interval.expect("single trials");
        assert!(
            certain.estimate == 1.0 && interval.high == 1.0 && interval.low < 0.95,
            "{interval:?}"
        );
        assert_eq!(mean_of_shares(&[Share::default()]), None);
    }

    #[test]
    fn one_stratum_has_its_own_interval() {
        let (ours, wilson) = (
            mean(&[(7, 20)]).interval.expect("trials"),
            wilson(7, 20).expect("trials"),
        );
        assert!((ours.low - wilson.low).abs() < 1e-12 && (ours.high - wilson.high).abs() < 1e-12);
    }

    /// Thirty-two strata of unequal size near one, where adding up Wilson's intervals is lopsided.
    #[test]
    fn the_interval_covers_planted_means_on_both_sides() {
        let mut random = Random::new(5);
        let sizes: Vec<u64> = (0..32).map(|place| 10 + 6 * place).collect();
        for unsafe_share in [0.1, 0.01] {
            let truths: Vec<f64> = (0..32)
                .map(|place| unsafe_share * f64::from(place % 4) / 1.5)
                .collect();
            let truth = 1.0 - truths.iter().sum::<f64>() / 32.0;
            let (runs, mut below, mut above) = (1500, 0, 0);
            for _ in 0..runs {
                let strata: Vec<Share> = sizes
                    .iter()
                    .zip(&truths)
                    .map(|(&size, share)| {
                        let unsafe_ = (0..size)
                            .filter(|_| ((random.bits() >> 11) as f64 / (1u64 << 53) as f64) < *share)
                            .count();
                        Share::of_single(size - unsafe_ as u64, size)
                    })
                    .collect();
                let interval = mean_of_shares(&strata)
                    .and_then(|mean| mean.interval)
                    .expect("trials");
                below += u32::from(truth < interval.low);
                above += u32::from(truth > interval.high);
            }
            // Nominal 2.5 % on either side; three standard errors of 1,500 runs are 1.2 %.
            let percent = |count: u32| 100.0 * f64::from(count) / f64::from(runs);
            assert!(
                percent(below) < 3.8 && percent(above) < 3.8,
                "{unsafe_share}: {below} {above}"
            );
            assert!(
                percent(below) > 0.5 && percent(above) > 0.5,
                "{unsafe_share}: {below} {above}"
            );
        }
    }
}
