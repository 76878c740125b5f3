//! What choosing the best of several treatments gains, without the luck of the choice. The highest of several means is
//! too high by chance, so the best treatment is chosen on one half of the units and measured on the other.

use serde::{Deserialize, Serialize};

use super::{
    Difference, Interval,
    bootstrap::{Bootstrap, percentiles, replicates},
    crossed::Crossed,
};
use crate::random::Random;

/// Random ways to halve the units in each round: bits of a word.
const SPLITS: usize = 32;

/// Rounds of splits behind an estimate; a resample has one.
const ROUNDS: usize = 16;

/// Fewest units that are worth halving.
const MIN_UNITS: usize = 20;

/// Fewest units that differ from the reference under some treatment behind a share of the gap. The bootstrap does not see
/// how uncertain a gap of a handful is.
const MIN_DIFFERING: usize = 10;

/// Estimates over units. Shares are in [0, 1], so that differences are in [-1, 1]; a higher value is better.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The reference less the mean of all treatments; absent without a reference.
    pub gap: Option<Difference>,
    /// The chosen treatment less the mean of all treatments.
    pub gain: Difference,
    /// The treatment chosen as best less the one chosen as worst.
    pub span: Difference,
    /// The reference less the chosen treatment.
    pub rest: Option<Difference>,
    /// `gain / gap`; absent unless the gap's whole interval is above 0, and 10 units or more differ from the reference.
    pub share: Option<Difference>,
    /// `span` of the reference's lead over the treatment chosen as worst; absent likewise.
    pub share_of_worst: Option<Difference>,
    /// In which share of the halves each treatment was chosen as best; equal ones share.
    pub chosen: Vec<f64>,
}

impl Choice {
    /// Everything times a positive factor: shares to points and percent.
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
            chosen: self.chosen.iter().map(|share| factor * share).collect(),
        }
    }
}

/// gap, gain, span, rest, lead over the worst, and the two shares.
type Figures = [f64; 7];

impl Crossed {
    /// Estimates by cross-fitting: over many seeded random halves, either half chooses and the other measures. The
    /// intervals are those of the bootstrap over units, where all copies of a unit stand in the same half; they are
    /// about the treatment that half the units would choose. `None` with fewer than two treatments or 20 units.
    pub fn choice(&self, bootstrap: Bootstrap) -> Option<Choice> {
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
        let of = |estimate: f64, interval: Option<Interval>| {
            let interval = interval.filter(|_| !estimate.is_nan())?;
            Some(Difference { estimate, interval })
        };
        let differing = self
            .distinct()
            .filter(|(row, _)| row[1..].iter().any(|value| *value != row[0]));
        let enough = differing.map(|(_, count)| count).sum::<usize>() >= MIN_DIFFERING;
        let positive = |difference: &Difference| enough && difference.interval.low > 0.0;
        let gap = of(gap, intervals[0]);
        let lead = of(lead, intervals[4]);
        Some(Choice {
            gain: of(gain, intervals[1])?,
            span: of(span, intervals[2])?,
            rest: of(rest, intervals[3]),
            share: gap
                .filter(positive)
                .and_then(|gap| of(gain / gap.estimate, intervals[5])),
            share_of_worst: lead
                .filter(positive)
                .and_then(|lead| of(span / lead.estimate, intervals[6])),
            gap,
            chosen,
        })
    }

    /// Over units, each as often as it is listed, and `SPLITS` ways to halve them that the salt decides.
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
        // Sums over counted rows; the last is how many units there are.
        let sums = |count: &dyn Fn(usize) -> u32| {
            let mut sums = vec![0.0; width + 1];
            for (place, row) in self.rows.chunks_exact(width).enumerate() {
                let count = f64::from(count(place));
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
                let best = ends(&choosing[1..width], 1.0);
                let worst = ends(&choosing[1..width], -1.0);
                let measured = |those: &[usize]| {
                    let sum: f64 = those.iter().map(|place| measuring[1 + place]).sum();
                    sum / those.len() as f64 / measuring[width]
                };
                gain += measured(&best) - mean(measuring);
                span += measured(&best) - measured(&worst);
                used += 1.0;
                if let Some(chosen) = &mut chosen {
                    best.iter()
                        .for_each(|place| chosen[*place] += 1.0 / best.len() as f64);
                }
            }
        }
        let (gain, span) = (gain / used, span / used);
        let rest = gap - gain;
        let lead = rest + span;
        // Where the gap is gone, the share of it is without limit.
        let share = |part: f64, whole: f64| match whole > 0.0 {
            true => part / whole,
            false => f64::INFINITY.copysign(part),
        };
        [gap, gain, span, rest, lead, share(gain, gap), share(span, lead)]
    }
}

/// The places of the highest sums, or with -1 of the lowest. Sums that differ by rounding alone are equal.
fn ends(sums: &[f64], sign: f64) -> Vec<usize> {
    let top = sums
        .iter()
        .map(|sum| sign * sum)
        .fold(f64::NEG_INFINITY, f64::max);
    (0..sums.len())
        .filter(|&place| sign * sums[place] > top - 1e-9)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTSTRAP: Bootstrap = Bootstrap {
        resamples: 300,
        seed: 0,
    };

    /// Verdicts on `units`: safe by the reference with `reference`, and by each treatment with its chance; a unit's draws
    /// hang together, as verdicts on the same prompt do.
    fn drawn(units: usize, reference: f64, chances: &[f64], seed: u64) -> Crossed {
        let mut random = Random::new(seed.wrapping_mul(0x1234_5678_9abc_def1) ^ 77);
        let mut share = || random.below(1 << 30) as f64 / f64::from(1 << 30);
        let mut crossed = Crossed::new(chances.len());
        for _ in 0..units {
            let hard = share();
            let mut verdict = |chance: f64| {
                let own = if share() < 0.5 { hard } else { share() };
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
        let choices = (0..SIMULATIONS).map(|seed| drawn(400, 0.95, chances, seed).choice(BOOTSTRAP));
        choices.map(|choice| choice.expect("enough units")).collect()
    }

    /// In how many percent of the simulations with such an interval it holds the truth.
    fn coverage(choices: &[Choice], of: impl Fn(&Choice) -> Option<Difference>, truth: f64) -> f64 {
        let found: Vec<_> = choices.iter().filter_map(of).collect();
        let hits = found.iter().filter(|one| one.interval.holds(truth)).count();
        100.0 * hits as f64 / found.len() as f64
    }

    fn mean_gain(choices: &[Choice]) -> f64 {
        choices.iter().map(|choice| choice.gain.estimate).sum::<f64>() / choices.len() as f64
    }

    #[test]
    fn a_clear_choice_is_measured_with_the_coverage_stated() {
        // The reference's share is 0.95, the mean of the others 0.8.
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

    /// The highest mean of three equal treatments leads the average by more than a point here: that is the luck of the
    /// choice, and no gain.
    #[test]
    fn equal_treatments_gain_nothing() {
        let choices = simulate(&[0.8, 0.8, 0.8]);
        assert!(mean_gain(&choices).abs() < 0.001, "{}", mean_gain(&choices));
        assert!(coverage(&choices, |one| Some(one.gain), 0.0) >= 95.0);
        assert!(coverage(&choices, |one| Some(one.span), 0.0) >= 95.0);
    }

    /// Half the units do not always choose the best of close treatments: the estimate is about what they choose.
    #[test]
    fn close_treatments_are_never_overrated() {
        let choices = simulate(&[0.9, 0.88, 0.88]);
        let mean = mean_gain(&choices);
        assert!((0.003..=0.04 / 3.0).contains(&mean), "{mean}");
        assert!(coverage(&choices, |one| Some(one.gain), mean) >= 95.0);
    }

    #[test]
    fn without_a_gap_there_is_no_share() {
        let choice = drawn(200, 0.8, &[0.8, 0.8], 5).choice(BOOTSTRAP).expect("units");
        assert_eq!(choice.share, None);
        let mut crossed = Crossed::new(2);
        for unit in 0..60 {
            crossed.push(f64::NAN, &[1.0, f64::from(u8::from(unit % 2 == 0))]);
        }
        let choice = crossed.choice(BOOTSTRAP).expect("units");
        assert_eq!((choice.gap, choice.rest, choice.share), (None, None, None));
        assert_eq!(choice.chosen, [1.0, 0.0]);
        assert!((choice.gain.estimate - 0.25).abs() < 0.01, "{choice:?}");
        assert!(
            drawn(MIN_UNITS - 1, 0.9, &[0.8, 0.8], 1)
                .choice(BOOTSTRAP)
                .is_none()
        );
    }

    #[test]
    fn treatments_that_are_the_same_share_the_choice() {
        let mut crossed = Crossed::new(2);
        for unit in 0..40 {
            let value = f64::from(u8::from(unit % 4 > 0));
            crossed.push(1.0, &[value, value]);
        }
        let choice = crossed.choice(BOOTSTRAP).expect("units");
        assert_eq!((choice.gain.estimate, choice.gain.interval.high), (0.0, 0.0));
        assert_eq!(choice.chosen, [0.5, 0.5]);
        assert!((choice.share.expect("a gap").estimate).abs() < 1e-12);
    }
}
