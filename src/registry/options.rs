//! What the registry is started with.

use std::sync::Arc;

use super::{
    budget::{KvSize, KvSizing},
    error::RegistryError,
    loader::{self, ModelGroup, Placement, PlacementDevice},
    model::ModelSpec,
};
use crate::{
    backend::{Backend, BatchLimits, DeviceInfo},
    engine::EngineConfig,
    guard::Policy,
    model::spec::PrecisionChoice,
};

/// Everything [`Registry::prepare`](super::Registry::prepare) needs.
#[derive(Clone)]
pub struct RegistryOptions {
    /// The models to serve; at least one. Ids with the same canonical path, device and precision share one resident model.
    pub models: Vec<ModelSpec>,
    /// Upper limit on the context window, in tokens. A model's own window counts where it is shorter.
    pub max_context: Option<usize>,
    /// The precision of models whose [`ModelSpec::precision`] is absent.
    pub precision: PrecisionChoice,
    /// What loads and computes models: one for each of [`StartOptions::devices`], in the same order.
    pub backends: Vec<Arc<dyn Backend>>,
    /// Everything that does not depend on where the models come from.
    pub start: StartOptions,
}

impl RegistryOptions {
    /// Puts the models into groups that are loaded as one.
    pub(super) fn groups(&self) -> Result<Vec<ModelGroup>, RegistryError> {
        let devices = self.backends.iter().zip(&self.start.devices);
        let devices = devices.map(|(backend, options)| PlacementDevice {
            backend: Arc::clone(backend),
            batch: options.batch_limits(),
        });
        let placement = Placement {
            max_context: self.max_context,
            precision: self.precision,
            devices: devices.collect(),
        };
        loader::group(self.models.clone(), &placement)
    }
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
    /// The devices that models are loaded onto; at least one.
    pub devices: Vec<DeviceOptions>,
}

/// What a device may be used for.
#[derive(Debug, Clone)]
pub struct DeviceOptions {
    /// What it is and can do.
    pub info: DeviceInfo,
    /// How much of its memory models may take.
    pub memory: MemoryOptions,
    /// Limits of its engine.
    pub engine: EngineConfig,
}

impl DeviceOptions {
    /// The largest batches that its engine makes.
    pub(super) fn batch_limits(&self) -> BatchLimits {
        BatchLimits {
            sequences: self.engine.max_batch_sequences,
            tokens: self.engine.max_batch_tokens,
        }
    }

    /// How large its KV pools are.
    pub(super) fn kv_sizing(&self) -> KvSizing {
        KvSizing {
            size: self.memory.kv,
            batch_sequences: self.engine.max_batch_sequences,
        }
    }
}

/// How much memory models may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryOptions {
    /// Bytes of weights, KV pools and buffers, of all models of the device together.
    pub budget: u64,
    /// Size of each KV pool.
    pub kv: KvSize,
}
