//! What a device is and can do.

use std::time::Duration;

use crate::model::spec::{DeviceName, Precision};

/// What a device is and can do, as the registry, provenance and `doctor` need to know it.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceInfo {
    /// Its name in settings and provenance.
    pub name: DeviceName,
    /// The instruction set or architecture that it computes with, for example `amx`.
    pub architecture: String,
    /// The fastest precision.
    pub best_precision: Precision,
    /// Which results are equal to the bit, as far as that is known before a model is loaded;
    /// [`LoadedModel::determinism`](super::LoadedModel::determinism) says it of a model.
    pub determinism: Determinism,
    /// Whether the host can work while a step is computed.
    pub execution: Execution,
    /// What a step is expected to cost before any has been measured.
    pub cost_prior: CostPrior,
}

/// The memory of a device that has memory of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// All of its bytes.
    pub total: u64,
    /// Bytes that can still be had. What the driver and this process have taken already does not count.
    pub free: u64,
}

/// Which results of a device are equal to the bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Determinism {
    /// A sequence's results do not depend on what else is in the batch, on how its prompt is cut into chunks, or on how
    /// much of it is found in the prefix cache.
    BatchInvariant,
    /// The same batch gives the same results, but the last bits of a sequence's results may depend on what else is in the
    /// batch.
    BestEffort,
}

/// Whether the host can work while a device computes a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Execution {
    /// The thread that submits a step computes it: [`LanguageModel::submit`](super::LanguageModel::submit) returns when the
    /// step is done. So an engine has one step under way at a time.
    Synchronous,
    /// The device computes by itself: [`LanguageModel::submit`](super::LanguageModel::submit) returns at once, and
    /// [`LanguageModel::wait`](super::LanguageModel::wait) waits for the step. An engine may submit steps of several models
    /// before it waits for the first.
    Asynchronous,
}

/// What a step is expected to cost before the first steps have been measured. It is better too slow than too fast: then the
/// first steps are planned short rather than long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CostPrior {
    /// Time that every step takes, however small it is.
    pub step: Duration,
    /// Time that each new token adds.
    pub token: Duration,
    /// Time that each row adds whose logits are computed.
    pub row: Duration,
    /// Time that each 1,024 pairs of a new token and a position that it attends to add.
    pub positions: Duration,
}

impl CostPrior {
    /// Costs above those of a model of a hundred million parameters on two cores.
    pub const SMALL_MACHINE: Self = Self {
        step: Duration::from_millis(5),
        token: Duration::from_millis(2),
        row: Duration::from_millis(2),
        positions: Duration::from_micros(50),
    };
}
