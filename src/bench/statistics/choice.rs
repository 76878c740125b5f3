//! What choosing the best of several treatments gains, without counting luck as a gain. The highest of several means is
//! too high by chance, so the best treatment is chosen on one half of the units and measured on the other half.

use serde::{Deserialize, Serialize};

use super::{
    bootstrap::{Bootstrap, percentiles, replicates},
    crossed::CrossedDesign,
    difference::Difference,
    interval::Interval,
};
use crate::random::Random;

/// Number of random ways to halve the units in each round: one for each of the low bits of a random 64-bit number.
const SPLITS: usize = 32;

/// Number of rounds of splits behind an estimate. A bootstrap resample has only one.
const ROUNDS: usize = 16;

/// With fewer units, halving them makes no sense.
const MIN_UNITS: usize = 20;

/// A proportion of the gap is only reported when at least this many units differ from the reference under some treatment.
/// The bootstrap does not see how uncertain a gap of a handful of units is.
const MIN_DIFFERING: usize = 10;

/// Estimates of what the choice of a treatment changes. Values are proportions in [0, 1], so differences are in [-1, 1].
/// A higher value is better.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Mean of the reference less the mean over all treatments; absent without a reference.
    pub gap: Option<Difference>,
    /// Mean of the chosen treatment less the mean over all treatments.
    pub gain: Difference,
    /// Mean of the treatment chosen as best less that of the one chosen as worst.
    pub span: Difference,
    /// Mean of the reference less that of the chosen treatment: what is left of the gap. Absent without a reference.
    pub rest: Option<Difference>,
    /// `gain / gap`; absent unless the gap's whole interval is above 0 and at least 10 units differ from the reference.
    pub share: Option<Difference>,
    /// `span` as a part of the reference's lead over the treatment chosen as worst; absent under the same conditions.
    pub share_of_worst: Option<Difference>,
    /// For each treatment, the proportion of the halves in which it was chosen as best. Treatments that tie share the half.
    pub chosen: Vec<f64>,
}

impl Choice {
    /// Everything multiplied by a positive factor; 100 turns proportions into points and percent.
    pub fn scaled(self, factor: f64) -> Self {
        let scaled = |one: Difference| Difference {
            estimate: factor * one.estimate,
            interval: one.interval.scaled(factor),
        };
        Self {
            gap: self.gap.map(scaled),
            gain: scaled(self.gain),
            span: scaled(self.span),
            rest: self.rest.map(scaled),
            share: self.share.map(scaled),
            share_of_worst: self.share_of_worst.map(scaled),
            chosen: self.chosen.iter().map(|proportion| factor * proportion).collect(),
        }
    }
}

/// In this order: gap, gain, span, rest, lead over the worst treatment, gain / gap, and span / lead.
type Figures = [f64; 7];

impl CrossedDesign {
    /// Estimates what choosing the best treatment gains, by cross-fitting over many seeded random halves: each half
    /// chooses, and the other one measures. The intervals come from the bootstrap over units, with all copies of a unit
    /// in the same half. The estimates are about the treatment that half of the units would choose. `None` with fewer
    /// than two treatments or 20 units.
    pub(crate) fn choose_best(&self, bootstrap: Bootstrap) -> Option<Choice> {
        if self.treatments < 2 || self.units() < MIN_UNITS {
            return None;
        }
        let mut chosen = vec![0.0; self.treatments];
        let mut estimate = [0.0; 7];
        let mut rounds = 0.0;
        for round in 0..ROUNDS {
            let salt = Random::new(bootstrap.seed ^ !(round as u64)).bits();
            let figures = self.figures(&(0..self.units()).collect::<Vec<_>>(), salt, Some(&mut chosen));
            if !figures[1].is_nan() {
                rounds += 1.0;
                estimate
                    .iter_mut()
                    .zip(figures)
                    .for_each(|(sum, one)| *sum += one);
            }
        }
        let times: f64 = chosen.iter().sum();
        chosen.iter_mut().for_each(|one| *one /= times);
        let [gap, gain, span, rest, lead, ..] = estimate.map(|sum| sum / rounds);
        let n = self.units();
        let draws = replicates(bootstrap, |random, _| {
            let drawn: Vec<usize> = (0..n).map(|_| random.below(n)).collect();
            self.figures(&drawn, random.bits(), None)
        });
        let intervals = percentiles(&draws);
        let difference = |estimate: f64, interval: Option<Interval>| {
            let interval = interval.filter(|_| !estimate.is_nan())?;
            Some(Difference { estimate, interval })
        };
        let differing = self
            .distinct()
            .filter(|(row, _)| row[1..].iter().any(|value| *value != row[0]));
        let enough = differing.map(|(_, count)| count).sum::<usize>() >= MIN_DIFFERING;
        let positive = |difference: &Difference| enough && difference.interval.low > 0.0;
        let gap = difference(gap, intervals[0]);
        let lead = difference(lead, intervals[4]);
        Some(Choice {
            gain: difference(gain, intervals[1])?,
            span: difference(span, intervals[2])?,
            rest: difference(rest, intervals[3]),
            share: gap
                .filter(positive)
                .and_then(|gap| difference(gain / gap.estimate, intervals[5])),
            share_of_worst: lead
                .filter(positive)
                .and_then(|lead| difference(span / lead.estimate, intervals[6])),
            gap,
            chosen,
        })
    }

    /// Computes the figures over the units in `units`, each as often as it is listed. `salt` decides the `SPLITS` random
    /// ways to halve them. Where `chosen` is given, it counts how often each treatment was chosen as best.
    fn figures(&self, units: &[usize], salt: u64, mut chosen: Option<&mut Vec<f64>>) -> Figures {
        let (k, width) = (self.treatments, self.treatments + 1);
        let distinct = self.rows.len() / width;
        let mut halves = vec![[0u32; SPLITS]; distinct];
        let mut whole = vec![0u32; distinct];
        for &unit in units {
            let row = self.row_of[unit] as usize;
            whole[row] += 1;
            let mask = Random::new(salt ^ (unit as u64).wrapping_mul(0xa24b_aed4_963e_e407)).bits();
            for (split, count) in halves[row].iter_mut().enumerate() {
                *count += (mask >> split & 1) as u32;
            }
        }
        // Sums over the rows, each weighted by its count; the last element is the number of units.
        let sums = |count: &dyn Fn(usize) -> u32| {
            let mut sums = vec![0.0; width + 1];
            for (index, row) in self.rows.chunks_exact(width).enumerate() {
                let count = f64::from(count(index));
                if count > 0.0 {
                    for (sum, value) in sums.iter_mut().zip(row) {
                        *sum += count * value;
                    }
                    sums[width] += count;
                }
            }
            sums
        };
        let all = sums(&|row| whole[row]);
        let mean = |sums: &[f64]| sums[1..width].iter().sum::<f64>() / k as f64 / sums[width];
        let gap = all[0] / all[width] - mean(&all);
        let (mut gain, mut span, mut used) = (0.0, 0.0, 0.0);
        for first in (0..SPLITS).map(|split| sums(&|row| halves[row][split])) {
            let second: Vec<f64> = all.iter().zip(&first).map(|(all, first)| all - first).collect();
            if first[width] == 0.0 || second[width] == 0.0 {
                continue;
            }
            for (choosing, measuring) in [(&first, &second), (&second, &first)] {
                let best = extremes(&choosing[1..width], 1.0);
                let worst = extremes(&choosing[1..width], -1.0);
                let measured = |tied: &[usize]| {
                    let sum: f64 = tied.iter().map(|treatment| measuring[1 + treatment]).sum();
                    sum / tied.len() as f64 / measuring[width]
                };
                gain += measured(&best) - mean(measuring);
                span += measured(&best) - measured(&worst);
                used += 1.0;
                if let Some(chosen) = &mut chosen {
                    best.iter()
                        .for_each(|treatment| chosen[*treatment] += 1.0 / best.len() as f64);
                }
            }
        }
        let (gain, span) = (gain / used, span / used);
        let rest = gap - gain;
        let lead = rest + span;
        // Where there is no gap, the part of it that is gained is unbounded.
        let ratio = |part: f64, whole: f64| match whole > 0.0 {
            true => part / whole,
            false => f64::INFINITY.copysign(part),
        };
        [gap, gain, span, rest, lead, ratio(gain, gap), ratio(span, lead)]
    }
}

/// Indexes of the highest sums, or with a sign of -1 of the lowest ones. Sums that differ only by rounding are equal.
fn extremes(sums: &[f64], sign: f64) -> Vec<usize> {
    let top = sums
        .iter()
        .map(|sum| sign * sum)
        .fold(f64::NEG_INFINITY, f64::max);
    (0..sums.len())
        .filter(|&index| sign * sums[index] > top - 1e-9)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTSTRAP: Bootstrap = Bootstrap {
        resamples: 300,
        seed: 0,
    };

    /// Draws verdicts on `units` units. A unit is safe with probability `reference` in the reference and with `chances`
    /// under the treatments. The draws of one unit are correlated, as verdicts on the same prompt are.
    fn design(units: usize, reference: f64, chances: &[f64], seed: u64) -> CrossedDesign {
        let mut random = Random::new(seed.wrapping_mul(0x1234_5678_9abc_def1) ^ 77);
        let mut uniform = || random.below(1 << 30) as f64 / f64::from(1 << 30);
        let mut crossed = CrossedDesign::new(chances.len());
        for _ in 0..units {
            let hard = uniform();
            let mut verdict = |chance: f64| {
                let own = if uniform() < 0.5 { hard } else { uniform() };
                f64::from(u8::from(own < chance))
            };
            let reference = verdict(reference);
            let values: Vec<f64> = chances.iter().map(|chance| verdict(*chance)).collect();
            crossed.push(reference, &values);
        }
        crossed
    }

    const SIMULATIONS: u64 = 400;

    fn simulate(chances: &[f64]) -> Vec<Choice> {
        let choices = (0..SIMULATIONS).map(|seed| design(400, 0.95, chances, seed).choose_best(BOOTSTRAP));
        choices.map(|choice| choice.expect("enough units")).collect()
    }

    /// Percentage of the simulations with such an interval in which it contains the truth.
    fn coverage(choices: &[Choice], of: impl Fn(&Choice) -> Option<Difference>, truth: f64) -> f64 {
        let found: Vec<_> = choices.iter().filter_map(of).collect();
        let hits = found.iter().filter(|one| one.interval.contains(truth)).count();
        100.0 * hits as f64 / found.len() as f64
    }

    fn mean_gain(choices: &[Choice]) -> f64 {
        choices.iter().map(|choice| choice.gain.estimate).sum::<f64>() / choices.len() as f64
    }

    #[test]
    fn a_clear_choice_is_measured_with_the_coverage_stated() {
        // The reference's proportion is 0.95, and the mean of the treatments is 0.8.
        let choices = simulate(&[0.9, 0.8, 0.7]);
        for (name, found) in [
            ("gap", coverage(&choices, |one| one.gap, 0.15)),
            ("gain", coverage(&choices, |one| Some(one.gain), 0.1)),
            ("span", coverage(&choices, |one| Some(one.span), 0.2)),
            ("rest", coverage(&choices, |one| one.rest, 0.05)),
            ("share", coverage(&choices, |one| one.share, 0.1 / 0.15)),
            (
                "share of worst",
                coverage(&choices, |one| one.share_of_worst, 0.8),
            ),
        ] {
            assert!((93.0..=97.0).contains(&found), "{name}: {found}");
        }
        assert!(choices.iter().all(|one| one.share.is_some()));
        assert!(
            (mean_gain(&choices) - 0.1).abs() < 0.003,
            "{}",
            mean_gain(&choices)
        );
    }

    /// The highest mean of three equal treatments leads the average by more than a point here. This is the luck of the
    /// choice, and must not be reported as a gain.
    #[test]
    fn equal_treatments_gain_nothing() {
        let choices = simulate(&[0.8, 0.8, 0.8]);
        assert!(mean_gain(&choices).abs() < 0.001, "{}", mean_gain(&choices));
        assert!(coverage(&choices, |one| Some(one.gain), 0.0) >= 95.0);
        assert!(coverage(&choices, |one| Some(one.span), 0.0) >= 95.0);
    }

    /// Half of the units do not always choose the best of close treatments. The estimate is about what they do choose.
    #[test]
    fn close_treatments_are_never_overrated() {
        let choices = simulate(&[0.9, 0.88, 0.88]);
        let mean = mean_gain(&choices);
        assert!((0.003..=0.04 / 3.0).contains(&mean), "{mean}");
        assert!(coverage(&choices, |one| Some(one.gain), mean) >= 95.0);
    }

    #[test]
    fn without_a_gap_no_part_of_it_is_gained() {
        let choice = design(200, 0.8, &[0.8, 0.8], 5)
            .choose_best(BOOTSTRAP)
            .expect("units");
        assert_eq!(choice.share, None);
        let mut crossed = CrossedDesign::new(2);
        for unit in 0..60 {
            crossed.push(f64::NAN, &[1.0, f64::from(u8::from(unit % 2 == 0))]);
        }
        let choice = crossed.choose_best(BOOTSTRAP).expect("units");
        assert_eq!((choice.gap, choice.rest, choice.share), (None, None, None));
        assert_eq!(choice.chosen, [1.0, 0.0]);
        assert!((choice.gain.estimate - 0.25).abs() < 0.01, "{choice:?}");
        assert!(
            design(MIN_UNITS - 1, 0.9, &[0.8, 0.8], 1)
                .choose_best(BOOTSTRAP)
                .is_none()
        );
    }

    #[test]
    fn treatments_that_are_the_same_share_the_choice() {
        let mut crossed = CrossedDesign::new(2);
        for unit in 0..40 {
            let value = f64::from(u8::from(unit % 4 > 0));
            crossed.push(1.0, &[value, value]);
        }
        let choice = crossed.choose_best(BOOTSTRAP).expect("units");
        assert_eq!((choice.gain.estimate, choice.gain.interval.high), (0.0, 0.0));
        assert_eq!(choice.chosen, [0.5, 0.5]);
        assert!((choice.share.expect("a gap").estimate).abs() < 1e-12);
    }
}
