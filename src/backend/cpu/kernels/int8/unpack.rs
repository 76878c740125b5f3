//! Unpacking weights to a byte each, as tiles load them.

use super::{sizes::TILE_OUTPUTS, tile_lines::TileWords};
use crate::backend::cpu::kernels::{isa::per_isa, panel::PANEL_WORD_BYTES, strip::SIX_BIT_WORDS};

per_isa! {
    /// Unpacks the first outputs of [`StripBits::Four`](crate::backend::cpu::kernels::strip::StripBits::Four) to
    /// `[k / 4]`, each byte minus `zero`.
    pub(super) fn unpack_four_bit(isa; packed: &[u8], zero: u8, out: &mut [TileWords]) {
        let words = packed.chunks(PANEL_WORD_BYTES);
        for (packed, [low, high]) in words.zip(out.as_chunks_mut().0) {
            let packed = &packed[..4 * TILE_OUTPUTS];
            for ((byte, low), high) in packed.iter().zip(&mut low.0).zip(&mut high.0) {
                *low = (byte & 15).wrapping_sub(zero);
                *high = (byte >> 4).wrapping_sub(zero);
            }
        }
    }
}

per_isa! {
    /// Unpacks the first outputs of [`StripBits::Six`](crate::backend::cpu::kernels::strip::StripBits::Six) to
    /// `[k / 4]`, each byte minus `zero`.
    pub(super) fn unpack_six_bit(isa; packed: &[u8], zero: u8, out: &mut [TileWords]) {
        let units = packed.chunks(SIX_BIT_WORDS * PANEL_WORD_BYTES);
        for (unit, out) in units.zip(out.as_chunks_mut::<4>().0) {
            let [first, second, high] = [0, 1, 2].map(|word| &unit[word * PANEL_WORD_BYTES..][..4 * TILE_OUTPUTS]);
            for (quarter, out) in out.iter_mut().enumerate() {
                let low = if quarter < 2 { first } else { second };
                let (low_shift, high_shift) = (quarter % 2 * 4, quarter * 2);
                for ((low, high), out) in low.iter().zip(high).zip(&mut out.0) {
                    *out = ((low >> low_shift) & 15 | ((high >> high_shift) & 3) << 4).wrapping_sub(zero);
                }
            }
        }
    }
}

per_isa! {
    /// Copies the first outputs of [`StripBits::Eight`](crate::backend::cpu::kernels::strip::StripBits::Eight) to
    /// `[k / 4]`, each byte minus `zero`.
    pub(super) fn copy_eight_bit(isa; packed: &[u8], zero: u8, out: &mut [TileWords]) {
        let words = packed.chunks(PANEL_WORD_BYTES);
        for (packed, out) in words.zip(out) {
            let packed = &packed[..4 * TILE_OUTPUTS];
            for (byte, out) in packed.iter().zip(&mut out.0) {
                *out = byte.wrapping_sub(zero);
            }
        }
    }
}
