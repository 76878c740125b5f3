//! Attention of operands rounded to bf16, for a few query rows of one key head.
//!
//! Rounded are queries, after scaling, keys, softmax's numerators and values; sums are f32, in the order that
//! [`crate::backend::cpu::kernels::bf16`] says: scores in runs of [`RUN`] dimensions, sums of values in runs of [`RUN`] tokens that
//! begin at multiples of it. Queries are scaled by log2(e) besides, so that scores are exponents of 2. What numerators
//! are divided by is their sum before they are rounded.

#[cfg(target_arch = "x86_64")]
mod tiles;
mod vectors;

use std::{f32::consts::LOG2_E, ops::Range};

#[cfg(target_arch = "x86_64")]
use self::tiles::{Shaped, TileOperands};
use self::vectors::VectorOperands;
use super::{
    LayerCache, SEGMENT,
    query_tile::QueryTile,
    softmax::{Softmax, SoftmaxLayout},
};
#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::kernels::isa::IsaKind;
use crate::backend::cpu::kernels::{
    Isa,
    bf16::{RUN, TILE_ROWS as PART_ROWS},
    elementwise::soft_cap,
};

/// Most query rows of a tile, which share a segment's values in pairs; [`PART_ROWS`] are multiplied at a time.
pub(super) const TILE_ROWS: usize = 2 * PART_ROWS;
/// Runs of tokens in a segment.
const RUNS: usize = SEGMENT / RUN;
/// Below it 2^x counts as zero: far above where tiles would take it as such.
const LEAST_EXPONENT: f32 = -125.0;
/// 2^x for x from -0.5 to 0.5, in ascending powers; relative error below 3e-6 (minimax).
const EXP2: [f32; 5] = [
    0.999_999_3,
    0.693_121_8,
    0.240_247_44,
    0.055_917_863,
    0.009_570_102,
];
/// Adding 1.5 * 2^23 rounds to an integer.
const ROUNDING: f32 = 12_582_912.0;

pub(super) fn layout(tile: &QueryTile<'_>) -> SoftmaxLayout {
    SoftmaxLayout {
        rows: tile.rows,
        sum_rows: tile.rows.next_multiple_of(RUN / 2),
        width: tile.layer.shape.head_dim.next_multiple_of(RUN),
    }
}

/// 2^x for x of at most 0, relative error below 3e-6. In plain operations, so that every instruction set gives the
/// same bits.
#[inline(always)]
pub(super) fn exp2(x: f32) -> f32 {
    let shifted = x + ROUNDING;
    let fraction = x - (shifted - ROUNDING);
    let [c0, c1, c2, c3, c4] = EXP2;
    let p = c4.mul_add(fraction, c3);
    let p = p.mul_add(fraction, c2);
    let p = p.mul_add(fraction, c1);
    let p = p.mul_add(fraction, c0);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < LEAST_EXPONENT { 0.0 } else { p * power }
}

/// What the products of a segment read.
#[derive(Default)]
pub(super) struct Bf16Operands {
    vectors: VectorOperands,
    #[cfg(target_arch = "x86_64")]
    tiles: TileOperands,
}

/// Operands with a tile's queries.
pub(super) enum Ready<'a> {
    Vectors(Isa, &'a mut VectorOperands),
    #[cfg(target_arch = "x86_64")]
    Tiles(Shaped<'a>),
}

impl Bf16Operands {
    /// Rounds a tile's queries.
    pub(super) fn load(&mut self, isa: Isa, tile: &QueryTile<'_>, qkv: &[f32]) -> Ready<'_> {
        #[cfg(target_arch = "x86_64")]
        if isa.0 == IsaKind::Amx {
            // SAFETY: an `Isa` is only made for a processor that has its features.
            return Ready::Tiles(unsafe { self.tiles.load(isa, tile, qkv) });
        }
        self.vectors.load(isa, tile, qkv);
        Ready::Vectors(isa, &mut self.vectors)
    }
}

impl Ready<'_> {
    /// Softmax over a segment's tokens, for the rows that see any; the others' results are not defined.
    pub(super) fn attend(
        &mut self,
        tile: &QueryTile<'_>,
        cache: &LayerCache,
        segment: usize,
        part: &mut Softmax<'_>,
    ) {
        match self {
            Self::Vectors(isa, operands) => operands.attend(*isa, tile, cache, segment, part),
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(operands) => operands.attend(tile, cache, segment, part),
        }
    }
}

/// Rows of a tile that are multiplied at a time with a segment.
struct Part<'a> {
    tile: &'a QueryTile<'a>,
    segment: usize,
    rows: Range<usize>,
    /// What any of the rows sees, counted from the segment's first token; not empty.
    seen: Range<usize>,
    /// The runs of tokens in which that lies.
    runs: Range<usize>,
}

/// A tile's parts that see anything of a segment.
fn parts<'a>(tile: &'a QueryTile<'_>, segment: usize) -> impl Iterator<Item = Part<'a>> {
    (0..tile.rows).step_by(PART_ROWS).filter_map(move |first| {
        let rows = first..(first + PART_ROWS).min(tile.rows);
        let seen = tile.seen_by(rows.clone(), segment);
        (!seen.is_empty()).then(|| Part {
            tile,
            segment,
            rows,
            runs: seen.start / RUN..seen.end.div_ceil(RUN),
            seen,
        })
    })
}

/// What makes exponents of 2 of products of queries and keys.
fn scale(tile: &QueryTile<'_>) -> f32 {
    tile.layer.scale * LOG2_E
}

/// Caps the scores that a row sees.
fn cap(isa: Isa, tile: &QueryTile<'_>, seen: &mut [f32]) {
    if let Some(cap) = tile.layer.soft_cap {
        soft_cap(isa, seen, cap * LOG2_E);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp2_is_close_to_f64() {
        let mut x = -125.0f32;
        while x <= 0.0 {
            let expected = f64::from(x).exp2();
            let error = (f64::from(exp2(x)) - expected).abs() / expected;
            assert!(error < 3e-6, "2^{x}: relative error {error}");
            x += 0.0137 * crate::backend::cpu::kernels::COARSER as f32;
        }
        assert_eq!(exp2(-125.1), 0.0);
        assert_eq!(exp2(f32::NEG_INFINITY), 0.0);
        assert!(exp2(f32::NAN).is_nan());
    }
}
