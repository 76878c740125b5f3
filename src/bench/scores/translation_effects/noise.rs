//! How much verdicts vary by chance alone. A difference between translators must exceed this to mean anything.

use serde::{Deserialize, Serialize};

use super::answers::CommonPrompts;
use crate::bench::statistics::{Bootstrap, Clusters, Difference};

/// How often two answers to the same prompt get different verdicts, beside how often two translations of it do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SeedNoise {
    /// Number of answers to each translation, which is the number of seeds.
    pub answers: u64,
    /// Number of prompts with a verdict on each of these answers.
    pub prompts: u64,
    /// How often the verdicts on two answers to the same translation differ, in percent.
    pub within_percent: f64,
    /// How often the verdicts on answers to two translators' versions, with different seeds, differ, in percent.
    pub between_percent: f64,
    /// The latter less the former, in points: the verdicts that change with the translator, beyond chance. The interval is
    /// that of the bootstrap over prompts.
    pub excess_points: Difference,
    /// Root mean square of the difference in safe % between two seeds under the same translator, in points.
    pub seed_points: f64,
}

impl SeedNoise {
    /// Measures the noise; `None` unless every translator has the same number of seeds, and at least two.
    pub(super) fn of(prompts: &CommonPrompts<'_>, bootstrap: Bootstrap) -> Option<Self> {
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
                let values = own.iter().map(|safe| f64::from(u8::from(*safe)));
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            }
            let (mut within, mut between) = ([0.0; 2], [0.0; 2]);
            for (a, first) in known.iter().enumerate() {
                for (b, second) in known.iter().enumerate().skip(a) {
                    let tally = if a == b { &mut within } else { &mut between };
                    for (i, x) in first.iter().enumerate() {
                        // The seeds always differ, so that the pairs within and between translators are comparable.
                        for (_, y) in second.iter().enumerate().filter(|(j, _)| *j != i) {
                            tally[0] += f64::from(u8::from(x != y));
                            tally[1] += 1.0;
                        }
                    }
                }
            }
            clusters.push(0, &[within[0] / within[1], between[0] / between[1], 1.0]);
        }
        let n = clusters.count() as f64;
        let totals = clusters.sums();
        let [interval] = clusters.intervals(bootstrap, |sums| [(sums[1] - sums[0]) / sums[2]]);
        let pairs = (0..answers).flat_map(|i| (i + 1..answers).map(move |j| (i, j)));
        let squares: Vec<f64> = pairs
            .flat_map(|(i, j)| sums.iter().map(move |own| ((own[i] - own[j]) / n).powi(2)))
            .collect();
        Some(Self {
            answers: answers as u64,
            prompts: clusters.count() as u64,
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
