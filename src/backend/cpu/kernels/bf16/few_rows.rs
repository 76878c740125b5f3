//! Products of few rows in AMX tiles: the sums of a strip or a panel stay in tile registers, and while the tiles multiply a run of
//! inputs, the next run's weights are expanded.
//!
//! Sums of up to one tile of rows are those of a panel, so that weights are read once and in the order in which they lie in memory.
//! Strip after strip, memory is idle while the second is read from the second-level cache: with 2,048 inputs and outputs in bf16 a
//! product took 30 to 35 % longer, and in four bits with 16 rows 14 %.
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
    panel_sums,
    rows::Bf16Rows,
    scratch::Bf16Scratch,
    tiles::expand_floats,
};
use crate::backend::cpu::kernels::{
    isa::Isa,
    output::OutputTile,
    packed::MatrixStrips,
    panel::STRIPS_PER_PANEL,
    ranges::{InputRange, RowRange},
    tile_config,
};

/// A run of a strip's weights, in two tiles.
type StripPairs = [PairBits; STRIP_RUN];

/// `c[i][j] = x[rows.first + i] · w[j]`, or added to it, for a strip's outputs, or a panel's.
///
/// # Safety
/// `c` is readable and writable for `rows.count` rows of the strips' outputs, and while this runs nobody else accesses
/// those. The processor has AMX-BF16 and AVX-512 F, BW, VBMI and BF16, and the system has granted this process the
/// use of tile data.
///
/// # Panics
/// When the rows do not exist, do not begin at a tile or are more than [`ROW_BLOCK`] for a strip or [`TILE_ROWS`] for a panel, or
/// have not as many inputs as the matrix.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
pub(super) unsafe fn product(
    isa: Isa,
    x: &Bf16Rows,
    rows: RowRange,
    strips: MatrixStrips<'_>,
    scratch: &mut Bf16Scratch,
    c: OutputTile,
) {
    let MatrixStrips { panel, first, count } = strips;
    if let Some(integers) = panel.strips(0, STRIPS_PER_PANEL) {
        let weights = IntegerWeights::new(integers);
        // SAFETY: both functions ask for what this function's caller vouches for.
        return unsafe {
            if count == 1 {
                multiply_strip(x, rows, c, |run, out| weights.expand(run, first, out))
            } else {
                multiply_panel(x, rows, c, |run, out| {
                    for (strip, out) in out.iter_mut().enumerate() {
                        weights.expand(run, strip, out);
                    }
                })
            }
        };
    }
    let mut expand = |run: usize, strips: [&mut [PairBits]; STRIPS_PER_PANEL]| {
        let inputs = InputRange {
            first: run * RUN,
            count: RUN.min(x.cols() - run * RUN),
        };
        // SAFETY: the caller vouches for AVX-512 F, BW, VBMI and BF16.
        unsafe {
            expand_floats(
                isa,
                panel,
                inputs,
                &mut scratch.expanded,
                &mut PanelPairs { strips },
            )
        };
    };
    // SAFETY: both functions ask for what this function's caller vouches for.
    unsafe {
        match (count, first) {
            (1, 0) => multiply_strip(x, rows, c, |run, out| expand(run, [out, &mut []])),
            (1, _) => multiply_strip(x, rows, c, |run, out| expand(run, [&mut [], out])),
            _ => multiply_panel(x, rows, c, |run, out| {
                expand(run, out.each_mut().map(|strip| &mut strip[..]))
            }),
        }
    }
}

/// [`product`] of at most [`ROW_BLOCK`] rows with the weights of a strip that `expand` writes, run by run.
///
/// # Safety
/// What [`product`] asks for.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
unsafe fn multiply_strip(
    x: &Bf16Rows,
    rows: RowRange,
    c: OutputTile,
    mut expand: impl FnMut(usize, &mut StripPairs),
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

/// [`product`] of at most [`TILE_ROWS`] rows with the weights of a panel that `expand` writes, run by run. They are read in the
/// order in which they lie in memory.
///
/// # Safety
/// What [`product`] asks for.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
unsafe fn multiply_panel(
    x: &Bf16Rows,
    rows: RowRange,
    c: OutputTile,
    mut expand: impl FnMut(usize, &mut [StripPairs; STRIPS_PER_PANEL]),
) {
    let RowRange { first, count } = rows;
    assert!(first.is_multiple_of(TILE_ROWS) && count > 0 && count <= TILE_ROWS);
    let runs = x.cols().div_ceil(RUN);
    let mut pairs = [[[PairBits::default(); STRIP_RUN]; STRIPS_PER_PANEL]; 2];
    // SAFETY: as in `multiply_strip`, for one tile of rows. `pairs` are the four tiles of weights of one run.
    unsafe {
        panel_sums::shapes(count).load();
        panel_sums::load(c);
        expand(0, &mut pairs[0]);
        for run in 0..runs {
            if run + 1 < runs {
                expand(run + 1, &mut pairs[(run + 1) % 2]);
            }
            panel_sums::add_run(
                x.tile(first, run).as_ptr(),
                pairs[run % 2].as_flattened().as_ptr(),
            );
        }
        panel_sums::store(c);
        tile_config::release();
    }
}
