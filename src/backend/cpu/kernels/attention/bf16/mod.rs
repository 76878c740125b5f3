//! Attention of operands that are rounded to bf16, for a tile of query rows of one key head.
//!
//! Queries (after scaling), keys, the numerators of softmax, and values are rounded. Sums are f32, in the order that
//! [`crate::backend::cpu::kernels::bf16`] states: scores in runs of 32 dimensions, sums of values in runs of 32
//! tokens that begin at multiples of 32. Queries are scaled by log2(e) besides, so that scores are exponents of 2.
//! Numerators are divided by the sum of what they are before they are rounded.

mod operands;
#[cfg(target_arch = "x86_64")]
mod products;
mod sub_tile;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod vectors;

pub(super) use operands::{Bf16Operands, layout};
