//! Keys and values of all layers as tensors of fixed blocks.

use std::io;

use candle_core::{DType, Device, Tensor};

use super::faults;
use crate::model::{
    ResourceProblem,
    spec::{AttentionShape, KvFormat, ModelConfig},
};

/// Tokens in a block.
pub(super) const BLOCK_TOKENS: usize = 16;

/// The pool of KV blocks of one model.
pub(super) struct CandleCache {
    bytes: u64,
    shape: AttentionShape,
    layers: Vec<LayerStore>,
}

/// Keys and values of one layer, `[blocks * BLOCK_TOKENS, kv_heads * head_dim]` each.
struct LayerStore {
    keys: Tensor,
    values: Tensor,
}

/// Keys and values that were read from the cache, `[kv_heads, tokens, head_dim]` each, in f32.
pub(super) struct Gathered {
    pub keys: Tensor,
    pub values: Tensor,
}

/// The tokens of a sequence that are read from the cache.
pub(super) struct CachedTokens {
    /// Their blocks.
    pub blocks: Tensor,
    /// Tokens of the first block that are not read.
    pub skipped: usize,
    /// Number of tokens that are read.
    pub count: usize,
}

/// Bytes of one block over all layers.
pub(super) fn block_bytes(config: &ModelConfig, format: KvFormat) -> usize {
    config.layers.len() * 2 * BLOCK_TOKENS * width(config.attention_shape()) * dtype(format).size_in_bytes()
}

fn width(shape: AttentionShape) -> usize {
    shape.kv_heads * shape.head_dim
}

fn dtype(format: KvFormat) -> DType {
    match format {
        KvFormat::F32 => DType::F32,
        KvFormat::F16 => DType::F16,
        KvFormat::Bf16 => DType::BF16,
    }
}

impl CandleCache {
    /// A pool of so many blocks.
    ///
    /// # Errors
    /// When the device has no memory for it.
    pub(super) fn new(
        config: &ModelConfig,
        format: KvFormat,
        blocks: usize,
        device: &Device,
    ) -> Result<Self, ResourceProblem> {
        let bytes = blocks * block_bytes(config, format);
        if device.is_cpu() {
            // Candle would end the process where the system refuses memory.
            let asked = Vec::<u8>::new().try_reserve_exact(bytes);
            asked.map_err(|error| ResourceProblem::KvMemory {
                blocks,
                error: io::Error::other(error),
            })?;
        }
        let shape = config.attention_shape();
        let zeros = || Tensor::zeros((blocks * BLOCK_TOKENS, width(shape)), dtype(format), device);
        let layer = |_| {
            Ok(LayerStore {
                keys: zeros()?,
                values: zeros()?,
            })
        };
        let layers: candle_core::Result<Vec<LayerStore>> = (0..config.layers.len()).map(layer).collect();
        Ok(Self {
            bytes: bytes as u64,
            shape,
            layers: layers.map_err(|error| ResourceProblem::KvMemory {
                blocks,
                error: io::Error::other(faults::text(&error)),
            })?,
        })
    }

    /// Bytes of all blocks.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes rows of keys and values to a layer; `slots` has the slot of each row, once for each of its values.
    pub(super) fn store(
        &self,
        layer: usize,
        slots: &Tensor,
        keys: &Tensor,
        values: &Tensor,
    ) -> candle_core::Result<()> {
        let store = self.layer(layer)?;
        for (cache, rows) in [(&store.keys, keys), (&store.values, values)] {
            let rows = rows.to_dtype(cache.dtype())?.contiguous()?;
            cache.scatter_set(slots, &rows, 0)?;
        }
        Ok(())
    }

    /// Reads tokens of a sequence from a layer.
    pub(super) fn gather(&self, layer: usize, tokens: &CachedTokens) -> candle_core::Result<Gathered> {
        let store = self.layer(layer)?;
        let read = |cache: &Tensor| {
            let (slots, width) = cache.dims2()?;
            let blocks = cache.reshape((slots / BLOCK_TOKENS, BLOCK_TOKENS * width))?;
            let rows = blocks.index_select(&tokens.blocks, 0)?;
            let rows = rows.reshape((tokens.blocks.elem_count() * BLOCK_TOKENS, width))?;
            rows.narrow(0, tokens.skipped, tokens.count)?
                .reshape((tokens.count, self.shape.kv_heads, self.shape.head_dim))?
                .transpose(0, 1)?
                .to_dtype(DType::F32)?
                .contiguous()
        };
        Ok(Gathered {
            keys: read(&store.keys)?,
            values: read(&store.values)?,
        })
    }

    fn layer(&self, layer: usize) -> candle_core::Result<&LayerStore> {
        let found = self.layers.get(layer);
        found.ok_or_else(|| candle_core::Error::Msg(format!("the KV pool has no layer {layer}")))
    }
}
