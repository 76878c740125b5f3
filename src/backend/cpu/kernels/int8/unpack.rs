//! Unpacking strips of weights to a byte each.

#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::kernels::{
    buffers::scratch_slice,
    isa::{IsaKind, per_isa},
    panel::{PANEL_WORD_BYTES, STRIP},
    strip::StripBits,
};
use crate::backend::cpu::kernels::{isa::Isa, strip::Strip};

/// The same weights with a byte each, where that makes a kernel faster. `bytes` is scratch for them.
pub(in crate::backend::cpu::kernels) fn unpacked<'a>(
    strip: Strip<'a>,
    isa: Isa,
    cols: usize,
    bytes: &'a mut Vec<u8>,
) -> Strip<'a> {
    match (strip.bits, isa.0) {
        #[cfg(target_arch = "x86_64")]
        (StripBits::Four(packed), IsaKind::Amx | IsaKind::Avx512Vnni) => {
            let bytes = scratch_slice(bytes, cols * STRIP);
            unpack_four_bit(isa, packed, 0, bytes);
            Strip {
                bits: StripBits::Unpacked(bytes),
                ..strip
            }
        }
        _ => {
            let _ = (cols, bytes);
            strip
        }
    }
}

#[cfg(target_arch = "x86_64")]
per_isa! {
    /// Unpacks a strip of [`StripBits::Four`] to `[k / 4][STRIP][4]`, each byte minus `zero`.
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

#[cfg(target_arch = "x86_64")]
per_isa! {
    /// Copies a strip of [`StripBits::Eight`] to `[k / 4][STRIP][4]`, each byte minus `zero`.
    pub(super) fn copy_eight_bit(isa; packed: &[u8], zero: u8, out: &mut [u8]) {
        for (packed, out) in packed.chunks(PANEL_WORD_BYTES).zip(out.chunks_exact_mut(4 * STRIP)) {
            for (byte, out) in packed.iter().zip(out) {
                *out = byte.wrapping_sub(zero);
            }
        }
    }
}
