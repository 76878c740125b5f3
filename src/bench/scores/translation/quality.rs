//! Safety by translation quality: do bad translations look safer?

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::answers::Prompts;
use crate::bench::{
    statistics::{Bootstrap, Clusters, Difference, Interval},
    translation::{CandidateKey, Metric, ScoreTable},
};

/// Safe % by a quality score. Intervals are those of the bootstrap over prompts, with the thirds' limits as they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QualityEffect {
    /// Which score.
    pub metric: Metric,
    /// The worst third of the translations first.
    pub tertiles: Vec<Tertile>,
    /// Safe % of the worst third less that of the best, in points: positive when bad translations look safer.
    pub worst_less_best_points: Option<Difference>,
    /// Two translations of one prompt with other scores and other verdicts: how many there are.
    pub pairs: u64,
    /// In how many percent of them the worse translation has the safer verdict; 50 when quality does not matter. The
    /// prompt is the same, so that hard prompts, which are also hard to translate, do not count.
    pub worse_is_safer_percent: Option<Difference>,
}

/// A third of the translations.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Tertile {
    /// The scores in it.
    pub scores: Interval,
    /// Translations with a verdict.
    pub n: u64,
    /// Safe %.
    pub safe_percent: f64,
    /// 95 %.
    pub interval_95: Option<Interval>,
}

/// A verdict's share, and how good the translation is.
struct Scored {
    safe: f64,
    goodness: f64,
    score: f64,
}

/// By each score that translations of the language have.
pub(super) fn effects(
    prompts: &Prompts<'_>,
    scores: &ScoreTable,
    bootstrap: Bootstrap,
) -> Vec<QualityEffect> {
    if scores.is_empty() {
        return Vec::new();
    }
    let mut by_metric: BTreeMap<Metric, Vec<Vec<Scored>>> = BTreeMap::new();
    for prompt in &prompts.common {
        let mut own: BTreeMap<Metric, Vec<Scored>> = BTreeMap::new();
        for (translator, safe) in prompts.translators.iter().zip(&prompt.values) {
            let key = CandidateKey {
                id: prompt.id.clone(),
                language: prompts.language,
                translator: (*translator).to_owned(),
            };
            for (metric, score) in scores.get(&key).into_iter().flatten() {
                own.entry(*metric).or_default().push(Scored {
                    safe: *safe,
                    goodness: metric.goodness(*score),
                    score: *score,
                });
            }
        }
        for (metric, scored) in own {
            by_metric.entry(metric).or_default().push(scored);
        }
    }
    let effect = |(metric, prompts): (Metric, Vec<Vec<Scored>>)| effect(metric, &prompts, bootstrap);
    by_metric.into_iter().filter_map(effect).collect()
}

fn effect(metric: Metric, prompts: &[Vec<Scored>], bootstrap: Bootstrap) -> Option<QualityEffect> {
    let mut all: Vec<&Scored> = prompts.iter().flatten().collect();
    if all.len() < 3 {
        return None;
    }
    all.sort_by(|a, b| a.goodness.total_cmp(&b.goodness));
    let limits = [all.len() / 3, 2 * all.len() / 3].map(|place| all[place].goodness);
    let third = |one: &Scored| limits.iter().filter(|limit| one.goodness >= **limit).count();
    // Safe and all of each third, then pairs whose worse side is safer and all pairs.
    let mut clusters = Clusters::new(8);
    for own in prompts {
        let mut sums = [0.0; 8];
        for (place, one) in own.iter().enumerate() {
            let third = third(one);
            sums[2 * third] += one.safe;
            sums[2 * third + 1] += 1.0;
            for other in &own[place + 1..] {
                if one.safe != other.safe && one.goodness != other.goodness {
                    sums[6] += f64::from(u8::from(
                        (one.safe > other.safe) == (one.goodness < other.goodness),
                    ));
                    sums[7] += 1.0;
                }
            }
        }
        clusters.push(0, &sums);
    }
    let figures = |sums: &[f64]| {
        let share = |place: usize| 100.0 * sums[place] / sums[place + 1];
        [share(0), share(2), share(4), share(0) - share(4), share(6)]
    };
    let sums = clusters.sums();
    let estimates = figures(&sums);
    let intervals = clusters.intervals(bootstrap, figures);
    let of = |place: usize| {
        let estimate = Some(estimates[place]).filter(|estimate| !estimate.is_nan())?;
        let interval = intervals[place]?;
        Some(Difference { estimate, interval })
    };
    let tertile = |place: usize| {
        let own = || all.iter().filter(|one| third(one) == place).map(|one| one.score);
        let found = of(place)?;
        Some(Tertile {
            scores: Interval {
                low: own().fold(f64::INFINITY, f64::min),
                high: own().fold(f64::NEG_INFINITY, f64::max),
            },
            n: sums[2 * place + 1] as u64,
            safe_percent: found.estimate,
            interval_95: Some(found.interval),
        })
    };
    Some(QualityEffect {
        metric,
        tertiles: (0..3).filter_map(tertile).collect(),
        worst_less_best_points: of(3),
        pairs: sums[7] as u64,
        worse_is_safer_percent: of(4),
    })
}
