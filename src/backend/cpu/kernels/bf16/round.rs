//! f32 to bf16.

/// The nearest bf16's bits in the low half, ties to even. Numbers below the smallest normal become zero, as tiles
/// take them; what is not a number stays so.
#[inline(always)]
pub(in crate::backend::cpu::kernels) fn round(value: f32) -> u32 {
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let rounded = if magnitude < 0x0080_0000 {
        bits >> 16 & 0x8000
    } else {
        rounded
    };
    if magnitude > 0x7f80_0000 {
        bits >> 16 | 0x40
    } else {
        rounded
    }
}

/// A bf16's value.
#[inline(always)]
pub(in crate::backend::cpu::kernels) fn widen(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn equals_the_half_crate_but_for_subnormals() {
        let mut state = 1u32;
        for _ in 0..200_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = f32::from_bits(state);
            let (found, expected) = (round(value) as u16, bf16::from_f32(value));
            if value.is_nan() {
                assert!(bf16::from_bits(found).is_nan());
            } else if value.is_subnormal() {
                assert_eq!(found, expected.to_bits() & 0x8000);
            } else {
                assert_eq!(found, expected.to_bits(), "{value:e}");
            }
        }
    }
}
