//! Products of eight-bit activations with weights of four, six and eight bits, in integers.
//!
//! Inside of a group of inputs that share a weight scale, sums are exact integers, so neither the order nor the
//! instruction set can change them. Over groups, each element is one chain of fused multiply-adds in ascending order:
//! with the group's weight scale `d` and the row's scale `s`, `t = d * Σ q·x`, then `t += min * Σ x` where the format
//! has minimums, and `c += t * s`. So a row gets the same bits alone and in a batch.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod magic;
mod operands;
mod portable;
mod product;
mod rows;
mod sizes;
#[cfg(target_arch = "x86_64")]
mod tile_factors;
#[cfg(target_arch = "x86_64")]
mod tile_lines;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod unpack;

pub(super) use product::product;
pub(super) use rows::Int8Rows;
pub(super) use sizes::{MAX_ROWS, PANEL_ROWS, TILE_ROWS};
#[cfg(target_arch = "x86_64")]
pub(super) use tiles::{TileScratch, product_of_tiles};
