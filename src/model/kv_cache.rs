//! Keys and values of all layers, in fixed blocks of tokens.

use super::config::ModelConfig;
use crate::kernels::{AttentionShape, BLOCK_TOKENS, LayerCache};

/// The pool of KV blocks of one model. Memory is taken from the system when a block is first written.
pub(super) struct KvCache {
    shape: AttentionShape,
    blocks: usize,
    layers: Vec<(Vec<f32>, Vec<f32>)>,
}

impl KvCache {
    /// Bytes that one block takes over all layers.
    pub(super) fn block_bytes(config: &ModelConfig) -> usize {
        config.layers.len() * 2 * config.attention_shape().block_len() * size_of::<f32>()
    }

    pub(super) fn new(config: &ModelConfig, blocks: usize) -> Self {
        let shape = config.attention_shape();
        let len = blocks * shape.block_len();
        let layers = (0..config.layers.len())
            .map(|_| (vec![0.0; len], vec![0.0; len]))
            .collect();
        Self {
            shape,
            blocks,
            layers,
        }
    }

    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    pub(super) fn tokens(&self) -> usize {
        self.blocks * BLOCK_TOKENS
    }

    pub(super) fn bytes(&self) -> usize {
        self.layers.len() * 2 * self.blocks * self.shape.block_len() * size_of::<f32>()
    }

    pub(super) fn layer(&mut self, layer: usize) -> LayerCache<'_> {
        let (keys, values) = &mut self.layers[layer];
        LayerCache { keys, values }
    }
}
