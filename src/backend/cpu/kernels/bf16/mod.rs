//! Products of operands rounded to bf16, summed in f32.
//!
//! What a result is, is what Intel's `TDPBF16PS` computes: inputs are taken 32 at a time; in a run, products of even
//! inputs are one chain of fused multiply-adds from 0, those of odd inputs another, and both chains' sum is added to
//! what the runs before gave (Intel SDM, volume 2, "TDPBF16PS"). Every instruction set does these operations in this
//! order, so that batched equals alone and one processor equals another, to the bit; only sums below 1.2e-38, which
//! tiles flush to zero, are out of that.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod expand;
#[cfg(target_arch = "x86_64")]
mod few;
#[cfg(target_arch = "x86_64")]
mod gated;
mod round;
mod rows;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod vectors;

#[cfg(target_arch = "x86_64")]
pub(super) use {
    amx::{Operands, ROWS, product as product_of_tiles, shapes},
    expand::row as round_row,
    gated::{GatedProduct, Panel},
    rows::RunBits,
    tiles::PairBits,
};
pub(super) use {
    round::round,
    rows::{Bf16Rows, part_row},
    vectors::{RunTile, run_product},
};

use super::{Isa, PackedMatrix, int8::Target, isa::IsaKind};

/// Inputs that are multiplied in one instruction.
pub(super) const RUN: usize = 32;

/// Rows that are taken together: two tiles.
pub(super) const TILE_ROWS: usize = 32;

/// A worker's copy of some of a panel's weights.
#[derive(Default)]
pub(super) struct Bf16Scratch {
    /// In f32.
    expanded: Vec<f32>,
    /// As vectors or tiles take them.
    parted: Vec<f32>,
    #[cfg(target_arch = "x86_64")]
    pairs: Vec<tiles::PairBits>,
    /// A panel's outputs of some rows: those of one tile lie together, wherever they go in the end.
    #[cfg(target_arch = "x86_64")]
    sums: Vec<tiles::RowSums>,
}

/// Whether [`product`] takes half a panel for so many rows.
pub(super) fn takes_halves(isa: Isa, rows: usize) -> bool {
    isa.0 == IsaKind::Amx && rows <= TILE_ROWS
}

/// `c[i][j] = x[first + i] · w[j]`, or added to it, for `count` rows and the outputs of `strips` neighbouring halves of
/// a panel, from half `strip` on, halves counted over all panels. Less than a panel where [`takes_halves`] says so.
///
/// # Safety
/// `c` is readable and writable for `count` rows of so many outputs and belongs to nobody else.
///
/// # Panics
/// When the rows do not exist, or have not as many inputs as the matrix.
pub(super) unsafe fn product(
    isa: Isa,
    x: &Bf16Rows,
    (first, count): (usize, usize),
    (matrix, strip): (&PackedMatrix, usize),
    scratch: &mut Bf16Scratch,
    c: Target,
) {
    assert!(first + count <= x.rows() && x.cols() == matrix.cols());
    let (panel, half) = (strip / 2, strip % 2);
    // SAFETY: by the caller's promise and the assertion; an `Isa` is only made for a processor that has its features.
    unsafe {
        match isa.0 {
            #[cfg(target_arch = "x86_64")]
            IsaKind::Amx if takes_halves(isa, count) => {
                few::product(isa, x, (first, count), (matrix, panel, half), scratch, c)
            }
            #[cfg(target_arch = "x86_64")]
            IsaKind::Amx => tiles::product(isa, x, (first, count), (matrix, panel), scratch, c),
            _ => vectors::product(isa, x, (first, count), (matrix, panel), scratch, c),
        }
    }
}
