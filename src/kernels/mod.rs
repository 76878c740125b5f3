//! CPU kernels: packed matrix multiply, paged attention, norms and rotary embedding.
//!
//! All arithmetic is f32 with a fixed order per output element: element `(row, column)` of a product is one
//! chain of fused multiply-adds over `k` in ascending order, whatever the batch, the tile or the thread. So
//! results do not depend on company, and every instruction set gives the same bits.
//!
//! `unsafe` lives here only; each use states its contract.

mod attention;
mod block_format;
mod elementwise;
mod gemv;
mod isa;
mod matmul;
mod micro;
mod packed;
mod pool;
mod quantised;
mod source;

pub use attention::{
    AttentionShape, AttentionSpan, BLOCK_TOKENS, LayerCache, RopeAngles, attention, rope_and_store,
};
pub use block_format::{BlockFormat, FormatError};
pub use elementwise::{RopeStyle, add_bias, rms_norm, silu_mul};
pub use isa::Isa;
pub use matmul::{Fused, Output, matmul};
pub use packed::PackedMatrix;
pub use pool::ThreadPool;
pub use source::{MatrixSource, RawElements};
