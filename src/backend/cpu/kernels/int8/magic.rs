//! A float whose low bits are an integer: rounding to integers, and integer sums that are read as floats.

/// 1.5 * 2^23. Adding it to a value rounds the value to an integer, ties to even, and leaves the integer in the low bits.
///
/// The other way round, adding an integer below 2^22 in magnitude to the bits of this float adds the integer to its value. So an
/// integer sum that starts from these bits needs no conversion: read as a float, one multiply-add subtracts the constant again and
/// scales. The result is the scaled sum, rounded once, when `scale * MAGIC` is exact, as
/// [`StripScales::are_short`](crate::backend::cpu::kernels::strip::StripScales::are_short) says.
pub(super) const MAGIC: f32 = 12_582_912.0;
/// The bits of [`MAGIC`].
#[cfg(target_arch = "x86_64")]
pub(super) const MAGIC_BITS: i32 = MAGIC.to_bits() as i32;
