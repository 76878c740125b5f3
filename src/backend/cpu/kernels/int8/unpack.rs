//! Unpacking strips of weights to a byte each, as tiles load them.

use crate::backend::cpu::kernels::{
    isa::per_isa,
    panel::{PANEL_WORD_BYTES, STRIP},
};

per_isa! {
    /// Unpacks a strip of [`StripBits::Four`](crate::backend::cpu::kernels::strip::StripBits::Four) to `[k / 4][STRIP][4]`, each byte minus `zero`.
    pub(super) fn unpack_four_bit(isa; packed: &[u8], zero: u8, out: &mut [u8]) {
        for (packed, out) in packed.chunks(PANEL_WORD_BYTES).zip(out.chunks_exact_mut(8 * STRIP)) {
            let (low, high) = out.split_at_mut(4 * STRIP);
            for ((byte, low), high) in packed.iter().zip(low).zip(high) {
                *low = (byte & 15).wrapping_sub(zero);
                *high = (byte >> 4).wrapping_sub(zero);
            }
        }
    }
}

per_isa! {
    /// Copies a strip of [`StripBits::Eight`](crate::backend::cpu::kernels::strip::StripBits::Eight) to `[k / 4][STRIP][4]`, each byte minus `zero`.
    pub(super) fn copy_eight_bit(isa; packed: &[u8], zero: u8, out: &mut [u8]) {
        for (packed, out) in packed.chunks(PANEL_WORD_BYTES).zip(out.chunks_exact_mut(4 * STRIP)) {
            for (byte, out) in packed.iter().zip(out) {
                *out = byte.wrapping_sub(zero);
            }
        }
    }
}
