//! Products of operands rounded to bf16, summed in f32.
//!
//! A result is what Intel's `TDPBF16PS` computes. Inputs are taken in runs of 32: in a run, products of even inputs
//! are one chain of fused multiply-adds from 0, those of odd inputs another, and the sum of both chains is added to
//! what the runs before gave (Intel SDM, volume 2, "TDPBF16PS"). Every instruction set does these operations in this
//! order, so that a row gets the same bits alone and in a batch, and on every processor. The one exception are sums
//! below 1.2e-38, which tiles flush to zero.
//!
//! There are no scales in the loop, so a tile's sums stay in tile registers. What is done besides is expanding
//! weights to bf16, once for up to 256 rows. With few rows that is most of the work.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod expand;
#[cfg(target_arch = "x86_64")]
mod few_rows;
#[cfg(target_arch = "x86_64")]
mod gated;
mod layout;
#[cfg(target_arch = "x86_64")]
mod panel_sums;
mod product;
mod round;
#[cfg(target_arch = "x86_64")]
mod round_row;
mod rows;
mod scratch;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod vectors;

#[cfg(target_arch = "x86_64")]
pub(super) use {
    amx::{Operands, SteppedProduct, shapes},
    gated::GatedProduct,
    layout::{PairBits, RUN_PAIRS, RunBits, TILE_ROWS},
    round_row::round_row,
};
pub(super) use {
    layout::{ROW_BLOCK, RUN},
    product::{product, strips_together},
    round::round,
    rows::{Bf16Rows, deinterleave_row},
    scratch::Bf16Scratch,
    vectors::{RunTile, multiply_run},
};
