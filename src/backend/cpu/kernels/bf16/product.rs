//! Calls the kernel for an instruction set and a number of rows.

#[cfg(target_arch = "x86_64")]
use super::{few_rows, tiles};
use super::{layout::ROW_BLOCK, rows::Bf16Rows, scratch::Bf16Scratch, vectors};
use crate::backend::cpu::kernels::{
    isa::{Isa, IsaKind},
    output::OutputTile,
    packed::MatrixStrip,
    ranges::RowRange,
};

/// Whether [`product`] takes a strip rather than a panel for so many rows.
pub(in crate::backend::cpu::kernels) fn takes_strips(isa: Isa, rows: usize) -> bool {
    isa.0 == IsaKind::Amx && rows <= ROW_BLOCK
}

/// `c[i][j] = x[rows.first + i] · w[j]`, or added to it, for the outputs of a strip where [`takes_strips`] says so,
/// and of the strip's whole panel otherwise.
///
/// # Safety
/// `c` is readable and writable for `rows.count` rows of a strip's (or a panel's) outputs, and while this runs nobody
/// else accesses those.
///
/// # Panics
/// When the rows do not exist, do not begin at a tile, or have not as many inputs as the matrix.
pub(in crate::backend::cpu::kernels) unsafe fn product(
    isa: Isa,
    x: &Bf16Rows,
    rows: RowRange,
    strip: MatrixStrip<'_>,
    scratch: &mut Bf16Scratch,
    c: OutputTile,
) {
    let panel = strip.panel;
    assert!(rows.first + rows.count <= x.rows() && x.cols() == panel.matrix.cols());
    // SAFETY: the rows exist and have the matrix's inputs, as just asserted, and the caller vouches for `c`, for a
    // strip's or a panel's outputs by the same rule as here. `Isa::available` makes `IsaKind::Amx` only where it has
    // found AMX-BF16 and AVX-512 F, BW, VBMI and BF16, and the system has granted tile data.
    unsafe {
        match isa.0 {
            #[cfg(target_arch = "x86_64")]
            IsaKind::Amx if takes_strips(isa, rows.count) => {
                few_rows::product(isa, x, rows, strip, scratch, c);
            }
            #[cfg(target_arch = "x86_64")]
            IsaKind::Amx => tiles::product(isa, x, rows, panel, scratch, c),
            _ => vectors::product(isa, x, rows, panel, scratch, c),
        }
    }
}
