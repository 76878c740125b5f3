//! Keys and values of all layers, in fixed blocks of tokens.

use std::io;

use super::kernels::LayerCache;
use crate::model::spec::{KvFormat, ModelConfig};

/// The pool of KV blocks of one model. Memory is taken from the system when a block is first written.
pub(super) struct KvCache {
    blocks: usize,
    block_bytes: usize,
    layers: Vec<LayerCache>,
}

impl KvCache {
    /// Bytes that one block takes over all layers.
    pub(super) fn block_bytes(config: &ModelConfig, format: KvFormat) -> usize {
        config.layers.len() * format.block_bytes(config.attention_shape())
    }

    /// A pool of so many blocks.
    ///
    /// # Errors
    /// When the system does not grant so much memory.
    pub(super) fn new(config: &ModelConfig, format: KvFormat, blocks: usize) -> io::Result<Self> {
        let layer = |_| LayerCache::new(config.attention_shape(), format, blocks);
        Ok(Self {
            blocks,
            block_bytes: Self::block_bytes(config, format),
            layers: (0..config.layers.len()).map(layer).collect::<io::Result<_>>()?,
        })
    }

    pub(super) fn bytes(&self) -> usize {
        self.blocks * self.block_bytes
    }

    pub(super) fn layer(&mut self, layer: usize) -> &mut LayerCache {
        &mut self.layers[layer]
    }
}
