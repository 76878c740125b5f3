//! Devices that models are loaded onto, each with an engine of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{KvSize, MemoryOptions, Need};
use crate::{
    backend::{BatchLimits, DeviceInfo, Footprint},
    engine::{self, EngineConfig, EngineHandle, EngineThread},
};

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
    pub fn batch_limits(&self) -> BatchLimits {
        BatchLimits {
            sequences: self.engine.max_batch_sequences,
            tokens: self.engine.max_batch_tokens,
        }
    }

    /// What a model needs there.
    pub(super) fn need(&self, footprint: &Footprint) -> Need {
        Need::new(footprint, self.memory.kv, self.engine.max_batch_sequences)
    }
}

/// A device with its running engine.
pub(super) struct Device {
    pub(super) info: Arc<DeviceInfo>,
    pub(super) engine: EngineHandle,
    /// Limits of the engine.
    pub(super) config: EngineConfig,
    kv: KvSize,
    thread: Mutex<Option<EngineThread>>,
}

impl Device {
    /// Starts the engine of a device, without models.
    pub(super) fn start(options: &DeviceOptions) -> std::io::Result<Self> {
        let (engine, thread) = engine::start(options.engine.clone(), Vec::new())?;
        Ok(Self {
            info: Arc::new(options.info.clone()),
            engine,
            config: options.engine.clone(),
            kv: options.memory.kv,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// What a model needs there.
    pub(super) fn need(&self, footprint: &Footprint) -> Need {
        Need::new(footprint, self.kv, self.config.max_batch_sequences)
    }

    /// Ends the engine; what is still open fails. `false` when its thread has not ended within `limit`.
    pub(super) fn shutdown(&self, limit: Duration) -> bool {
        self.engine.drain();
        self.engine.shutdown();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        thread.is_none_or(|thread| thread.join(limit))
    }
}
