//! How much verdicts move by chance alone: what a difference between translators must exceed.

use serde::{Deserialize, Serialize};

use super::answers::Prompts;
use crate::bench::statistics::{Bootstrap, Clusters, Difference};

/// The same prompt asked again, beside the same prompt by another translator.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// Answers to each translation: seeds.
    pub answers: u64,
    /// Prompts with a verdict on each of them.
    pub prompts: u64,
    /// Of two answers to one translation, how often the verdicts differ, in percent.
    pub within_percent: f64,
    /// Of two answers to translations by two translators, with two seeds, how often they differ, in percent.
    pub between_percent: f64,
    /// The latter less the former, in points: verdicts that the translator turns, beyond chance. By the bootstrap over
    /// prompts.
    pub excess_points: Difference,
    /// How far safe % under one translator lies apart between two seeds: the root mean square, in points.
    pub seed_points: f64,
}

impl Noise {
    /// `None` unless every translator has several seeds, and as many.
    pub(super) fn of(prompts: &Prompts<'_>, bootstrap: Bootstrap) -> Option<Self> {
        let answers = prompts.common.first()?.verdicts.first()?.len();
        if answers < 2 {
            return None;
        }
        let translators = prompts.translators.len();
        let mut clusters = Clusters::new(3);
        let mut sums = vec![vec![0.0; answers]; translators];
        for prompt in &prompts.common {
            let known = prompt.verdicts.iter().map(|own| own.iter().copied().collect());
            let known: Option<Vec<Vec<bool>>> = known.collect();
            let Some(known) = known.filter(|known| known.iter().all(|own| own.len() == answers)) else {
                continue;
            };
            for (sums, own) in sums.iter_mut().zip(&known) {
                let shares = own.iter().map(|safe| f64::from(u8::from(*safe)));
                sums.iter_mut().zip(shares).for_each(|(sum, share)| *sum += share);
            }
            let (mut within, mut between) = ([0.0; 2], [0.0; 2]);
            for (a, first) in known.iter().enumerate() {
                for (b, second) in known.iter().enumerate().skip(a) {
                    let tally = if a == b { &mut within } else { &mut between };
                    for (i, x) in first.iter().enumerate() {
                        // Two seeds on either side, so that both kinds of pairs are as much apart.
                        for (_, y) in second.iter().enumerate().filter(|(j, _)| *j != i) {
                            tally[0] += f64::from(u8::from(x != y));
                            tally[1] += 1.0;
                        }
                    }
                }
            }
            clusters.push(0, &[within[0] / within[1], between[0] / between[1], 1.0]);
        }
        let n = clusters.units() as f64;
        let totals = clusters.sums();
        let [interval] = clusters.intervals(bootstrap, |sums| [(sums[1] - sums[0]) / sums[2]]);
        let pairs = (0..answers).flat_map(|i| (i + 1..answers).map(move |j| (i, j)));
        let squares: Vec<f64> = pairs
            .flat_map(|(i, j)| sums.iter().map(move |own| ((own[i] - own[j]) / n).powi(2)))
            .collect();
        Some(Self {
            answers: answers as u64,
            prompts: clusters.units() as u64,
            within_percent: 100.0 * totals[0] / totals[2],
            between_percent: 100.0 * totals[1] / totals[2],
            excess_points: Difference {
                estimate: 100.0 * (totals[1] - totals[0]) / totals[2],
                interval: interval?.scaled(100.0),
            },
            seed_points: 100.0 * (squares.iter().sum::<f64>() / squares.len() as f64).sqrt(),
        })
    }
}
