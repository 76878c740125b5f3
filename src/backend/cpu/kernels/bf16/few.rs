//! Products of few rows with the processor's tiles: half a panel's sums stay in tiles, and while one run of inputs is
//! multiplied, the next run's weights are expanded.

use super::{
    Bf16Rows, Bf16Scratch, RUN, TILE_ROWS,
    amx::{self, Operands, ROWS, shapes},
    expand::Integers,
    tiles::{HALF, Halves, PairBits, TILE, expand_floats},
};
use crate::backend::cpu::kernels::{Isa, PackedMatrix, int8::Target, tile_config};

/// `c[i][j] = x[first + i] · w[j]`, or added to it, for at most [`TILE_ROWS`] rows and half a panel's outputs.
///
/// # Safety
/// `c` is readable and writable for the rows and outputs and belongs to nobody else; the processor has AMX-BF16 and
/// AVX-512 F, BW, VBMI and BF16.
///
/// # Panics
/// As [`super::product`], and when there are too many rows or the first does not begin a tile.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
pub(super) unsafe fn product(
    isa: Isa,
    x: &Bf16Rows,
    rows: (usize, usize),
    (matrix, panel, half): (&PackedMatrix, usize, usize),
    scratch: &mut Bf16Scratch,
    c: Target,
) {
    if let Some(strip) = matrix.strip(panel, 0, 2) {
        let weights = Integers::new(strip);
        // SAFETY: by the caller's promise.
        return unsafe { multiply(x, rows, c, |run, out| weights.expand(run, half, out)) };
    }
    let expand = |run: usize, out: &mut [PairBits; HALF]| {
        let (wanted, none) = (&mut out[..], &mut [][..]);
        let (first, second) = if half == 0 { (wanted, none) } else { (none, wanted) };
        let inputs = (run * RUN, RUN.min(x.cols() - run * RUN));
        let mut halves = Halves { first, second };
        // SAFETY: by the caller's promise.
        unsafe { expand_floats(isa, (matrix, panel), inputs, &mut scratch.expanded, &mut halves) };
    };
    // SAFETY: by the caller's promise.
    unsafe { multiply(x, rows, c, expand) };
}

/// As [`product`], of weights that `expand` expands, a run of them.
///
/// # Safety
/// As [`product`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
unsafe fn multiply(
    x: &Bf16Rows,
    (first, count): (usize, usize),
    c: Target,
    mut expand: impl FnMut(usize, &mut [PairBits; HALF]),
) {
    assert!(first.is_multiple_of(ROWS) && count > 0 && count <= TILE_ROWS);
    let runs = x.cols().div_ceil(RUN);
    let second = count > ROWS;
    let mut pairs = [[PairBits::default(); HALF]; 2];
    // SAFETY: by the caller's promise; rows hold so many runs.
    unsafe {
        shapes(count).load();
        amx::load_sums(c, second);
        expand(0, &mut pairs[0]);
        for run in 0..runs {
            if run + 1 < runs {
                expand(run + 1, &mut pairs[(run + 1) % 2]);
            }
            let w = &pairs[run % 2];
            amx::add_products(&Operands {
                x: x.tile(first, run).as_ptr(),
                x_second: if second {
                    x.tile(first + ROWS, run).as_ptr()
                } else {
                    std::ptr::null()
                },
                w: [w.as_ptr(), w[TILE..].as_ptr()],
                w_step: HALF,
                runs: 1,
            });
        }
        amx::store_sums(c, second);
        tile_config::release();
    }
}
