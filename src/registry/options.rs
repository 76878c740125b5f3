//! What the registry is started with.

use super::{budget::KvSize, model::ModelSpec};
use crate::{
    engine::EngineConfig,
    guard::Policy,
    kernels::{Bf16Products, PrecisionChoice},
    model::load::LoadOptions,
};

/// Everything [`Registry::prepare`](super::Registry::prepare) needs.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// The models to serve; at least one. Ids with the same canonical path and precision share one resident model.
    pub models: Vec<ModelSpec>,
    /// How models are loaded. The registry overrides the size of the KV pool and the precision.
    pub load: LoadOptions,
    /// The precision of models whose [`ModelSpec::precision`] is absent.
    pub precision: PrecisionChoice,
    /// How this processor multiplies bf16 operands, which decides what [`PrecisionChoice::Auto`] chooses.
    pub bf16_products: Bf16Products,
    /// Everything that does not depend on where the models come from.
    pub start: StartOptions,
}

/// What [`Registry::prepare_groups`](super::Registry::prepare_groups) needs besides models.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// The target for requests that name none; the first target when absent.
    pub default_target: Option<String>,
    /// The guard for requests that name none; the first guard when absent.
    pub default_guard: Option<String>,
    /// The quality estimator for requests that name none; the first one when absent.
    pub default_quality: Option<String>,
    /// The policies by which requests may let guards judge. Each name occurs once.
    pub policies: Vec<Policy>,
    /// How much memory models may take.
    pub memory: MemoryOptions,
    /// Limits of the engine.
    pub engine: EngineConfig,
}

/// How much memory models may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryOptions {
    /// Bytes of weights, KV pools and buffers, of all models together.
    pub budget: u64,
    /// Size of each KV pool.
    pub kv: KvSize,
}
