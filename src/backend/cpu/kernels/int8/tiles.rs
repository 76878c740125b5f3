//! Arranges operands for AMX: whole tiles of rows, weights as signed bytes, scales and minimums side by side.

use super::{
    amx::{self, Operands, Scaling},
    avx512,
    operands::RowPointers,
    rows::Int8Rows,
    sizes::{ACTIVATION_GROUP, GROUPS_BEYOND, TILE_OUTPUTS, TILE_ROWS, tiled_rows},
    tile_lines::{TileFloats, TileWords},
    unpack::{copy_eight_bit, unpack_four_bit, unpack_six_bit},
};
use crate::backend::cpu::kernels::{
    buffers::scratch_slice,
    isa::{Isa, IsaKind},
    output::{Output, OutputTile},
    panel::{PANEL, PANEL_WORD_BYTES, STRIP},
    ranges::RowRange,
    strip::{Strip, StripBits},
    tile_config,
};

/// A worker's copy of a strip's weights, and of what a tile gives that has fewer than [`TILE_ROWS`] rows.
#[derive(Default)]
pub(in crate::backend::cpu::kernels) struct TileScratch {
    /// Signed weights of a tile of outputs, `[k / 4]`, and [`GROUPS_BEYOND`] groups more.
    words: Vec<TileWords>,
    /// Scales and minimums as [`Operands::w_factors`] has them, for each tile of outputs.
    factors: Vec<TileFloats>,
    /// Outputs of a tile, `[TILE_ROWS]`.
    outputs: Vec<TileFloats>,
}

/// Most inputs that are multiplied at a time: the weights of a tile of outputs, their factors, and a tile of rows then fit the
/// first-level cache. With all inputs at a time, products of 32 rows with 14,336 inputs take 11 % longer in Q4_K and 19 % in Q6_K.
const DEPTH: usize = 1536;

/// Inputs that are multiplied at a time, of `cols` in all, in parts that are about equal.
fn depth(cols: usize) -> usize {
    cols.div_ceil(cols.div_ceil(DEPTH))
        .next_multiple_of(ACTIVATION_GROUP)
}

/// [`super::product::product`] in AMX tiles, for those of the first rows that are faster in them, and a strip or a panel.
/// Returns the number of these rows, which is 0 where the processor has no AMX or the rows are too few.
///
/// # Safety
/// `c` is readable and writable for `rows.count` rows of `strip.width` outputs, and while this runs nobody else
/// accesses those.
///
/// # Panics
/// When the rows do not exist or do not begin at a tile, [`Int8Rows::set`] has not prepared them for the strip's
/// groups, or the strip does not hold the inputs of `x`.
pub(in crate::backend::cpu::kernels) unsafe fn product_of_tiles(
    isa: Isa,
    x: &Int8Rows,
    rows: RowRange,
    strip: &Strip<'_>,
    scratch: &mut TileScratch,
    c: OutputTile,
) -> usize {
    let tiled = tiled_rows(rows.count);
    if isa.0 != IsaKind::Amx || tiled == 0 {
        return 0;
    }
    let rows = rows.sub_range(0, tiled);
    let first_tile = rows.first / TILE_ROWS;
    let tiles = rows.count.div_ceil(TILE_ROWS);
    let RowPointers {
        cols,
        stride,
        groups,
        values,
        ..
    } = RowPointers::new(x, rows, strip);
    let x_factors = x.tiles.for_groups_of(strip.group);
    let tile_len = groups * 2 * TILE_ROWS;
    assert!(rows.first.is_multiple_of(TILE_ROWS) && x_factors.len() >= (first_tile + tiles) * tile_len);
    let values_needed = (first_tile + tiles) * TILE_ROWS * x.stride + GROUPS_BEYOND;
    assert!(x.values.len() >= values_needed);
    let TileScratch {
        words,
        factors,
        outputs,
    } = scratch;
    let depth = depth(cols);
    let words = scratch_slice(words, (depth + GROUPS_BEYOND * strip.group) / 4);
    let outputs = scratch_slice(outputs, TILE_ROWS);
    let (tiles_of_outputs, first_of_panel) = (strip.width / TILE_OUTPUTS, strip.index * STRIP / TILE_OUTPUTS);
    // SAFETY: `Isa::available` makes `IsaKind::Amx` only where it has found AMX, and the system has granted tile data.
    // `RowPointers::new` has checked that groups have one of the two sizes.
    unsafe { amx::load_shapes(strip.group) };
    for first in (0..cols).step_by(depth) {
        let (inputs, first_group) = (depth.min(cols - first), first / strip.group);
        let part_groups = inputs / strip.group;
        let factors = scratch_slice(factors, tiles_of_outputs * part_groups * 3);
        // SAFETY: `RowPointers::new` has checked that the strip has all groups of `cols` inputs. `Isa::available` makes
        // `IsaKind::Amx` only where it has found AVX-512 F, BW, VL and VNNI.
        unsafe { avx512::read_factors(strip, first_group, factors) };
        let part_bytes = strip.bits.words(inputs) * PANEL_WORD_BYTES;
        let part = &strip.bits.bytes()[strip.bits.words(first) * PANEL_WORD_BYTES..];
        // While a tile of outputs is multiplied, its share of the panel's next part is prefetched, which lies behind this one, or
        // that of the next panel.
        let next_part = part.as_ptr().wrapping_add(part_bytes - strip.index * 4 * STRIP);
        let share = part_bytes / (PANEL / TILE_OUTPUTS);
        for (tile, factors) in factors.chunks_exact(part_groups * 3).enumerate() {
            unpack(
                isa,
                strip,
                &part[tile * 4 * TILE_OUTPUTS..],
                &mut words[..inputs / 4],
            );
            let operands = Operands {
                inputs,
                x_stride: stride,
                x_factors_stride: tile_len,
                group: strip.group,
                x: values.wrapping_add(first),
                x_factors: x_factors[first_tile * tile_len + first_group * 2 * TILE_ROWS..].as_ptr(),
                w: words.as_ptr().cast(),
                w_factors: factors.as_ptr().cast(),
                mins: strip.mins.is_some(),
                scaling: if strip.scales.are_short() {
                    Scaling::MultiplyAdd
                } else {
                    Scaling::Convert
                },
                ahead: next_part.wrapping_add((first_of_panel + tile) * share),
            };
            let c = OutputTile {
                start: c.start.wrapping_add(tile * TILE_OUTPUTS),
                output: if first == 0 { c.output } else { Output::Add },
                ..c
            };
            // SAFETY: the assertions above and `RowPointers::new` have checked that `x` and `x_factors` hold `tiles` tiles of
            // rows of `cols` inputs, of which these are a part, `x` with as many groups more; `words` and `factors` have been
            // given the sizes that `Operands` asks for. The caller vouches for `c`, for these rows and the strip's outputs, of which
            // these are a tile's. `IsaKind::Amx` stands for the processor, as above, and the registers are shaped for the
            // group.
            unsafe { product_of_rows(&operands, rows.count, outputs, c) };
        }
    }
    // SAFETY: `IsaKind::Amx` stands for AMX and the system's grant.
    unsafe { tile_config::release() };
    tiled
}

/// Unpacks inputs of the strip's weights, which are in `packed`, for the first tile of outputs there.
fn unpack(isa: Isa, strip: &Strip<'_>, packed: &[u8], out: &mut [TileWords]) {
    let zero = strip.zero as u8;
    match strip.bits {
        StripBits::Four(_) => unpack_four_bit(isa, packed, zero, out),
        StripBits::Six(_) => unpack_six_bit(isa, packed, zero, out),
        StripBits::Eight(_) => copy_eight_bit(isa, packed, zero, out),
    }
}

/// [`amx::product`] of `rows` rows, the last tile of which may have fewer than [`TILE_ROWS`] and is computed in `outputs` then.
///
/// # Safety
/// What [`amx::product`] asks for, but that `c` has `rows` rows.
///
/// # Panics
/// When `outputs` has fewer than [`TILE_ROWS`] rows.
unsafe fn product_of_rows(operands: &Operands, rows: usize, outputs: &mut [TileFloats], c: OutputTile) {
    let (tiles, rest) = (rows / TILE_ROWS, rows % TILE_ROWS);
    // SAFETY: `c` has whole tiles of so many rows.
    unsafe { amx::product(operands, tiles, c) };
    if rest == 0 {
        return;
    }
    let outputs = &mut outputs[..TILE_ROWS];
    let at = |row: usize| c.start.wrapping_add((tiles * TILE_ROWS + row) * c.stride);
    if c.output == Output::Add {
        for (row, outputs) in outputs.iter_mut().enumerate().take(rest) {
            // SAFETY: the caller vouches for the outputs of this row.
            outputs
                .0
                .copy_from_slice(unsafe { std::slice::from_raw_parts(at(row), TILE_OUTPUTS) });
        }
    }
    let target = OutputTile {
        start: outputs.as_mut_ptr().cast(),
        stride: TILE_OUTPUTS,
        output: c.output,
    };
    // SAFETY: the caller vouches for the operands of whole tiles, and `outputs` is one.
    unsafe { amx::product(&operands.behind_tiles(tiles), 1, target) };
    for (row, outputs) in outputs.iter().enumerate().take(rest) {
        // SAFETY: the caller vouches for the outputs of this row, which nobody else accesses.
        unsafe { std::slice::from_raw_parts_mut(at(row), TILE_OUTPUTS) }.copy_from_slice(&outputs.0);
    }
}
