//! Predicts how long a step takes, from the times of earlier steps.
//!
//! A step's time is modelled as `base + token * tokens + row * rows + attended * positions`: weights are read once per
//! step, matrix products grow with the tokens, the output layer and the sampler with the rows whose logits are read, and
//! attention with the cached positions that the new tokens attend to. The four coefficients are fitted by recursive
//! least squares on relative errors, with directional forgetting (Cao and Schwartz, "A directional forgetting algorithm
//! based on the decomposition of the information matrix", Automatica 36, 2000). A step makes the model forget only in
//! the direction that the step measures, so an hour of decoding does not change what prefill is known to cost.

use std::time::{Duration, Instant};

use crate::backend::CostPrior;

const COEFFICIENTS: usize = 4;

type Vector = [f64; COEFFICIENTS];
type Matrix = [[f64; COEFFICIENTS]; COEFFICIENTS];

/// Part of the information in a step's direction that is kept after the step. At 0.95, about the last twenty steps of a
/// kind count.
const MEMORY: f64 = 0.95;
/// Relative standard deviation of one step's time, which sets how much the prior counts.
const NOISE: f64 = 0.1;
/// Standard deviation of the prior's coefficients, relative to their values. Large models differ from the prior by about
/// this factor.
const PRIOR_DOUBT: f64 = 30.0;
/// Steps after which the fit is trusted more than the prior.
const WARM_STEPS: u32 = 16;
/// How long after the last prompt the lower bound of a prompt's cost is still used. After that the machine's load may
/// have changed.
const FRESH: Duration = Duration::from_secs(10);
/// How much the lowest ratio of a step's time to its prediction rises with each step, so that old low ratios are
/// forgotten.
const RECOVERY: f64 = 1.0 / 64.0;
/// Units in which tokens, rows and positions are counted, each about as many as a step has. Directional forgetting
/// depends on the scales of the features, so these must be similar.
const UNITS: Vector = [1.0, 64.0, 16.0, 65536.0];

/// The amounts of work in a step, or in one sequence's part of it, that its time depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StepShape {
    /// Tokens that are computed.
    pub tokens: usize,
    /// Rows whose logits are read: those of decodes and of prompts that end.
    pub rows: usize,
    /// Positions that the computed tokens attend to, summed over those tokens.
    pub attended: usize,
}

impl StepShape {
    /// The part of a sequence that has `context` tokens in the KV cache and computes `tokens` more.
    pub(crate) fn of(tokens: usize, context: usize, reads_logits: bool) -> Self {
        Self {
            tokens,
            rows: usize::from(reads_logits),
            attended: tokens * context + tokens * (tokens + 1) / 2,
        }
    }

    /// The sum of both.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens + other.tokens,
            rows: self.rows + other.rows,
            attended: self.attended + other.attended,
        }
    }

    /// What is left of a sum from which `part`, which is in it, is taken.
    pub(crate) fn minus(self, part: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_sub(part.tokens),
            rows: self.rows.saturating_sub(part.rows),
            attended: self.attended.saturating_sub(part.attended),
        }
    }

    fn features(self) -> Vector {
        [
            1.0,
            self.tokens as f64 / UNITS[1],
            self.rows as f64 / UNITS[2],
            self.attended as f64 / UNITS[3],
        ]
    }
}

/// Cost in seconds of a step, and of each unit of tokens, rows and positions in it. No cost is negative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct StepCosts(Vector);

impl StepCosts {
    /// Assumed before the first step.
    fn expected(prior: CostPrior) -> Self {
        let seconds = [prior.step, prior.token, prior.row, prior.positions].map(|time| time.as_secs_f64());
        let [base, token, row, positions] = seconds;
        Self([base, 64.0 * token, 16.0 * row, 64.0 * positions])
    }

    /// StepCosts with known coefficients: seconds per step, per token, per row and per 1024 positions.
    #[cfg(test)]
    pub(crate) const fn planted(seconds: [f64; 4]) -> Self {
        let [base, token, row, positions] = seconds;
        Self([base, 64.0 * token, 16.0 * row, 64.0 * positions])
    }

    /// Cost of a step without any tokens, in seconds.
    pub(crate) fn base(&self) -> f64 {
        self.0[0]
    }

    /// What a part adds to the cost of a step, in seconds.
    pub(crate) fn part(&self, shape: StepShape) -> f64 {
        self.step(shape) - self.base()
    }

    /// Cost of a whole step, in seconds.
    pub(crate) fn step(&self, shape: StepShape) -> f64 {
        dot(&self.0, &shape.features())
    }

    /// Most tokens that a sequence with `context` cached tokens can compute in `seconds`; at least one, and at most
    /// `limit`.
    pub(crate) fn max_tokens_within(&self, seconds: f64, context: usize, limit: usize) -> usize {
        let fits = |tokens: usize| self.part(StepShape::of(tokens, context, false)) <= seconds;
        if fits(limit) {
            return limit.max(1);
        }
        let (mut low, mut high) = (1, limit.max(1));
        while low + 1 < high {
            let middle = low.midpoint(high);
            if fits(middle) {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// The fitted model of step times.
#[derive(Debug, Clone)]
pub(crate) struct StepTimeModel {
    /// The coefficients before the first step.
    prior: StepCosts,
    costs: StepCosts,
    /// Inverse of the coefficients' covariance, in units of [`NOISE`].
    information: Matrix,
    /// Steps that were learned from.
    observed: u32,
    /// Lowest recent ratio of a step's time to its prediction.
    lowest_ratio: f64,
    /// When the last step ended in which most tokens were of prompts.
    prompt_seen: Option<Instant>,
}

impl StepTimeModel {
    /// The model before the first step.
    pub(crate) fn new(prior: CostPrior) -> Self {
        let prior = StepCosts::expected(prior);
        Self {
            prior,
            costs: prior,
            information: prior_information(prior),
            observed: 0,
            lowest_ratio: 1.0,
            prompt_seen: None,
        }
    }

    /// The coefficients that are fitted now.
    pub(crate) fn costs(&self) -> StepCosts {
        self.costs
    }

    /// A lower bound of what steps cost: the fitted costs times the lowest recent ratio of a step's time to its
    /// prediction. `None` before enough steps were observed, and when no prompt was computed in the last [`FRESH`],
    /// because no sequence is refused on an old prediction.
    pub(crate) fn lower_bound(&self, now: Instant) -> Option<StepCosts> {
        let seen = self.prompt_seen?;
        let known = self.observed >= WARM_STEPS && now.saturating_duration_since(seen) <= FRESH;
        known.then(|| StepCosts(self.costs.0.map(|cost| cost * self.lowest_ratio)))
    }

    /// Learns from a step that ended `now`, and returns the relative error of its prediction: |actual - predicted| over
    /// the larger of the two.
    pub(crate) fn observe(&mut self, shape: StepShape, actual: Duration, now: Instant) -> f64 {
        let actual = actual.as_secs_f64();
        let features = shape.features();
        let predicted = dot(&self.costs.0, &features);
        let larger = actual.max(predicted);
        if larger <= 0.0 {
            return 0.0;
        }
        let error = (actual - predicted) / larger;
        self.observed = self.observed.saturating_add(1);
        let ratio = actual / predicted.max(1e-9);
        self.lowest_ratio = ratio.min(self.lowest_ratio + RECOVERY).min(1.0);
        if shape.tokens >= 2 * shape.rows.max(1) {
            self.prompt_seen = Some(now);
        }
        // Relative to the larger of the two, so that a single step which something else delayed counts for little.
        let scaled = features.map(|feature| feature / larger);
        self.learn(&scaled, error);
        error.abs()
    }

    fn learn(&mut self, scaled: &Vector, error: f64) {
        let known = times(&self.information, scaled);
        let strength = dot(&known, scaled);
        if strength > 0.0 {
            for (row, a) in self.information.iter_mut().zip(known) {
                for (cell, b) in row.iter_mut().zip(known) {
                    *cell -= (1.0 - MEMORY) * a * b / strength;
                }
            }
        }
        for (row, a) in self.information.iter_mut().zip(scaled) {
            for (cell, b) in row.iter_mut().zip(scaled) {
                *cell += a * b;
            }
        }
        let gradient = scaled.map(|feature| feature * error);
        match solve(&self.information, &gradient) {
            Some(change) => {
                for (cost, change) in self.costs.0.iter_mut().zip(change) {
                    *cost = (*cost + change).max(0.0);
                }
            }
            // Rounding has made the matrix unusable: the coefficients are kept, and their certainty is that of the prior.
            None => self.information = prior_information(self.prior),
        }
    }
}

fn prior_information(prior: StepCosts) -> Matrix {
    let mut information = Matrix::default();
    for (index, cost) in prior.0.iter().enumerate() {
        information[index][index] = (NOISE / (PRIOR_DOUBT * cost)).powi(2);
    }
    information
}

fn dot(a: &Vector, b: &Vector) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn times(matrix: &Matrix, vector: &Vector) -> Vector {
    matrix.map(|row| dot(&row, vector))
}

/// Solves a symmetric positive definite system by Cholesky's method; `None` when the matrix is not positive definite.
fn solve(matrix: &Matrix, right: &Vector) -> Option<Vector> {
    let mut lower = Matrix::default();
    for i in 0..COEFFICIENTS {
        for j in 0..=i {
            let known: f64 = (0..j).map(|k| lower[i][k] * lower[j][k]).sum();
            let rest = matrix[i][j] - known;
            lower[i][j] = if i == j {
                if rest.is_nan() || rest <= 0.0 {
                    return None;
                }
                rest.sqrt()
            } else {
                rest / lower[j][j]
            };
        }
    }
    let mut solution = *right;
    for i in 0..COEFFICIENTS {
        let known: f64 = (0..i).map(|k| lower[i][k] * solution[k]).sum();
        solution[i] = (solution[i] - known) / lower[i][i];
    }
    for i in (0..COEFFICIENTS).rev() {
        let known: f64 = (i + 1..COEFFICIENTS).map(|k| lower[k][i] * solution[k]).sum();
        solution[i] = (solution[i] - known) / lower[i][i];
    }
    Some(solution)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sampler::uniform;

    const PLANTED: StepCosts = StepCosts::planted([6e-3, 1.4e-3, 1.2e-3, 4e-4]);

    fn step_of(costs: StepCosts, shape: StepShape, noise: f64) -> Duration {
        Duration::from_secs_f64(costs.step(shape) * (1.0 + noise))
    }

    /// A mix of decodes and prefill chunks that depends on the number of the step.
    fn mixed(step: u64) -> StepShape {
        let pick = |stream: u64, below: f64| (uniform(stream, step) * below) as usize;
        let most = if step.is_multiple_of(4) { 1.0 } else { 40.0 };
        let decodes = (0..pick(1, most)).map(|i| StepShape::of(1, 50 + 13 * i, true));
        let prefill =
            (pick(2, 2.0) > 0).then(|| StepShape::of(1 + pick(3, 200.0), pick(4, 900.0), pick(5, 2.0) > 0));
        decodes
            .chain(prefill)
            .fold(StepShape::of(1, 100, true), StepShape::plus)
    }

    fn noise(step: u64) -> f64 {
        0.2 * (uniform(99, step) - 0.5)
    }

    fn close(found: StepCosts, planted: StepCosts, tolerance: f64) {
        let probes = [
            StepShape::of(1, 60, true),
            StepShape::of(128, 768, true),
            (0..32).fold(StepShape::default(), |all, _| {
                all.plus(StepShape::of(1, 200, true))
            }),
        ];
        for shape in probes {
            let (found, planted) = (found.step(shape), planted.step(shape));
            assert!(
                (found / planted - 1.0).abs() < tolerance,
                "{shape:?}: {found} against {planted}"
            );
        }
    }

    #[test]
    fn planted_coefficients_are_found_through_noise() {
        let (mut model, now) = (StepTimeModel::new(CostPrior::SMALL_MACHINE), Instant::now());
        let mut late_errors = 0.0;
        assert_eq!(model.lower_bound(now), None);
        for step in 0..400 {
            let shape = mixed(step);
            let error = model.observe(shape, step_of(PLANTED, shape, noise(step)), now);
            late_errors += if step < 300 { 0.0 } else { error / 100.0 };
        }
        close(model.costs(), PLANTED, 0.06);
        // Steps took up to a tenth less than planted.
        let least = model.lower_bound(now).unwrap();
        let shape = StepShape::of(128, 768, true);
        assert!(
            (0.7..1.0).contains(&(least.step(shape) / PLANTED.step(shape))),
            "{least:?}"
        );
        assert!(late_errors < 0.08, "{late_errors}");
    }

    #[test]
    fn a_machine_fifty_times_slower_than_the_prior_is_learned_in_a_few_steps() {
        let slow = StepCosts(
            StepCosts::expected(CostPrior::SMALL_MACHINE)
                .0
                .map(|cost| 50.0 * cost),
        );
        let (mut model, now) = (StepTimeModel::new(CostPrior::SMALL_MACHINE), Instant::now());
        for step in 0..60 {
            let shape = mixed(step);
            model.observe(shape, step_of(slow, shape, 0.0), now);
        }
        close(model.costs(), slow, 0.15);
    }

    #[test]
    fn what_a_long_run_of_equal_steps_does_not_measure_is_not_forgotten() {
        let (mut model, now) = (StepTimeModel::new(CostPrior::SMALL_MACHINE), Instant::now());
        for step in 0..300 {
            let shape = mixed(step);
            model.observe(shape, step_of(PLANTED, shape, noise(step)), now);
        }
        let decodes = (0..32).fold(StepShape::default(), |all, _| {
            all.plus(StepShape::of(1, 200, true))
        });
        for step in 0..20_000 {
            model.observe(decodes, step_of(PLANTED, decodes, noise(step)), now);
        }
        close(model.costs(), PLANTED, 0.1);
    }

    #[test]
    fn a_change_of_speed_is_followed_and_a_single_hiccup_is_not() {
        let (mut model, now) = (StepTimeModel::new(CostPrior::SMALL_MACHINE), Instant::now());
        for step in 0..300 {
            let shape = mixed(step);
            model.observe(shape, step_of(PLANTED, shape, noise(step)), now);
        }
        model.observe(StepShape::of(1, 100, true), Duration::from_secs(10), now);
        close(model.costs(), PLANTED, 0.2);
        let slower = StepCosts(PLANTED.0.map(|cost| 2.0 * cost));
        for step in 300..600 {
            let shape = mixed(step);
            model.observe(shape, step_of(slower, shape, noise(step)), now);
        }
        close(model.costs(), slower, 0.2);
    }

    #[test]
    fn the_lower_bound_follows_a_faster_machine_at_once_and_is_forgotten_without_prompts() {
        let (mut model, now) = (StepTimeModel::new(CostPrior::SMALL_MACHINE), Instant::now());
        for step in 0..300 {
            let shape = mixed(step);
            model.observe(shape, step_of(PLANTED, shape, 0.0), now);
        }
        let prompt = StepShape::of(200, 0, true);
        let least = |model: &StepTimeModel, now| model.lower_bound(now).map(|costs| costs.step(prompt));
        let (planted, fifth) = (PLANTED.step(prompt), StepCosts(PLANTED.0.map(|cost| cost / 5.0)));
        assert!((least(&model, now).unwrap() / planted - 1.0).abs() < 0.05);
        let decodes = (0..32).fold(StepShape::default(), |all, _| {
            all.plus(StepShape::of(1, 200, true))
        });
        for step in 0..8 {
            let now = now + step * Duration::from_secs(1);
            model.observe(decodes, step_of(fifth, decodes, 0.0), now);
            let least = least(&model, now).unwrap();
            assert!(least < 0.35 * planted, "{step}: {least} of {planted}");
        }
        assert!(least(&model, now + FRESH).is_some());
        assert_eq!(
            least(&model, now + FRESH + Duration::from_secs(1)),
            None,
            "no prompt since"
        );
    }

    #[test]
    fn coefficients_are_never_negative_and_never_lost() {
        let (mut model, now) = (StepTimeModel::new(CostPrior::SMALL_MACHINE), Instant::now());
        for step in 0..5000u64 {
            // Times that do not depend on the shape; some are zero.
            let time = Duration::from_secs_f64(uniform(7, step).powi(8) * 100.0 * (step % 3) as f64);
            model.observe(mixed(step), time, now);
            assert!(
                model.costs.0.iter().all(|cost| cost.is_finite() && *cost >= 0.0),
                "{model:?}"
            );
        }
    }

    #[test]
    fn chunks_are_as_long_as_the_time_allows() {
        for (seconds, context, limit) in [
            (0.1, 0, 512),
            (0.1, 2000, 512),
            (0.02, 100, 512),
            (1e-9, 0, 9),
            (9.0, 0, 7),
        ] {
            let tokens = PLANTED.max_tokens_within(seconds, context, limit);
            assert!((1..=limit).contains(&tokens));
            let cost = |tokens| PLANTED.part(StepShape::of(tokens, context, false));
            assert!(tokens == 1 || cost(tokens) <= seconds);
            assert!(tokens == limit || cost(tokens + 1) > seconds);
        }
    }
}
