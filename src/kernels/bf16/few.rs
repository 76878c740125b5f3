//! Products of few rows with the processor's tiles: half a panel's sums stay in tiles, and while one run of inputs is
//! multiplied, the next run's weights are expanded.

use super::{
    Bf16Rows, Bf16Scratch, RUN, TILE_ROWS,
    amx::{self, Operands, ROWS, shapes},
    tiles::{HALF, Halves, PairBits, TILE, expand_to},
};
use crate::kernels::{Isa, PackedMatrix, buffers::sized, int8::Target, tile_config};

/// `c[i][j] = x[first + i] · w[j]`, or added to it, for at most [`TILE_ROWS`] rows and half a panel's outputs.
///
/// # Safety
/// `c` is readable and writable for the rows and outputs and belongs to nobody else; the processor has AMX-BF16 and
/// AVX-512 BF16.
///
/// # Panics
/// As [`super::product`], and when there are too many rows or the first does not begin a tile.
pub(super) unsafe fn product(
    isa: Isa,
    x: &Bf16Rows,
    (first, count): (usize, usize),
    (matrix, panel, half): (&PackedMatrix, usize, usize),
    scratch: &mut Bf16Scratch,
    c: Target,
) {
    assert!(first.is_multiple_of(ROWS) && count > 0 && count <= TILE_ROWS);
    let cols = x.cols();
    let runs = cols.div_ceil(RUN);
    let second = count > ROWS;
    let (mut current, mut next) = sized(&mut scratch.pairs, 2 * HALF).split_at_mut(HALF);
    let expanded = &mut scratch.expanded;
    let mut expand = |run: usize, pairs: &mut [PairBits]| {
        let none: &mut [_] = &mut [];
        let (first, second) = if half == 0 { (pairs, none) } else { (none, pairs) };
        let inputs = RUN.min(cols - run * RUN);
        // SAFETY: by the caller's promise.
        unsafe {
            expand_to(
                isa,
                (matrix, panel),
                (run * RUN, inputs),
                expanded,
                &mut Halves { first, second },
            )
        };
    };
    // SAFETY: by the caller's promise; rows hold so many runs.
    unsafe {
        shapes(count).load();
        amx::load_sums(c, second);
        expand(0, current);
        for run in 0..runs {
            if run + 1 < runs {
                expand(run + 1, next);
            }
            amx::add_products(&Operands {
                x: x.tile(first, run).as_ptr(),
                x_second: if second {
                    x.tile(first + ROWS, run).as_ptr()
                } else {
                    std::ptr::null()
                },
                w: [current.as_ptr(), current[TILE..].as_ptr()],
                w_step: HALF,
                runs: 1,
            });
            std::mem::swap(&mut current, &mut next);
        }
        amx::store_sums(c, second);
        tile_config::release();
    }
}
