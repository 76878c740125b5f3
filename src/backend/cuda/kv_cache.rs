//! The paged cache of keys and values in a card's memory.

use std::sync::Arc;

use super::{
    buffer::Buffer,
    driver::{DeviceAddress, DriverError, Queue},
};
use crate::model::spec::ModelConfig;

/// Tokens in a block of the cache. The kernels are made for it.
pub(super) const BLOCK_TOKENS: usize = 16;

/// Keys and values of all layers in bf16, each `[block, key head, token, dimension]`.
pub(super) struct KvCache {
    buffer: Buffer,
    /// Bytes of one layer's keys, or of its values.
    part_bytes: usize,
}

/// A layer's part of the cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct LayerCache {
    pub keys: DeviceAddress,
    pub values: DeviceAddress,
}

impl KvCache {
    /// Bytes of one block over all layers.
    pub(super) fn block_bytes(config: &ModelConfig) -> usize {
        config.layers.len() * 2 * Self::part_block_bytes(config)
    }

    fn part_block_bytes(config: &ModelConfig) -> usize {
        config.sizes.kv_heads * config.sizes.head_dim * BLOCK_TOKENS * size_of::<u16>()
    }

    pub(super) fn new(
        queue: &Arc<dyn Queue>,
        config: &ModelConfig,
        blocks: usize,
    ) -> Result<Self, DriverError> {
        Ok(Self {
            buffer: Buffer::new(queue, blocks * Self::block_bytes(config))?,
            part_bytes: blocks * Self::part_block_bytes(config),
        })
    }

    pub(super) fn bytes(&self) -> usize {
        self.buffer.bytes()
    }

    pub(super) fn layer(&self, layer: usize) -> LayerCache {
        let keys = self.buffer.address().offset(2 * layer * self.part_bytes);
        LayerCache {
            keys,
            values: keys.offset(self.part_bytes),
        }
    }
}
