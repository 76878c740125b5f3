//! Keys and values of all layers, in fixed blocks of tokens.

use std::io;

use super::config::ModelConfig;
use crate::backend::cpu::kernels::LayerCache;
use crate::model::spec::Precision;

/// The pool of KV blocks of one model. Memory is taken from the system when a block is first written.
pub(super) struct KvCache {
    blocks: usize,
    block_bytes: usize,
    layers: Vec<LayerCache>,
}

impl KvCache {
    /// Bytes that one block takes over all layers.
    pub(super) fn block_bytes(config: &ModelConfig, precision: Precision) -> usize {
        config.layers.len() * precision.kv_format().block_bytes(config.attention_shape())
    }

    /// # Errors
    /// When the system does not promise so much memory.
    pub(super) fn new(config: &ModelConfig, precision: Precision, blocks: usize) -> io::Result<Self> {
        let layer = |_| LayerCache::new(config.attention_shape(), precision.kv_format(), blocks);
        Ok(Self {
            blocks,
            block_bytes: Self::block_bytes(config, precision),
            layers: (0..config.layers.len()).map(layer).collect::<io::Result<_>>()?,
        })
    }

    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    pub(super) fn bytes(&self) -> usize {
        self.blocks * self.block_bytes
    }

    pub(super) fn layer(&mut self, layer: usize) -> &mut LayerCache {
        &mut self.layers[layer]
    }
}
