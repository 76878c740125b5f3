//! What a device may be used for, and whose memory its models are in.

use std::fmt;

use super::budget::{KvSize, KvSizing};
use crate::{
    backend::{BatchLimits, DeviceInfo},
    engine::EngineConfig,
    model::spec::DeviceName,
};

/// Whose memory the models of a device are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemoryOwner {
    /// The host's, which all such devices share.
    Host,
    /// The device's own.
    Device,
}

/// Where a model is kept: on which device, and whose memory that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlace {
    /// The device.
    pub device: DeviceName,
    /// Whose memory its models are in.
    pub owner: MemoryOwner,
}

impl MemoryPlace {
    pub(super) fn of(device: &DeviceOptions) -> Self {
        Self {
            device: device.info.name,
            owner: device.memory_owner,
        }
    }

    /// How more room can be had there.
    pub(super) fn remedy(&self) -> &'static str {
        match self.owner {
            MemoryOwner::Host => "or raise memory.budget",
            MemoryOwner::Device => {
                "put some on another device (models.ID.device), or raise memory.device_budget if it is below what the \
                 device has"
            }
        }
    }
}

impl fmt::Display for MemoryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "on {}", self.device)
    }
}

/// What a device may be used for.
#[derive(Debug, Clone)]
pub struct DeviceOptions {
    /// What it is and can do.
    pub info: DeviceInfo,
    /// How much of its memory models may take.
    pub memory: MemoryOptions,
    /// Whose memory that is.
    pub memory_owner: MemoryOwner,
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
