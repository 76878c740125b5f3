//! Operands for the processor's tiles: whole tiles of rows, weights as signed bytes, factors side by side.

use super::{FINE, Int8Rows, SPAN, STRIP, Strip, StripBits, StripScales, TILE_ROWS, Target, amx, take_apart};
use crate::backend::cpu::kernels::{
    Isa, ThreadPool, buffers::sized, isa::IsaKind, packed::PANEL, pool::DisjointSlices,
};

/// From so many rows on it pays to take weights apart for tiles.
const FEWEST_ROWS: usize = 2 * TILE_ROWS;

/// Scales and sums of whole tiles of rows, `[rows / TILE_ROWS][groups][2][TILE_ROWS]`.
#[derive(Default)]
pub(super) struct TileFactors {
    /// For weights in groups of [`SPAN`].
    spans: Vec<f32>,
    /// For weights in groups of [`FINE`].
    fine: Vec<f32>,
}

impl Int8Rows {
    /// Prepares the rows for tiles, where the processor has them, and for weights in groups of these sizes.
    pub(in crate::backend::cpu::kernels) fn set_tiles(
        &mut self,
        pool: &mut ThreadPool,
        isa: Isa,
        groups: impl Iterator<Item = usize>,
    ) {
        if isa.0 != IsaKind::Amx || self.rows < FEWEST_ROWS {
            return;
        }
        let (mut spans, mut fine) = (false, false);
        for group in groups {
            (spans, fine) = (spans || group == SPAN, fine || group == FINE);
        }
        let size = (self.rows, self.cols);
        if spans {
            set(
                pool,
                &mut self.tiles.spans,
                size,
                SPAN,
                (&self.scales, &self.sums),
            );
        }
        if fine {
            set(
                pool,
                &mut self.tiles.fine,
                size,
                FINE,
                (&self.scales, &self.fine_sums),
            );
        }
    }
}

fn set(
    pool: &mut ThreadPool,
    out: &mut Vec<f32>,
    (rows, cols): (usize, usize),
    group: usize,
    (scales, sums): (&[f32], &[f32]),
) {
    let (tiles, groups, spans) = (rows / TILE_ROWS, cols / group, cols / SPAN);
    let tile_len = groups * 2 * TILE_ROWS;
    let out = DisjointSlices::new(sized(out, tiles * tile_len));
    pool.run_parts(tiles, 2, &|range| {
        for tile in range {
            // SAFETY: tasks take disjoint tiles.
            let out = unsafe { out.part(tile * tile_len, tile_len) };
            for (group_index, out) in out.as_chunks_mut::<{ 2 * TILE_ROWS }>().0.iter_mut().enumerate() {
                let (out_scales, out_sums) = out.split_at_mut(TILE_ROWS);
                for row in 0..TILE_ROWS {
                    let at = tile * TILE_ROWS + row;
                    out_scales[row] = scales[at * spans + group_index * group / SPAN];
                    out_sums[row] = sums[at * groups + group_index];
                }
            }
        }
    });
}

/// A worker's copy of a strip's weights.
#[derive(Default)]
pub(in crate::backend::cpu::kernels) struct TileScratch {
    /// `[k / 4][STRIP][4]`, signed, and some more.
    bytes: Vec<u8>,
    /// `[k / group][2][STRIP]`: scales and minimums.
    factors: Vec<f32>,
}

/// As [`super::product`], for the first rows of any number, where the processor multiplies whole tiles of rows.
/// Returns how many rows that were.
///
/// # Safety
/// As [`super::product`].
///
/// # Panics
/// As [`super::product`], and when the first row does not begin a tile.
pub(in crate::backend::cpu::kernels) unsafe fn product_of_tiles(
    isa: Isa,
    x: &Int8Rows,
    (first, count): (usize, usize),
    strip: &Strip<'_>,
    scratch: &mut TileScratch,
    c: Target,
) -> usize {
    if isa.0 != IsaKind::Amx || x.rows < FEWEST_ROWS || count < TILE_ROWS || strip.width != STRIP {
        return 0;
    }
    let (StripBits::Four(packed) | StripBits::Eight(packed)) = strip.bits else {
        return 0;
    };
    let tiles = count / TILE_ROWS;
    let rows = x.at((first, tiles * TILE_ROWS), strip);
    let tile_factors = if strip.group == SPAN {
        &x.tiles.spans
    } else {
        &x.tiles.fine
    };
    let tile_len = rows.groups * 2 * TILE_ROWS;
    let first_tile = first / TILE_ROWS;
    assert!(first.is_multiple_of(TILE_ROWS) && tile_factors.len() >= (first_tile + tiles) * tile_len);
    let beyond = amx::GROUPS_BEYOND * strip.group;
    assert!(x.values.len() >= (first + tiles * TILE_ROWS) * rows.cols + beyond);
    let bytes = sized(&mut scratch.bytes, (rows.cols + beyond) * STRIP);
    let zero = strip.zero as u8;
    match strip.bits {
        StripBits::Four(_) => take_apart(isa, packed, zero, &mut bytes[..rows.cols * STRIP]),
        _ => take_zero_off(isa, packed, zero, &mut bytes[..rows.cols * STRIP]),
    }
    let factors = sized(&mut scratch.factors, rows.groups * 2 * STRIP);
    read_all(isa, &strip.scales, 0, factors);
    if let Some(mins) = &strip.mins {
        read_all(isa, mins, STRIP, factors);
    }
    let operands = amx::Operands {
        cols: rows.cols,
        x: rows.values,
        x_factors: tile_factors[first_tile * tile_len..].as_ptr(),
        w: bytes.as_ptr().cast(),
        w_factors: factors.as_ptr(),
        mins: strip.mins.is_some(),
    };
    // SAFETY: rows, weights and factors have just been sized and checked, the caller vouches for `c`, and an
    // `Isa` is only made for a processor that has its features.
    unsafe {
        if strip.group == SPAN {
            amx::product::<SPAN>(&operands, tiles, c);
        } else {
            amx::product::<FINE>(&operands, tiles, c);
        }
    }
    tiles * TILE_ROWS
}

fn read_all(isa: Isa, scales: &StripScales<'_>, offset: usize, out: &mut [f32]) {
    for (group, out) in out.chunks_exact_mut(2 * STRIP).enumerate() {
        scales.read(isa, group, &mut out[offset..][..STRIP]);
    }
}

super::per_isa! {
    fn take_zero_off(isa; packed: &[u8], zero: u8, out: &mut [u8]) {
        for (packed, out) in packed.chunks(4 * PANEL).zip(out.chunks_exact_mut(4 * STRIP)) {
            for (byte, out) in packed.iter().zip(out) {
                *out = byte.wrapping_sub(zero);
            }
        }
    }
}
