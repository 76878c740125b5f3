//! Safety by translation quality: do bad translations look safer than good ones?

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::answers::CommonPrompts;
use crate::bench::{
    statistics::{Bootstrap, Clusters, Difference, Interval},
    translation::{CandidateKey, Metric, ScoreTable},
};

/// Safe % by a quality score. The intervals are those of the bootstrap over prompts; the limits of the thirds stay fixed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QualityEffect {
    /// The quality score.
    pub metric: Metric,
    /// The thirds of the translations, beginning with the worst.
    pub tertiles: Vec<Tertile>,
    /// Safe % of the worst third less that of the best, in points. It is positive when bad translations look safer.
    pub worst_less_best_points: Option<Difference>,
    /// Number of pairs of translations of the same prompt that differ both in score and in verdict.
    pub pairs: u64,
    /// In how many percent of these pairs the worse translation has the safer verdict; 50 when quality does not matter.
    /// Both translations are of the same prompt, so hard prompts, which are also hard to translate, cause no bias.
    pub worse_is_safer_percent: Option<Difference>,
}

/// One third of the translations.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Tertile {
    /// The lowest and the highest score in it.
    pub scores: Interval,
    /// Number of translations in it that have a verdict.
    pub n: u64,
    /// Safe % of the translations in it.
    pub safe_percent: f64,
    /// The 95 % interval of the percentage.
    pub interval_95: Option<Interval>,
}

/// A translation's verdicts and how good it is.
struct ScoredTranslation {
    /// Proportion of safe verdicts, in [0, 1].
    safe: f64,
    /// The score, with its sign chosen so that a greater number is better.
    goodness: f64,
    /// The score as it was given.
    score: f64,
}

/// The effect of quality, by each score that translations of the language have.
pub(super) fn effects(
    prompts: &CommonPrompts<'_>,
    scores: &ScoreTable,
    bootstrap: Bootstrap,
) -> Vec<QualityEffect> {
    if scores.is_empty() {
        return Vec::new();
    }
    let mut by_metric: BTreeMap<Metric, Vec<Vec<ScoredTranslation>>> = BTreeMap::new();
    for prompt in &prompts.common {
        let mut own: BTreeMap<Metric, Vec<ScoredTranslation>> = BTreeMap::new();
        for (translator, safe) in prompts.translators.iter().zip(&prompt.proportions) {
            let key = CandidateKey {
                id: prompt.id.clone(),
                language: prompts.language,
                translator: (*translator).to_owned(),
            };
            for (metric, score) in scores.get(&key).into_iter().flatten() {
                own.entry(*metric).or_default().push(ScoredTranslation {
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
    by_metric
        .into_iter()
        .filter_map(|(metric, prompts)| effect(metric, &prompts, bootstrap))
        .collect()
}

fn effect(metric: Metric, prompts: &[Vec<ScoredTranslation>], bootstrap: Bootstrap) -> Option<QualityEffect> {
    let mut all: Vec<&ScoredTranslation> = prompts.iter().flatten().collect();
    if all.len() < 3 {
        return None;
    }
    all.sort_by(|a, b| a.goodness.total_cmp(&b.goodness));
    let limits = [all.len() / 3, 2 * all.len() / 3].map(|index| all[index].goodness);
    let third = |one: &ScoredTranslation| limits.iter().filter(|limit| one.goodness >= **limit).count();
    // The columns are: safe answers and all answers of each third, then pairs whose worse side is safer and all pairs.
    let mut clusters = Clusters::new(8);
    for own in prompts {
        let mut sums = [0.0; 8];
        for (index, one) in own.iter().enumerate() {
            let third = third(one);
            sums[2 * third] += one.safe;
            sums[2 * third + 1] += 1.0;
            for other in &own[index + 1..] {
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
        let percent = |column: usize| 100.0 * sums[column] / sums[column + 1];
        [
            percent(0),
            percent(2),
            percent(4),
            percent(0) - percent(4),
            percent(6),
        ]
    };
    let sums = clusters.sums();
    let estimates = figures(&sums);
    let intervals = clusters.intervals(bootstrap, figures);
    let difference = |figure: usize| {
        let estimate = Some(estimates[figure]).filter(|estimate| !estimate.is_nan())?;
        let interval = intervals[figure]?;
        Some(Difference { estimate, interval })
    };
    let tertile = |number: usize| {
        let own = || all.iter().filter(|one| third(one) == number).map(|one| one.score);
        let found = difference(number)?;
        Some(Tertile {
            scores: Interval {
                low: own().fold(f64::INFINITY, f64::min),
                high: own().fold(f64::NEG_INFINITY, f64::max),
            },
            n: sums[2 * number + 1] as u64,
            safe_percent: found.estimate,
            interval_95: Some(found.interval),
        })
    };
    Some(QualityEffect {
        metric,
        tertiles: (0..3).filter_map(tertile).collect(),
        worst_less_best_points: difference(3),
        pairs: sums[7] as u64,
        worse_is_safer_percent: difference(4),
    })
}
