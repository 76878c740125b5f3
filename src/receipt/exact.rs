//! Numbers whose bits count.

use serde::{Deserialize, Serialize};

/// A number, as people read it and to the bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exact {
    /// The number.
    pub value: f64,
    /// Its bits (IEEE 754, 64 of them) as 16 hexadecimal digits.
    pub bits: String,
}

impl From<f64> for Exact {
    fn from(value: f64) -> Self {
        Self {
            value,
            bits: format!("{:016x}", value.to_bits()),
        }
    }
}

impl Exact {
    /// Whether value and bits are the same number.
    pub fn is_consistent(&self) -> bool {
        *self == Self::from(self.value)
    }
}

/// How many 64-bit numbers lie between two, one of them counted: 0 for equal ones, 1 for neighbours.
pub(super) fn ulps(a: f64, b: f64) -> u64 {
    // The order of the numbers is that of these integers.
    let place = |value: f64| {
        let bits = value.to_bits() as i64;
        if bits < 0 {
            i64::MIN.wrapping_sub(bits)
        } else {
            bits
        }
    };
    place(a).abs_diff(place(b))
}
