//! How long a step takes, learned from the steps that were taken.
//!
//! A step's time is modelled as `base + token * tokens + row * rows + attended * positions`: weights are read
//! once per step, products grow with the tokens, the output layer and the sampler with the rows whose logits
//! are read, attention with the cached positions that the new tokens look at. The four coefficients are fitted
//! by recursive least squares on relative errors, with directional forgetting (Cao and Schwartz, "A directional
//! forgetting algorithm based on the decomposition of the information matrix", Automatica 36, 2000): only what a
//! step says something about is forgotten, so an hour of decoding does not unlearn what prefill costs.

use std::time::{Duration, Instant};

use crate::backend::CostPrior;

const COEFFICIENTS: usize = 4;

type Vector = [f64; COEFFICIENTS];
type Matrix = [[f64; COEFFICIENTS]; COEFFICIENTS];

/// How much of what is known about a step's direction outlasts it: about the last twenty such steps count.
const MEMORY: f64 = 0.95;
/// Relative noise of one step's time, against which the prior is weighed.
const NOISE: f64 = 0.1;
/// The prior's standard deviation, relative to its values: large models are that far off.
const PRIOR_DOUBT: f64 = 30.0;
/// Steps until the fit is more than its prior.
const WARM_STEPS: u32 = 16;
/// So long after the last prompt the forecast no longer says what prompts cost at least: the machine may have other
/// work by then, or none.
const FRESH: Duration = Duration::from_secs(10);
/// By how much of the forecast a step may still be shorter than it after each step that was not.
const RECOVERY: f64 = 1.0 / 64.0;
/// Tokens, rows and positions are counted in units of about as many as a step has: what is forgotten depends on
/// the scales, and so they must be alike.
const UNITS: Vector = [1.0, 64.0, 16.0, 65536.0];

/// What a step, or one sequence's part of it, consists of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shape {
    /// New tokens.
    pub tokens: usize,
    /// Rows whose logits are read: decodes, and prompts that end.
    pub rows: usize,
    /// Positions that the new tokens attend to, summed over the new tokens.
    pub attended: usize,
}

impl Shape {
    /// The part of a sequence that has `context` tokens in its cache and gets `tokens` more.
    pub fn of(tokens: usize, context: usize, reads_logits: bool) -> Self {
        Self {
            tokens,
            rows: usize::from(reads_logits),
            attended: tokens * context + tokens * (tokens + 1) / 2,
        }
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens + other.tokens,
            rows: self.rows + other.rows,
            attended: self.attended + other.attended,
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

/// What a step, and each unit of tokens, rows and positions in it, costs in seconds; none is negative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Costs(Vector);

impl Costs {
    /// What a device's steps are expected to cost before any has been measured.
    fn expected(prior: CostPrior) -> Self {
        let seconds = [prior.step, prior.token, prior.row, prior.positions].map(|time| time.as_secs_f64());
        let [step, token, row, positions] = seconds;
        Self([step, 64.0 * token, 16.0 * row, 64.0 * positions])
    }

    /// Seconds per step, token, row and 1024 positions.
    #[cfg(test)]
    pub const fn planted([base, token, row, positions]: [f64; 4]) -> Self {
        Self([base, 64.0 * token, 16.0 * row, 64.0 * positions])
    }

    /// What every step costs, whatever is in it.
    pub fn base(&self) -> f64 {
        self.0[0]
    }

    /// What a part adds to a step.
    pub fn part(&self, shape: Shape) -> f64 {
        self.step(shape) - self.base()
    }

    /// A whole step.
    pub fn step(&self, shape: Shape) -> f64 {
        dot(&self.0, &shape.features())
    }

    /// Most tokens that a sequence with `context` cached ones can be given for `seconds`, at most `limit`
    /// and at least one.
    pub fn affordable(&self, seconds: f64, context: usize, limit: usize) -> usize {
        let fits = |tokens: usize| self.part(Shape::of(tokens, context, false)) <= seconds;
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

/// The model of step times.
#[derive(Debug, Clone)]
pub struct Forecast {
    prior: Costs,
    costs: Costs,
    /// Inverse of the coefficients' covariance, in units of [`NOISE`].
    information: Matrix,
    observed: u32,
    /// The smallest ratio of a step's time to its forecast, slowly forgotten.
    luck: f64,
    /// When the last step with a good part of a prompt ended.
    prompt_seen: Option<Instant>,
}

impl Forecast {
    /// Without any steps yet.
    pub fn new(prior: CostPrior) -> Self {
        let prior = Costs::expected(prior);
        Self {
            prior,
            costs: prior,
            information: prior_information(prior),
            observed: 0,
            luck: 1.0,
            prompt_seen: None,
        }
    }

    /// The coefficients as of now.
    pub fn costs(&self) -> Costs {
        self.costs
    }

    /// What steps cost at least, if enough is known, and recently: as little as the luckiest of the last steps did,
    /// each against its forecast. Nothing that a forecast says is held against anybody for longer than [`FRESH`]
    /// without a prompt that confirmed it.
    pub fn least(&self, now: Instant) -> Option<Costs> {
        let seen = self.prompt_seen?;
        let known = self.observed >= WARM_STEPS && now.saturating_duration_since(seen) <= FRESH;
        known.then(|| Costs(self.costs.0.map(|cost| cost * self.luck)))
    }

    /// Learns from a step that ended `now`; returns the relative error of what was predicted: |actual - predicted|
    /// over the larger of the two.
    pub fn observe(&mut self, shape: Shape, actual: Duration, now: Instant) -> f64 {
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
        self.luck = ratio.min(self.luck + RECOVERY).min(1.0);
        if shape.tokens >= 2 * shape.rows.max(1) {
            self.prompt_seen = Some(now);
        }
        // Relative to the larger of the two, so one step that something else held up counts for little.
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
            // Lost to rounding: the coefficients stay, their certainty starts anew.
            None => self.information = prior_information(self.prior),
        }
    }
}

fn prior_information(prior: Costs) -> Matrix {
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

/// Solves a symmetric positive definite system by Cholesky's method; `None` when it is not positive definite.
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

    const PLANTED: Costs = Costs::planted([6e-3, 1.4e-3, 1.2e-3, 4e-4]);

    fn step_of(costs: Costs, shape: Shape, noise: f64) -> Duration {
        Duration::from_secs_f64(costs.step(shape) * (1.0 + noise))
    }

    /// A mix of decodes and chunks, from the number of the step.
    fn mixed(step: u64) -> Shape {
        let pick = |stream: u64, below: f64| (uniform(stream, step) * below) as usize;
        let most = if step.is_multiple_of(4) { 1.0 } else { 40.0 };
        let decodes = (0..pick(1, most)).map(|i| Shape::of(1, 50 + 13 * i, true));
        let prefill =
            (pick(2, 2.0) > 0).then(|| Shape::of(1 + pick(3, 200.0), pick(4, 900.0), pick(5, 2.0) > 0));
        decodes.chain(prefill).fold(Shape::of(1, 100, true), Shape::plus)
    }

    fn noise(step: u64) -> f64 {
        0.2 * (uniform(99, step) - 0.5)
    }

    fn close(found: Costs, planted: Costs, tolerance: f64) {
        let probes = [
            Shape::of(1, 60, true),
            Shape::of(128, 768, true),
            (0..32).fold(Shape::default(), |all, _| all.plus(Shape::of(1, 200, true))),
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
        let (mut forecast, now) = (Forecast::new(CostPrior::SMALL_MACHINE), Instant::now());
        let mut late_errors = 0.0;
        assert_eq!(forecast.least(now), None);
        for step in 0..400 {
            let shape = mixed(step);
            let error = forecast.observe(shape, step_of(PLANTED, shape, noise(step)), now);
            late_errors += if step < 300 { 0.0 } else { error / 100.0 };
        }
        close(forecast.costs(), PLANTED, 0.06);
        // Steps took down to a tenth less than was planted.
        let least = forecast.least(now).unwrap();
        let shape = Shape::of(128, 768, true);
        assert!(
            (0.7..1.0).contains(&(least.step(shape) / PLANTED.step(shape))),
            "{least:?}"
        );
        assert!(late_errors < 0.08, "{late_errors}");
    }

    #[test]
    fn a_machine_fifty_times_slower_than_the_prior_is_learned_in_a_few_steps() {
        let slow = Costs(
            Costs::expected(CostPrior::SMALL_MACHINE)
                .0
                .map(|cost| 50.0 * cost),
        );
        let (mut forecast, now) = (Forecast::new(CostPrior::SMALL_MACHINE), Instant::now());
        for step in 0..60 {
            let shape = mixed(step);
            forecast.observe(shape, step_of(slow, shape, 0.0), now);
        }
        close(forecast.costs(), slow, 0.15);
    }

    #[test]
    fn what_a_long_monotony_says_nothing_about_is_not_forgotten() {
        let (mut forecast, now) = (Forecast::new(CostPrior::SMALL_MACHINE), Instant::now());
        for step in 0..300 {
            let shape = mixed(step);
            forecast.observe(shape, step_of(PLANTED, shape, noise(step)), now);
        }
        let decodes = (0..32).fold(Shape::default(), |all, _| all.plus(Shape::of(1, 200, true)));
        for step in 0..20_000 {
            forecast.observe(decodes, step_of(PLANTED, decodes, noise(step)), now);
        }
        close(forecast.costs(), PLANTED, 0.1);
    }

    #[test]
    fn a_change_of_speed_is_followed_and_a_single_hiccup_is_not() {
        let (mut forecast, now) = (Forecast::new(CostPrior::SMALL_MACHINE), Instant::now());
        for step in 0..300 {
            let shape = mixed(step);
            forecast.observe(shape, step_of(PLANTED, shape, noise(step)), now);
        }
        forecast.observe(Shape::of(1, 100, true), Duration::from_secs(10), now);
        close(forecast.costs(), PLANTED, 0.2);
        let slower = Costs(PLANTED.0.map(|cost| 2.0 * cost));
        for step in 300..600 {
            let shape = mixed(step);
            forecast.observe(shape, step_of(slower, shape, noise(step)), now);
        }
        close(forecast.costs(), slower, 0.2);
    }

    #[test]
    fn what_is_least_follows_a_machine_that_gets_faster_at_once_and_is_forgotten_without_prompts() {
        let (mut forecast, now) = (Forecast::new(CostPrior::SMALL_MACHINE), Instant::now());
        for step in 0..300 {
            let shape = mixed(step);
            forecast.observe(shape, step_of(PLANTED, shape, 0.0), now);
        }
        let prompt = Shape::of(200, 0, true);
        let least = |forecast: &Forecast, now| forecast.least(now).map(|costs| costs.step(prompt));
        let (planted, fifth) = (PLANTED.step(prompt), Costs(PLANTED.0.map(|cost| cost / 5.0)));
        assert!((least(&forecast, now).unwrap() / planted - 1.0).abs() < 0.05);
        let decodes = (0..32).fold(Shape::default(), |all, _| all.plus(Shape::of(1, 200, true)));
        for step in 0..8 {
            let now = now + step * Duration::from_secs(1);
            forecast.observe(decodes, step_of(fifth, decodes, 0.0), now);
            let least = least(&forecast, now).unwrap();
            assert!(least < 0.35 * planted, "{step}: {least} of {planted}");
        }
        assert!(least(&forecast, now + FRESH).is_some());
        assert_eq!(
            least(&forecast, now + FRESH + Duration::from_secs(1)),
            None,
            "no prompt since"
        );
    }

    #[test]
    fn coefficients_are_never_negative_and_never_lost() {
        let (mut forecast, now) = (Forecast::new(CostPrior::SMALL_MACHINE), Instant::now());
        for step in 0..5000u64 {
            // Times that have nothing to do with the shape, zero among them.
            let time = Duration::from_secs_f64(uniform(7, step).powi(8) * 100.0 * (step % 3) as f64);
            forecast.observe(mixed(step), time, now);
            assert!(
                forecast
                    .costs
                    .0
                    .iter()
                    .all(|cost| cost.is_finite() && *cost >= 0.0),
                "{forecast:?}"
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
            let tokens = PLANTED.affordable(seconds, context, limit);
            assert!((1..=limit).contains(&tokens));
            let cost = |tokens| PLANTED.part(Shape::of(tokens, context, false));
            assert!(tokens == 1 || cost(tokens) <= seconds);
            assert!(tokens == limit || cost(tokens + 1) > seconds);
        }
    }
}
