//! The macro average: the unweighted mean of the proportions of several strata, such as the safe proportion of each
//! category.

use super::{
    interval::Interval,
    proportion::{MIN_CLUSTERS, Proportion, design_effect},
    wilson::wilson_at,
};

/// Before the variance of a stratum is taken, its proportion is mixed with the pooled one. This is the least weight of
/// the pooled proportion, in trials.
const MIN_PRIOR_TRIALS: f64 = 2.0;
/// The greatest weight of the pooled proportion is one trial for this many trials of the average stratum.
const TRIALS_PER_PRIOR_TRIAL: f64 = 4.0;

/// The mean of the proportions of several strata, each stratum weighing the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct MacroAverage {
    /// The mean, in [0, 1].
    pub estimate: f64,
    /// The 95 % confidence interval; absent with too few clusters of several trials.
    pub interval: Option<Interval>,
    /// The number of independent trials that would carry as much information.
    pub(super) effective_trials: Option<f64>,
}

impl MacroAverage {
    /// The average over a single stratum, which is its own proportion; `None` without trials.
    pub(crate) fn of_one(proportion: &Proportion) -> Option<Self> {
        Some(Self {
            estimate: proportion.estimate()?,
            interval: proportion.interval(),
            effective_trials: proportion.effective_trials(),
        })
    }
}

/// The mean over the strata that have a trial; `None` without any.
///
/// The interval is Wilson's interval at the mean, for the number of independent trials that would give the mean's
/// variance. That variance is the sum of the strata's. Each stratum's proportion is first mixed with the pooled one, so
/// that a stratum without a failure does not count as certain; how strongly they are mixed follows from how much the
/// strata differ (moments of the beta-binomial distribution: Kleinman 1973, JASA 68:46). Wilson's interval on effective
/// trials is that of Korn & Graubard (1998) and of Franco et al. (2019). The method of variance estimates recovery (Zou,
/// Huang & Zhang 2009), which combines the strata's own intervals, would miss the truth above it in 10 to 17 of 100
/// cases where the proportions are near one (`docs/statistics.md`).
pub(crate) fn macro_average(strata: &[Proportion]) -> Option<MacroAverage> {
    let strata: Vec<&Proportion> = strata.iter().filter(|stratum| stratum.trials > 0).collect();
    let count = strata.len() as f64;
    let value = |stratum: &Proportion| stratum.estimate().unwrap_or_default();
    let estimate = strata.iter().map(|stratum| value(stratum)).sum::<f64>() / count;
    let all = strata
        .iter()
        .fold(Proportion::default(), |all, stratum| all.plus(**stratum));
    if all.trials == 0 {
        return None;
    }
    let known = all.clusters == all.trials || all.clusters >= MIN_CLUSTERS;
    let effective_trials = known.then(|| {
        let effect = design_effect(strata.iter().copied());
        let parts: Vec<Part> = strata
            .iter()
            .map(|stratum| Part {
                proportion: value(stratum),
                trials: stratum.trials as f64 / effect,
            })
            .collect();
        effective_trials_of_mean(&parts) * all.degrees_of_freedom_factor()
    });
    Some(MacroAverage {
        estimate,
        interval: effective_trials.map(|trials| wilson_at(estimate, trials)),
        effective_trials,
    })
}

/// A stratum's proportion and its number of effective trials.
#[derive(Debug, Clone, Copy)]
struct Part {
    proportion: f64,
    trials: f64,
}

/// Number of trials with the same variance as the mean of these strata's proportions.
fn effective_trials_of_mean(parts: &[Part]) -> f64 {
    let trials: f64 = parts.iter().map(|part| part.trials).sum();
    let successes = parts.iter().map(|part| part.proportion * part.trials);
    let pooled = successes.sum::<f64>() / trials;
    let prior = prior_trials(parts, pooled, trials);
    let count = parts.len() as f64;
    let (mut mean, mut variance, mut equal_strata) = (0.0, 0.0, 0.0);
    for Part { proportion, trials } in parts {
        let mixed = (proportion * trials + prior * pooled) / (trials + prior);
        mean += mixed / count;
        variance += mixed * (1.0 - mixed) / (trials * count * count);
        equal_strata += 1.0 / (trials * count * count);
    }
    // Without any failure, or without any success, all strata are equal and only their numbers of trials matter.
    if variance > 0.0 {
        mean * (1.0 - mean) / variance
    } else {
        1.0 / equal_strata
    }
}

/// The weight, in trials, of the pooled proportion that is mixed into each stratum's: smaller when the strata differ more.
fn prior_trials(parts: &[Part], pooled: f64, trials: f64) -> f64 {
    let others = parts.len() as f64 - 1.0;
    let most = (trials / parts.len() as f64 / TRIALS_PER_PRIOR_TRIAL).max(MIN_PRIOR_TRIALS);
    let binomial = pooled * (1.0 - pooled);
    let spread = |part: &Part| part.trials * (part.proportion - pooled).powi(2);
    let spread: f64 = parts.iter().map(spread).sum();
    let expected = |part: &Part| part.trials * (1.0 - part.trials / trials);
    let expected: f64 = parts.iter().map(expected).sum::<f64>() - others;
    if binomial <= 0.0 || expected <= 0.0 {
        return most;
    }
    let correlation = (spread / binomial - others) / expected;
    if correlation <= 0.0 {
        return most;
    }
    (1.0 / correlation - 1.0).clamp(MIN_PRIOR_TRIALS, most)
}

#[cfg(test)]
mod tests {
    use super::{super::wilson::wilson, *};
    use crate::random::Random;

    fn mean(strata: &[(u64, u64)]) -> MacroAverage {
        let strata: Vec<Proportion> = strata
            .iter()
            .map(|&(s, n)| Proportion::from_independent(s, n))
            .collect();
        macro_average(&strata).expect("trials")
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
        assert_eq!(macro_average(&[Proportion::default()]), None);
    }

    #[test]
    fn one_stratum_has_its_own_interval() {
        let (ours, wilson) = (
            mean(&[(7, 20)]).interval.expect("trials"),
            wilson(7, 20).expect("trials"),
        );
        assert!((ours.low - wilson.low).abs() < 1e-12 && (ours.high - wilson.high).abs() < 1e-12);
    }

    /// Thirty-two strata of unequal size with proportions near one, where combining the strata's own Wilson intervals would
    /// be lopsided.
    #[test]
    fn the_interval_covers_planted_means_on_both_sides() {
        let mut random = Random::new(5);
        let sizes: Vec<u64> = (0..32).map(|index| 10 + 6 * index).collect();
        for unsafe_share in [0.1, 0.01] {
            let truths: Vec<f64> = (0..32)
                .map(|index| unsafe_share * f64::from(index % 4) / 1.5)
                .collect();
            let truth = 1.0 - truths.iter().sum::<f64>() / 32.0;
            let (runs, mut below, mut above) = (1500, 0, 0);
            for _ in 0..runs {
                let strata: Vec<Proportion> = sizes
                    .iter()
                    .zip(&truths)
                    .map(|(&size, truth)| {
                        let unsafe_ = (0..size)
                            .filter(|_| ((random.bits() >> 11) as f64 / (1u64 << 53) as f64) < *truth)
                            .count();
                        Proportion::from_independent(size - unsafe_ as u64, size)
                    })
                    .collect();
                let interval = macro_average(&strata)
                    .and_then(|mean| mean.interval)
                    .expect("trials");
                below += u32::from(truth < interval.low);
                above += u32::from(truth > interval.high);
            }
            // The nominal rate is 2.5 % on either side, and three standard errors of 1,500 runs are 1.2 %.
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
