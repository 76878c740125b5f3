//! Products of few rows in AMX tiles: a strip's sums stay in tile registers, and while the tiles multiply a run of
//! inputs, the next run's weights are expanded.
//!
//! Expanding is most of the work here. Once a thread has used tiles, its vector units do multiply-adds and
//! conversions at half their rate, and still do so half a millisecond later; shifts always run at that rate. So the
//! kernels in [`super::expand`] avoid these operations: pairs of inputs need no reordering and eight-bit weights no
//! conversion. What is decided between two runs (the kind of scale, a division, checks) took as long as half the
//! expanding, so it is decided before the loop. With one row, gate and up of a layer of SmolLM2 in Q4_1 take 69 µs;
//! without all this they took 106.

use super::{
    amx::{self, Operands, shapes},
    expand::IntegerWeights,
    layout::{PairBits, PanelPairs, ROW_BLOCK, RUN, STRIP_RUN, TILE_OUTPUTS, TILE_ROWS},
    rows::Bf16Rows,
    scratch::Bf16Scratch,
    tiles::expand_floats,
};
use crate::backend::cpu::kernels::{
    isa::Isa,
    output::OutputTile,
    packed::MatrixStrip,
    panel::STRIPS_PER_PANEL,
    ranges::{InputRange, RowRange},
    tile_config,
};

/// `c[i][j] = x[rows.first + i] · w[j]`, or added to it, for at most [`ROW_BLOCK`] rows and a strip's outputs.
///
/// # Safety
/// `c` is readable and writable for `rows.count` rows of a strip's outputs, and while this runs nobody else accesses
/// those. The processor has AMX-BF16 and AVX-512 F, BW, VBMI and BF16, and the system has granted this process the
/// use of tile data.
///
/// # Panics
/// When the rows do not exist, do not begin at a tile or are too many, or have not as many inputs as the matrix.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
pub(super) unsafe fn product(
    isa: Isa,
    x: &Bf16Rows,
    rows: RowRange,
    strip: MatrixStrip<'_>,
    scratch: &mut Bf16Scratch,
    c: OutputTile,
) {
    if let Some(integers) = strip.panel.strips(0, STRIPS_PER_PANEL) {
        let weights = IntegerWeights::new(integers);
        // SAFETY: `multiply` asks for what this function's caller vouches for.
        return unsafe { multiply(x, rows, c, |run, out| weights.expand(run, strip.index, out)) };
    }
    let expand = |run: usize, out: &mut [PairBits; STRIP_RUN]| {
        let (wanted, none) = (&mut out[..], &mut [][..]);
        let strips = if strip.index == 0 {
            [wanted, none]
        } else {
            [none, wanted]
        };
        let inputs = InputRange {
            first: run * RUN,
            count: RUN.min(x.cols() - run * RUN),
        };
        let mut pairs = PanelPairs { strips };
        // SAFETY: the caller vouches for AVX-512 F, BW, VBMI and BF16.
        unsafe { expand_floats(isa, strip.panel, inputs, &mut scratch.expanded, &mut pairs) };
    };
    // SAFETY: `multiply` asks for what this function's caller vouches for.
    unsafe { multiply(x, rows, c, expand) };
}

/// [`product`] with the weights that `expand` writes, run by run.
///
/// # Safety
/// What [`product`] asks for.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
unsafe fn multiply(
    x: &Bf16Rows,
    rows: RowRange,
    c: OutputTile,
    mut expand: impl FnMut(usize, &mut [PairBits; STRIP_RUN]),
) {
    let RowRange { first, count } = rows;
    assert!(first.is_multiple_of(TILE_ROWS) && count > 0 && count <= ROW_BLOCK);
    let runs = x.cols().div_ceil(RUN);
    let second = count > TILE_ROWS;
    let mut pairs = [[PairBits::default(); STRIP_RUN]; 2];
    // SAFETY: the caller vouches for the processor, the system's grant and `c`. The registers are shaped for `count`
    // rows, at most `ROW_BLOCK`. `x.tile` checks that a tile of rows has the run, in whole tiles; `pairs` are two
    // tiles of weights of one run, `TILE_OUTPUTS` lines each.
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
                    x.tile(first + TILE_ROWS, run).as_ptr()
                } else {
                    std::ptr::null()
                },
                w: [w.as_ptr(), w[TILE_OUTPUTS..].as_ptr()],
                w_step: STRIP_RUN,
                runs: 1,
            });
        }
        amx::store_sums(c, second);
        tile_config::release();
    }
}
