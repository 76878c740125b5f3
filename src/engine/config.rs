//! The limits that an engine is started with, and its clock.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{driver::Driver, tenant::TenantWeights};
use crate::backend::{CostPrior, Execution, ModelLimits};

/// Reads the time. Tests start engines with a clock that they move themselves.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Instant + Send + Sync>);

impl Clock {
    /// A clock that reads the time by calling `now`.
    pub fn new(now: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The current time.
    pub(super) fn now(&self) -> Instant {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(Instant::now)
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// The limits of an engine, over all its models unless a field says otherwise.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Name of the engine's thread, for example `engine-cpu`.
    pub name: String,
    /// Names of the models in metrics, in the order of the models. A model beyond the list is named by its index.
    pub model_names: Vec<String>,
    /// Most sequences in one forward pass, which is also the most that hold KV blocks at the same time. Values above
    /// `max_batch_tokens` are treated as `max_batch_tokens`.
    pub max_batch_sequences: usize,
    /// Most tokens in one forward pass, prefill chunks and decodes together.
    pub max_batch_tokens: usize,
    /// Most sequences waiting to start.
    pub queue_items: usize,
    /// Most prompt tokens waiting to start. A longer prompt is accepted when nothing else waits.
    pub queue_tokens: usize,
    /// Longest time that a step without urgent work is planned to take. Without it, steps are as large as the batch
    /// limits allow, and priority classes only decide the order.
    pub step_target: Option<Duration>,
    /// What steps are expected to cost before any has been measured.
    pub cost_prior: CostPrior,
    /// Whether the device computes while the engine's thread goes on, so that steps of two models may be under way.
    pub execution: Execution,
    /// Tenants with an account of their own, and their weights.
    pub tenant_weights: TenantWeights,
    /// The clock that the engine reads.
    pub clock: Clock,
    /// Who lets it take its turns.
    pub driver: Driver,
}

impl EngineConfig {
    /// Refuses limits of zero.
    pub(super) fn check(&self) -> io::Result<()> {
        not_zero(&[
            ("max_batch_sequences", self.max_batch_sequences),
            ("max_batch_tokens", self.max_batch_tokens),
            ("queue_items", self.queue_items),
            ("queue_tokens", self.queue_tokens),
        ])
    }
}

/// Refuses model limits of zero, and more KV blocks than a block id can name.
pub(super) fn check_model_limits(limits: &ModelLimits) -> io::Result<()> {
    not_zero(&[
        ("vocab_size", limits.vocab_size),
        ("context_length", limits.context_length),
        ("block_size", limits.block_size),
        ("num_blocks", limits.num_blocks),
    ])?;
    if u32::try_from(limits.num_blocks).is_err() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "num_blocks must fit into 32 bits",
        ));
    }
    Ok(())
}

fn not_zero(fields: &[(&str, usize)]) -> io::Result<()> {
    match fields.iter().find(|(_, value)| *value == 0) {
        Some((name, _)) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name} must be at least 1"),
        )),
        None => Ok(()),
    }
}
