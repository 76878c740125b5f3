//! A device while the server runs: its engine, and how large its models become.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    budget::{KvSizing, MemoryNeed},
    device_options::{DeviceOptions, MemoryPlace},
    error::DeviceLoss,
};
use crate::{
    backend::{DeviceInfo, Footprint},
    engine::{self, EngineConfig, EngineHandle, EngineThread},
};

/// A device with its running engine.
pub(super) struct Device {
    pub(super) info: Arc<DeviceInfo>,
    /// Whose memory its models are in.
    pub(super) memory: MemoryPlace,
    pub(super) engine: EngineHandle,
    /// Limits of the engine.
    pub(super) config: EngineConfig,
    kv: KvSizing,
    thread: Mutex<Option<EngineThread>>,
}

impl Device {
    /// Starts the engine of a device, without models.
    ///
    /// # Errors
    /// When a limit is 0, or the system starts no thread.
    pub(super) fn start(options: &DeviceOptions) -> io::Result<Self> {
        let (engine, thread) = engine::start(options.engine.clone(), Vec::new())?;
        Ok(Self {
            info: Arc::new(options.info.clone()),
            memory: MemoryPlace::of(options),
            engine,
            config: options.engine.clone(),
            kv: options.kv_sizing(),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// The memory that a model needs there.
    pub(super) fn need(&self, footprint: &Footprint) -> MemoryNeed {
        MemoryNeed::new(footprint, self.kv)
    }

    /// What happened to the device if it is lost; `None` while it works.
    pub(super) fn loss(&self) -> Option<DeviceLoss> {
        self.engine.loss().map(|reason| DeviceLoss {
            device: self.info.name,
            reason: reason.to_string(),
        })
    }

    /// Ends the engine; open requests fail. Returns `false` when its thread has not ended within `limit`.
    pub(super) fn shutdown(&self, limit: Duration) -> bool {
        self.engine.drain();
        self.engine.shutdown();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        thread.is_none_or(|thread| thread.join(limit))
    }
}
