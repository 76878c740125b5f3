//! Calls the kernel for an instruction set and a number of rows.

#[cfg(target_arch = "x86_64")]
use super::{few_rows, tiles};
use super::{
    layout::{ROW_BLOCK, TILE_ROWS},
    rows::Bf16Rows,
    scratch::Bf16Scratch,
    vectors,
};
use crate::backend::cpu::kernels::{
    isa::{Isa, IsaKind},
    output::OutputTile,
    packed::MatrixStrips,
    panel::STRIPS_PER_PANEL,
    ranges::RowRange,
};

/// How many strips [`product`] takes together for so many rows. `whole_panel` says whether both of a panel may be taken.
pub(in crate::backend::cpu::kernels) fn strips_together(isa: Isa, rows: usize, whole_panel: bool) -> usize {
    let takes_one = isa.0 == IsaKind::Amx && rows <= ROW_BLOCK;
    // In order of memory: a panel's sums for one tile of rows fit the tile registers.
    let takes_panel = whole_panel && rows <= TILE_ROWS;
    if takes_one && !takes_panel {
        1
    } else {
        STRIPS_PER_PANEL
    }
}

/// `c[i][j] = x[rows.first + i] · w[j]`, or added to it, for the outputs of as many strips as [`strips_together`] says.
///
/// # Safety
/// `c` is readable and writable for `rows.count` rows of the strips' outputs, and while this runs nobody else accesses
/// those.
///
/// # Panics
/// When the rows do not exist, do not begin at a tile, or have not as many inputs as the matrix.
pub(in crate::backend::cpu::kernels) unsafe fn product(
    isa: Isa,
    x: &Bf16Rows,
    rows: RowRange,
    strips: MatrixStrips<'_>,
    scratch: &mut Bf16Scratch,
    c: OutputTile,
) {
    let panel = strips.panel;
    assert!(rows.first + rows.count <= x.rows() && x.cols() == panel.matrix.cols());
    // SAFETY: the rows exist and have the matrix's inputs, as just asserted, and the caller vouches for `c`. `Isa::available` makes `IsaKind::Amx` only where it has
    // found AMX-BF16 and AVX-512 F, BW, VBMI and BF16, and the system has granted tile data.
    unsafe {
        match isa.0 {
            #[cfg(target_arch = "x86_64")]
            IsaKind::Amx if rows.count <= ROW_BLOCK => few_rows::product(isa, x, rows, strips, scratch, c),
            #[cfg(target_arch = "x86_64")]
            IsaKind::Amx => tiles::product(isa, x, rows, panel, scratch, c),
            _ => vectors::product(isa, x, rows, panel, scratch, c),
        }
    }
}
