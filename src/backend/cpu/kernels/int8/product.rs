//! Calls the kernel for an instruction set and a number of rows.

#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use super::{
    operands::RowPointers,
    portable,
    rows::Int8Rows,
    sizes::{MAX_ROWS, PANEL_ROWS},
};
use crate::backend::cpu::kernels::{
    isa::{Isa, IsaKind},
    output::OutputTile,
    panel::{PANEL, STRIP},
    ranges::RowRange,
    strip::Strip,
};

/// `c[i][j] = x[rows.first + i] · w[j]`, or added to it, for at most [`MAX_ROWS`] rows and the strip's outputs.
///
/// # Safety
/// `c` is readable and writable for `rows.count` rows of `strip.width` outputs, and while this runs nobody else
/// accesses those.
///
/// # Panics
/// When the rows do not exist or are too many, or the strip does not hold the inputs of `x`.
pub(in crate::backend::cpu::kernels) unsafe fn product(
    isa: Isa,
    x: &Int8Rows,
    rows: RowRange,
    strip: &Strip<'_>,
    c: OutputTile,
) {
    let (count, width) = (rows.count, strip.width);
    assert!(count <= MAX_ROWS && (width == STRIP || (width == PANEL && count <= PANEL_ROWS)));
    let rows = RowPointers::new(x, rows, strip);
    macro_rules! dispatch {
        ($kernel:path) => {{
            use $kernel as kernel;
            // SAFETY: `RowPointers::new` has checked that the rows and the strip's weights exist, and the match gives
            // the kernel as many rows and outputs as were checked and as the caller vouches for in `c`.
            // `Isa::available` makes an `isa.0` only where it has found the features that the kernel is compiled for.
            unsafe {
                match (count, width) {
                    (0, _) => {}
                    (1, PANEL) => kernel::<1, { PANEL / 16 }>(&rows, strip, c),
                    (2, PANEL) => kernel::<2, { PANEL / 16 }>(&rows, strip, c),
                    (1, _) => kernel::<1, { STRIP / 16 }>(&rows, strip, c),
                    (2, _) => kernel::<2, { STRIP / 16 }>(&rows, strip, c),
                    (3, _) => kernel::<3, { STRIP / 16 }>(&rows, strip, c),
                    (4, _) => kernel::<4, { STRIP / 16 }>(&rows, strip, c),
                    (5, _) => kernel::<5, { STRIP / 16 }>(&rows, strip, c),
                    _ => kernel::<6, { STRIP / 16 }>(&rows, strip, c),
                }
            }
        }};
    }
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        IsaKind::Amx | IsaKind::Avx512Vnni => dispatch!(avx512::product),
        #[cfg(target_arch = "x86_64")]
        IsaKind::Avx512 | IsaKind::Avx2 => dispatch!(avx2::product),
        _ => dispatch!(portable::product),
    }
}
