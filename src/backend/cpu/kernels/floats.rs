//! Conversions between f32 and 16-bit floats, in plain operations that vectorise on every instruction set.

use super::{
    Isa,
    isa::{IsaKind, per_isa},
};

/// An f16's value.
#[inline(always)]
fn widen(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let sign = u32::from(bits & 0x8000) << 16;
    // 2^112 moves f16's exponent bias to f32's; subnormals come out right as well.
    let scaled = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let finite = magnitude < 0x0f80_0000;
    f32::from_bits(if finite { scaled } else { magnitude | 0x7000_0000 } | sign)
}

/// The nearest f16, ties to even; what is too large becomes infinite.
#[inline(always)]
fn narrow(value: f32) -> u16 {
    let bits = value.to_bits();
    let (magnitude, sign) = (bits & 0x7fff_ffff, (bits >> 16) as u16 & 0x8000);
    // Half of f16's last place, less one where that is even: a carry rounds up.
    let rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    let normal = rounded.wrapping_sub(0x3800_0000) >> 13;
    // 0.5 has f16's smallest step as its last place.
    let subnormal = (f32::from_bits(magnitude) + 0.5)
        .to_bits()
        .wrapping_sub(0x3f00_0000);
    let special = 0x7c00 | (u32::from(magnitude > 0x7f80_0000) << 9);
    let narrowed = if magnitude < 0x3880_0000 {
        subnormal
    } else {
        normal
    };
    let narrowed = if magnitude < 0x477f_f000 {
        narrowed
    } else {
        special
    };
    narrowed as u16 | sign
}

/// f16 to f32, exact.
pub(super) fn expand_f16(isa: Isa, bits: &[u16], out: &mut [f32]) {
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` is only made for a processor that has its features.
        IsaKind::Amx | IsaKind::Avx512Vnni | IsaKind::Avx512 => unsafe { expand_f16_avx512(bits, out) },
        _ => expand_f16_plain(isa, bits, out),
    }
}

/// [`expand_f16_plain`] with the processor's own conversion.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn expand_f16_avx512(bits: &[u16], out: &mut [f32]) {
    use std::arch::x86_64::{_mm256_loadu_si256, _mm512_cvtph_ps, _mm512_storeu_ps};
    let (from, rest) = bits.as_chunks::<16>();
    let (to, rest_to) = out.as_chunks_mut::<16>();
    for (from, to) in from.iter().zip(to) {
        // SAFETY: sixteen elements each.
        unsafe {
            _mm512_storeu_ps(
                to.as_mut_ptr(),
                _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())),
            )
        };
    }
    for (from, to) in rest.iter().zip(rest_to) {
        *to = widen(*from);
    }
}

per_isa! {
    fn expand_f16_plain(isa; bits: &[u16], out: &mut [f32]) {
        for (value, &bits) in out.iter_mut().zip(bits) {
            *value = widen(bits);
        }
    }
}

per_isa! {
    /// bf16 to f32, exact.
    pub(super) fn expand_bf16(isa; bits: &[u16], out: &mut [f32]) {
        for (value, &bits) in out.iter_mut().zip(bits) {
            *value = f32::from_bits(u32::from(bits) << 16);
        }
    }
}

per_isa! {
    /// f32 to the nearest f16.
    pub(super) fn round_to_f16(isa; values: &[f32], out: &mut [u16]) {
        for (bits, &value) in out.iter_mut().zip(values) {
            *bits = narrow(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;
    use proptest::prelude::*;

    use super::*;
    use crate::backend::cpu::kernels::COARSER;

    #[test]
    fn every_f16_equals_the_half_crate_and_comes_back() {
        let bits: Vec<u16> = (0..=u16::MAX).step_by(COARSER).collect();
        for isa in Isa::available() {
            let (mut wide, mut back) = (vec![0.0; bits.len()], vec![0; bits.len()]);
            expand_f16(isa, &bits, &mut wide);
            round_to_f16(isa, &wide, &mut back);
            for ((&bits, wide), back) in bits.iter().zip(wide).zip(back) {
                let expected = f16::from_bits(bits);
                if expected.is_nan() {
                    assert!(wide.is_nan() && f16::from_bits(back).is_nan());
                } else {
                    assert_eq!(wide.to_bits(), expected.to_f32().to_bits());
                    assert_eq!(back, bits);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256 / COARSER as u32))]
        #[test]
        fn rounding_equals_the_half_crate(bits in prop::collection::vec(any::<u32>(), 64), small: bool) {
            // Random bits are seldom near what f16 can hold.
            let place = |b: u32| if small { b & 0x8fff_ffff | 0x3000_0000 } else { b };
            let values: Vec<f32> = bits.iter().map(|&b| f32::from_bits(place(b))).collect();
            for isa in Isa::available() {
                let mut found = vec![0; values.len()];
                round_to_f16(isa, &values, &mut found);
                for (value, found) in values.iter().zip(found) {
                    let expected = f16::from_f32(*value);
                    prop_assert!(expected.to_bits() == found || expected.is_nan() && f16::from_bits(found).is_nan());
                }
            }
        }
    }
}
