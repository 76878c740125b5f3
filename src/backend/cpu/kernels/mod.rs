//! CPU kernels: packed matrix multiply, paged attention, norms and rotary embedding.
//!
//! Every output element has a fixed order of operations: element `(row, column)` of a product is one chain of
//! fused multiply-adds over `k` in ascending order (in integer products: over groups of `k`, whose sums are
//! exact), whatever the batch, the tile or the thread. So results do not depend on company, and every
//! instruction set gives the same bits.
//!
//! `unsafe` lives here only; each use states its contract.

mod arena;
mod attention;
mod bf16;
mod buffers;
mod dense_attention;
mod elementwise;
mod floats;
mod gated;
mod int8;
mod isa;
mod low_rank;
mod matmul;
mod micro;
mod norms;
mod packed;
#[cfg(all(test, exact_memory))]
mod planted;
mod pointwise;
mod pool;
mod precision;
mod prefetch;
mod quantised;
mod scales;
#[cfg(target_arch = "x86_64")]
mod tile_config;

/// By how much tests try less where every instruction is watched.
#[cfg(test)]
const COARSER: usize = if cfg!(miri) { 32 } else { 1 };

/// Values from -1 to 1 that follow from `seed`.
#[cfg(test)]
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2) | 1;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1u64 << 23) as f32) - 1.0
        })
        .collect()
}

use crate::model::spec::{
    Activation, AttentionLayer, AttentionShape, Factor, KvFormat, LowRankPart, MatrixSource, NormKind,
    Pointwise, Products, RawElements, RopeStyle, TensorFormat, dequantize,
};

pub use arena::Arena;
pub use attention::{AttentionSpan, BLOCK_TOKENS, LayerCache, RopeAngles, attention, rope_and_store};
pub use dense_attention::{DenseAttention, DenseInput, DenseSpan, DistanceBias, HeadRows};
pub use elementwise::{add_bias, gate, soft_cap};
pub use gated::{GatedBuffers, GatedFeedForward};
pub use isa::Isa;
pub use low_rank::{LowRank, RowGroups, add_low_rank};
pub use matmul::{Linear, Output, matmul};
pub use norms::Norm;
pub use packed::{PackError, PackedMatrix};
pub use pool::ThreadPool;
pub use precision::Bf16Products;
