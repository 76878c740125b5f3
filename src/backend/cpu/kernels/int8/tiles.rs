//! Arranges operands for AMX: whole tiles of rows, weights as signed bytes, scales and minimums side by side.

use super::{
    amx,
    operands::RowPointers,
    rows::{FEWEST_TILED_ROWS, Int8Rows},
    sizes::{ACTIVATION_GROUP, SMALL_GROUP, TILE_ROWS},
    unpack::{copy_eight_bit, unpack_four_bit},
};
use crate::backend::cpu::kernels::{
    buffers::scratch_slice,
    isa::{Isa, IsaKind},
    output::OutputTile,
    panel::STRIP,
    ranges::RowRange,
    strip::{Strip, StripBits, StripScales},
};

/// A worker's copy of a strip's weights.
#[derive(Default)]
pub(in crate::backend::cpu::kernels) struct TileScratch {
    /// Signed weights, `[k / 4][STRIP][4]`, and [`amx::GROUPS_BEYOND`] groups more.
    bytes: Vec<u8>,
    /// Scales and minimums, `[k / group][2][STRIP]`.
    factors: Vec<f32>,
}

/// [`super::product::product`] in AMX tiles, for as many of the first rows as fill whole tiles. Returns the number of
/// these rows, which is 0 where the processor has no AMX or the rows are too few.
///
/// # Safety
/// `c` is readable and writable for `rows.count` rows of `strip.width` outputs, and while this runs nobody else
/// accesses those.
///
/// # Panics
/// When the rows do not exist or do not begin at a tile, [`Int8Rows::set_tiles`] has not prepared them for the strip's
/// groups, or the strip does not hold the inputs of `x`.
pub(in crate::backend::cpu::kernels) unsafe fn product_of_tiles(
    isa: Isa,
    x: &Int8Rows,
    rows: RowRange,
    strip: &Strip<'_>,
    scratch: &mut TileScratch,
    c: OutputTile,
) -> usize {
    let too_few = x.rows < FEWEST_TILED_ROWS || rows.count < TILE_ROWS;
    if isa.0 != IsaKind::Amx || too_few || strip.width != STRIP {
        return 0;
    }
    let packed = strip.bits.bytes();
    let first = rows.first;
    let tiles = rows.count / TILE_ROWS;
    let pointers = RowPointers::new(x, rows.sub_range(0, tiles * TILE_ROWS), strip);
    let RowPointers { cols, groups, .. } = pointers;
    let tile_factors = x.tiles.for_groups_of(strip.group);
    let tile_len = groups * 2 * TILE_ROWS;
    let first_tile = first / TILE_ROWS;
    assert!(first.is_multiple_of(TILE_ROWS) && tile_factors.len() >= (first_tile + tiles) * tile_len);
    let beyond = amx::GROUPS_BEYOND * strip.group;
    assert!(x.values.len() >= (first + tiles * TILE_ROWS) * cols + beyond);
    let bytes = scratch_slice(&mut scratch.bytes, (cols + beyond) * STRIP);
    let zero = strip.zero as u8;
    match strip.bits {
        StripBits::Four(_) => unpack_four_bit(isa, packed, zero, &mut bytes[..cols * STRIP]),
        StripBits::Eight(_) => copy_eight_bit(isa, packed, zero, &mut bytes[..cols * STRIP]),
    }
    let factors = scratch_slice(&mut scratch.factors, groups * 2 * STRIP);
    read_all(isa, &strip.scales, 0, factors);
    if let Some(mins) = &strip.mins {
        read_all(isa, mins, STRIP, factors);
    }
    let operands = amx::Operands {
        cols,
        x: pointers.values,
        x_factors: tile_factors[first_tile * tile_len..].as_ptr(),
        w: bytes.as_ptr().cast(),
        w_factors: factors.as_ptr(),
        mins: strip.mins.is_some(),
    };
    // SAFETY: the assertions above and `RowPointers::new` have checked that `x` and `x_factors` hold `tiles` tiles of
    // rows, `x` with `beyond` bytes more; `bytes` and `factors` have just been given the sizes that `Operands` asks
    // for. The caller vouches for `c`, whose rows are at least `tiles * TILE_ROWS`. `Isa::available` makes
    // `IsaKind::Amx` only where it has found AMX-INT8 and AVX-512 F and the system has granted tile data.
    // `RowPointers::new` lets only these two sizes of groups pass.
    unsafe {
        if strip.group == ACTIVATION_GROUP {
            amx::product::<ACTIVATION_GROUP>(&operands, tiles, c);
        } else {
            amx::product::<SMALL_GROUP>(&operands, tiles, c);
        }
    }
    tiles * TILE_ROWS
}

/// Writes all groups' scales or minimums to `out`, `[group][2][STRIP]`, from element `offset` of each group on.
fn read_all(isa: Isa, scales: &StripScales<'_>, offset: usize, out: &mut [f32]) {
    for (group, out) in out.chunks_exact_mut(2 * STRIP).enumerate() {
        scales.read(isa, group, &mut out[offset..][..STRIP]);
    }
}
