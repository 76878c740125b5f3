//! Products of many rows in AMX tiles.
//!
//! Weights of a panel are expanded once for up to 256 rows. The sums of a panel lie together in scratch until they are
//! complete, and are copied out then: rows of a wide layer's outputs are so far apart that their sums would drive
//! each other out of the cache. That gained 18 % for the shape of a model of 1B parameters.
//!
//! Tried and not taken: prefetching the next panel's weights to the second-level cache while tiles multiply. Spread over the loop it gained
//! 10 % for weights in bf16 with 4,096 inputs, and cost up to 10 % for those in four bits with 576.

use super::{
    amx::{self, Operands, shapes},
    expand::{self, IntegerWeights},
    layout::{PairBits, PanelPairs, ROW_BLOCK, RUN, RowSums, STRIP_RUN, TILE_OUTPUTS, TILE_ROWS},
    rows::Bf16Rows,
    scratch::Bf16Scratch,
};
use crate::backend::cpu::kernels::{
    buffers::scratch_slice,
    isa::Isa,
    output::{Output, OutputTile},
    packed::MatrixPanel,
    panel::{PANEL, STRIP, STRIPS_PER_PANEL},
    ranges::{InputRange, RowRange},
    strip::Strip,
    tile_config,
};

/// Most inputs that are expanded at a time: a strip's weights then fit the first-level cache beside some rows.
const DEPTH: usize = 640;

/// Inputs that are expanded at a time, of `cols` in all. The parts are about equal, so that none is so short that
/// storing and loading its sums takes longer than its products.
pub(super) fn depth(cols: usize) -> usize {
    cols.div_ceil(cols.div_ceil(DEPTH)).next_multiple_of(RUN)
}

/// `c[i][j] = x[rows.first + i] · w[j]`, or added to it, for a panel's outputs.
///
/// # Safety
/// `c` is readable and writable for `rows.count` rows of a panel's outputs, and while this runs nobody else accesses
/// those. The processor has AMX-BF16 and AVX-512 F, BW, VBMI and BF16, and the system has granted this process the
/// use of tile data.
///
/// # Panics
/// When the rows do not exist, do not begin at a tile, or have not as many inputs as the matrix.
pub(super) unsafe fn product(
    isa: Isa,
    x: &Bf16Rows,
    rows: RowRange,
    panel: MatrixPanel<'_>,
    scratch: &mut Bf16Scratch,
    c: OutputTile,
) {
    let RowRange { first, count } = rows;
    assert!(first.is_multiple_of(TILE_ROWS) && count > 0);
    let sums = scratch_slice(&mut scratch.sums, count.next_multiple_of(ROW_BLOCK));
    if c.output == Output::Add {
        for (row, sums) in sums.iter_mut().enumerate().take(count) {
            // SAFETY: `row < count`, so the caller vouches for a panel's outputs of this row.
            let from = unsafe { std::slice::from_raw_parts(c.start.add(row * c.stride), PANEL) };
            sums.0.copy_from_slice(from);
        }
    }
    let cols = x.cols();
    let depth = depth(cols);
    // SAFETY: the caller vouches for AMX-BF16 and the system's grant.
    unsafe { const { shapes(ROW_BLOCK) }.load() };
    for k in (0..cols).step_by(depth) {
        let inputs = InputRange {
            first: k,
            count: depth.min(cols - k),
        };
        let runs = inputs.count.div_ceil(RUN);
        let pairs = scratch_slice(&mut scratch.pairs, 2 * runs * STRIP_RUN);
        let (first_strip, second_strip) = pairs.split_at_mut(runs * STRIP_RUN);
        let mut pairs = PanelPairs {
            strips: [first_strip, second_strip],
        };
        // SAFETY: the caller vouches for AVX-512 F, BW, VBMI and BF16.
        unsafe { expand_panel(isa, panel, inputs, &mut scratch.expanded, &mut pairs) };
        let output = if k == 0 { c.output } else { Output::Add };
        let weights = RunWeights {
            first_run: k / RUN,
            strips: pairs.strips.map(|strip| &*strip),
        };
        // SAFETY: the caller vouches for AMX-BF16 and the system's grant. The registers are shaped for whole tiles.
        unsafe { multiply(x, rows, weights, sums, output) };
    }
    // SAFETY: the caller vouches for AMX-BF16 and the system's grant.
    unsafe { tile_config::release() };
    for (row, sums) in sums.iter().enumerate().take(count) {
        // SAFETY: `row < count`, so the caller vouches for a panel's outputs of this row, which nobody else accesses.
        let out = unsafe { std::slice::from_raw_parts_mut(c.start.add(row * c.stride), PANEL) };
        out.copy_from_slice(&sums.0);
    }
}

/// Some runs of a panel's weights.
#[derive(Clone, Copy)]
pub(super) struct RunWeights<'a> {
    /// Index of the first run.
    pub first_run: usize,
    /// For each strip `[run][tile of the strip][RUN_PAIRS]`.
    pub strips: [&'a [PairBits]; STRIPS_PER_PANEL],
}

/// Multiplies `rows` with some runs of a panel's weights, and replaces `sums` or adds to them. There are sums for each row of
/// the last tile, and those of rows behind `rows` get any value.
///
/// All rows are multiplied with a strip before the next strip's turn, so that the strip's weights stay in the first-level
/// cache.
///
/// # Safety
/// This thread's tile registers have the [`shapes`] for [`ROW_BLOCK`] rows. The processor has AMX-BF16, and the system has
/// granted this process the use of tile data.
///
/// # Panics
/// When the rows, their runs or their sums do not exist.
pub(super) unsafe fn multiply(
    x: &Bf16Rows,
    rows: RowRange,
    weights: RunWeights<'_>,
    sums: &mut [RowSums],
    output: Output,
) {
    let RowRange { first, count } = rows;
    assert!(sums.len() >= count.next_multiple_of(TILE_ROWS));
    let run = weights.first_run;
    for (strip, w) in weights.strips.into_iter().enumerate() {
        for row in (0..count).step_by(ROW_BLOCK) {
            let x_second = if count - row > TILE_ROWS {
                x.tile(first + row + TILE_ROWS, run).as_ptr()
            } else {
                std::ptr::null()
            };
            let operands = Operands {
                x: x.tile(first + row, run).as_ptr(),
                x_second,
                w: [w.as_ptr(), w[TILE_OUTPUTS..].as_ptr()],
                w_step: STRIP_RUN,
                runs: w.len() / STRIP_RUN,
            };
            let c = OutputTile {
                start: sums[row..].as_mut_ptr().cast::<f32>().wrapping_add(strip * STRIP),
                stride: PANEL,
                output,
            };
            // SAFETY: `x.tile` gives a whole tile of rows with all runs from `run` on, and weights are expanded for
            // no more runs than rows have. `w` is whole runs of two tiles. `sums`, which is borrowed exclusively, has sums
            // for each row of the block's tiles; a strip of them is 32 outputs. The caller vouches for the shapes and the
            // processor.
            unsafe { amx::product(&operands, c) };
        }
    }
}

/// Expands inputs of a panel's weights to pairs of bf16. The first input begins a run, and pairs behind the last
/// input are 0.
///
/// # Safety
/// The processor has AVX-512 F, BW, VBMI and BF16.
///
/// # Panics
/// When `out` has fewer pairs.
pub(super) unsafe fn expand_panel(
    isa: Isa,
    panel: MatrixPanel<'_>,
    inputs: InputRange,
    expanded: &mut Vec<f32>,
    out: &mut PanelPairs<'_>,
) {
    if let Some(integers) = panel.strips(0, STRIPS_PER_PANEL) {
        // SAFETY: the caller vouches for AVX-512 F, BW, VBMI and BF16.
        return unsafe { expand_integers(integers, inputs.first / RUN, out) };
    }
    // SAFETY: the caller vouches for AVX-512 F, BW, VBMI and BF16.
    unsafe { expand_floats(isa, panel, inputs, expanded, out) };
}

/// Expands integer weights from run `first` on, as many runs as `out` has.
///
/// Calling it from other code is `unsafe` because the processor must have AVX-512 F, BW, VBMI and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
fn expand_integers(integers: Strip<'_>, first: usize, out: &mut PanelPairs<'_>) {
    let weights = IntegerWeights::new(integers);
    let [first_strip, second_strip] = &mut out.strips;
    let strips = first_strip
        .as_chunks_mut()
        .0
        .iter_mut()
        .zip(second_strip.as_chunks_mut().0);
    for (run, (first_strip, second_strip)) in (first..).zip(strips) {
        weights.expand(run, 0, first_strip);
        weights.expand(run, 1, second_strip);
    }
}

/// Expands weights that are not integers, for the strips that are wanted of `out`.
///
/// # Safety
/// The processor has AVX-512 F, BW, VBMI and BF16.
///
/// # Panics
/// When `out` has fewer pairs.
pub(super) unsafe fn expand_floats(
    isa: Isa,
    panel: MatrixPanel<'_>,
    inputs: InputRange,
    expanded: &mut Vec<f32>,
    out: &mut PanelPairs<'_>,
) {
    // SAFETY: the caller vouches for AVX-512 F, BW, VBMI and BF16.
    unsafe {
        match panel.bf16_in_place(inputs) {
            Some(bits) => expand::join_pairs(bits, out),
            None => expand::round_floats(panel.expanded(isa, inputs, expanded), out),
        }
    }
    out.fill_last_run(inputs.count.div_ceil(2));
}
