//! Powers of two, precise enough for numerators that are rounded to bf16.

/// Below this exponent 2^x is 0. It is far above the exponents whose powers tiles read as 0.
pub(super) const LEAST_EXPONENT: f32 = -125.0;
/// Coefficients of 2^x for x from -0.5 to 0.5, in ascending powers; relative error below 3e-6 (minimax).
pub(super) const EXP2: [f32; 5] = [
    0.999_999_3,
    0.693_121_8,
    0.240_247_44,
    0.055_917_863,
    0.009_570_102,
];
/// 1.5 * 2^23: adding it rounds to an integer.
pub(super) const ROUNDING: f32 = 12_582_912.0;

/// 2^x for x of at most 0, with a relative error below 3e-6. In plain operations, so that every instruction set gives
/// the same bits.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::kernels::test_support::COARSER;

    #[test]
    fn exp2_is_close_to_f64() {
        let mut x = -125.0f32;
        while x <= 0.0 {
            let expected = f64::from(x).exp2();
            let error = (f64::from(exp2(x)) - expected).abs() / expected;
            assert!(error < 3e-6, "2^{x}: relative error {error}");
            x += 0.0137 * COARSER as f32;
        }
        assert_eq!(exp2(-125.1), 0.0);
        assert_eq!(exp2(f32::NEG_INFINITY), 0.0);
        assert!(exp2(f32::NAN).is_nan());
    }
}
