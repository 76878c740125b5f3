//! What a device is and can do.

use std::time::Duration;

use crate::model::spec::Precision;

/// What a device is and can do, as the registry, provenance and `doctor` need to know it.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceInfo {
    /// Its name in settings and provenance, for example `cpu`.
    pub name: String,
    /// The instruction set or architecture that it computes with, for example `amx`.
    pub architecture: String,
    /// The fastest precision for models whose work is prompts, such as guards.
    pub best_for_judging: Precision,
    /// The fastest precision for models whose work is answers, a token of each sequence at a time.
    pub best_for_answering: Precision,
    /// Which results are equal to the bit.
    pub determinism: Determinism,
    /// What a step costs before any has been measured.
    pub cost_prior: CostPrior,
}

/// Which results of a device are equal to the bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Determinism {
    /// A sequence's results do not depend on what else is in the batch, on how its prompt is cut into chunks, or on what
    /// is found in the cache.
    BatchInvariant,
    /// The same batch gives the same results, but a sequence's results may differ in their last bits with its company.
    BestEffort,
}

/// What a step is expected to cost before the first steps have been measured. Slower than the device is means that the
/// first steps are planned short rather than long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CostPrior {
    /// Time of any step, however small.
    pub step: Duration,
    /// Time that each new token adds.
    pub token: Duration,
    /// Time that each row whose logits are read adds.
    pub row: Duration,
    /// Time that each 1,024 positions add that new tokens attend to.
    pub positions: Duration,
}

impl CostPrior {
    /// Slower than a model of a hundred million parameters on two cores.
    pub const SMALL_MACHINE: Self = Self {
        step: Duration::from_millis(5),
        token: Duration::from_millis(2),
        row: Duration::from_millis(2),
        positions: Duration::from_micros(50),
    };
}
