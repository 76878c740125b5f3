//! The formats in which tensors are stored, and how their blocks unpack into integers, scales and minimums.
//!
//! The formats are ggml's, and layouts follow its `ggml-common.h`. A weight of a quantised format is `scale * quant +
//! min`. The golden test compares with the dequantisation of the Python package `gguf`.

use half::f16;

/// A format of tensors that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are ggml's own")]
pub enum TensorFormat {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
}

impl TensorFormat {
    /// All formats.
    pub const ALL: [Self; 14] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Q8K,
    ];

    /// Where a quantised block has its factors in f16, scales and minimums, in bytes from its beginning. Q8_K has one in f32
    /// instead, and floats have none.
    pub fn half_offsets(self) -> &'static [usize] {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 | Self::Q8K => &[],
            Self::Q4_0 | Self::Q5_0 | Self::Q8_0 => &[0],
            Self::Q4_1 | Self::Q5_1 | Self::Q4K | Self::Q5K => &[0, 2],
            Self::Q2K => &[80, 82],
            Self::Q3K => &[108],
            Self::Q6K => &[208],
        }
    }
}

/// A tensor type that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "ggml tensor type {0} is not supported (F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K and Q8_K are)"
)]
pub struct FormatError(pub u32);

impl TryFrom<u32> for TensorFormat {
    type Error = FormatError;

    fn try_from(ggml_type: u32) -> Result<Self, FormatError> {
        Ok(match ggml_type {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            10 => Self::Q2K,
            11 => Self::Q3K,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            15 => Self::Q8K,
            30 => Self::Bf16,
            other => return Err(FormatError(other)),
        })
    }
}

/// A scale or minimum as the file has it: `base * step`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factor {
    /// Exact in f16, except for Q8_K.
    pub base: f32,
    /// 1 in formats that have no steps.
    pub step: i8,
}

impl Factor {
    /// The minimum of formats without minimums.
    const NONE: Self = Self { base: 0.0, step: 1 };

    /// A factor without steps.
    fn plain(base: f32) -> Self {
        Self { base, step: 1 }
    }

    /// The factor, rounded to f32 once.
    pub(crate) fn value(self) -> f32 {
        self.base * f32::from(self.step)
    }
}

/// Neighbouring weights that share a scale: `weight = scale * quant + min`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    pub scale: Factor,
    pub min: Factor,
    /// The integers. Only the first [`TensorFormat::group_size`] are used.
    pub quants: [i8; 32],
}

impl TensorFormat {
    /// The name in lower case, as model files usually have it, for example `q4_1`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q8_0 => "q8_0",
            Self::Q2K => "q2_k",
            Self::Q3K => "q3_k",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
            Self::Q8K => "q8_k",
        }
    }

    /// Number of weights in a block.
    pub fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K | Self::Q8K => 256,
        }
    }

    /// Bytes that a block takes.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::Q8K => 292,
        }
    }

    /// Bytes that `elements` weights take, or `None` when they do not fill whole blocks or the number overflows.
    pub fn bytes_for(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_elements()) {
            return None;
        }
        (elements / self.block_elements()).checked_mul(self.block_bytes())
    }

    /// Number of neighbouring weights that share a scale, for quantised formats.
    pub(crate) fn group_size(self) -> usize {
        match self {
            Self::Q2K | Self::Q3K | Self::Q6K => 16,
            _ => 32,
        }
    }

    /// Whether the format has minimums.
    pub(crate) fn has_min(self) -> bool {
        matches!(self, Self::Q4_1 | Self::Q5_1 | Self::Q2K | Self::Q4K | Self::Q5K)
    }

    /// Unpacks one block of [`Self::block_bytes`] bytes, and calls `emit` with each group in the order of the
    /// elements. Formats of floats have no groups.
    pub(crate) fn unpack(self, block: &[u8], mut emit: impl FnMut(Group)) {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => {}
            Self::Q4_0 => {
                let mut quants = nibbles(&block[2..18]);
                quants.iter_mut().for_each(|q| *q -= 8);
                emit(Group {
                    scale: Factor::plain(half_at(block, 0)),
                    min: Factor::NONE,
                    quants,
                });
            }
            Self::Q4_1 => {
                let quants = nibbles(&block[4..20]);
                emit(Group {
                    scale: Factor::plain(half_at(block, 0)),
                    min: Factor::plain(half_at(block, 2)),
                    quants,
                });
            }
            Self::Q5_0 => {
                let mut quants = nibbles(&block[6..22]);
                add_fifth_bit(&mut quants, &block[2..6]);
                quants.iter_mut().for_each(|q| *q -= 16);
                emit(Group {
                    scale: Factor::plain(half_at(block, 0)),
                    min: Factor::NONE,
                    quants,
                });
            }
            Self::Q5_1 => {
                let mut quants = nibbles(&block[8..24]);
                add_fifth_bit(&mut quants, &block[4..8]);
                emit(Group {
                    scale: Factor::plain(half_at(block, 0)),
                    min: Factor::plain(half_at(block, 2)),
                    quants,
                });
            }
            Self::Q8_0 => {
                let quants = std::array::from_fn(|i| block[2 + i] as i8);
                emit(Group {
                    scale: Factor::plain(half_at(block, 0)),
                    min: Factor::NONE,
                    quants,
                });
            }
            Self::Q2K => unpack_q2k(block, emit),
            Self::Q3K => unpack_q3k(block, emit),
            Self::Q4K => unpack_q4k(block, emit),
            Self::Q5K => unpack_q5k(block, emit),
            Self::Q6K => unpack_q6k(block, emit),
            Self::Q8K => {
                let scale = Factor::plain(f32::from_le_bytes([block[0], block[1], block[2], block[3]]));
                for group in block[4..260].chunks_exact(32) {
                    emit(Group {
                        scale,
                        min: Factor::NONE,
                        quants: std::array::from_fn(|i| group[i] as i8),
                    });
                }
            }
        }
    }
}

/// The f16 at byte `at`.
fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// The elements of 16 bytes: the low halves are elements 0..16, the high halves 16..32.
fn nibbles(bytes: &[u8]) -> [i8; 32] {
    std::array::from_fn(|i| {
        if i < 16 {
            (bytes[i] & 15) as i8
        } else {
            (bytes[i - 16] >> 4) as i8
        }
    })
}

/// Adds the fifth bit of each integer; bit `i` of the four bytes belongs to integer `i`.
fn add_fifth_bit(quants: &mut [i8; 32], bits: &[u8]) {
    for (i, quant) in quants.iter_mut().enumerate() {
        *quant |= ((bits[i / 8] >> (i % 8)) & 1) as i8 * 16;
    }
}

/// Two bits per weight, in 16 groups of 16 with a four-bit scale and minimum.
fn unpack_q2k(block: &[u8], mut emit: impl FnMut(Group)) {
    let (scales, quants) = (&block[..16], &block[16..80]);
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    for (index, &scale) in scales.iter().enumerate() {
        let (half, shift, side) = (index / 8, (index % 8) / 2 * 2, index % 2);
        let bytes = &quants[half * 32 + side * 16..][..16];
        let mut group = Group {
            scale: Factor {
                base: d,
                step: (scale & 15) as i8,
            },
            min: Factor {
                base: -dmin,
                step: (scale >> 4) as i8,
            },
            quants: [0; 32],
        };
        for (quant, byte) in group.quants.iter_mut().zip(bytes) {
            *quant = ((byte >> shift) & 3) as i8;
        }
        emit(group);
    }
}

/// Three bits per weight, in 16 groups of 16 with a signed six-bit scale.
fn unpack_q3k(block: &[u8], mut emit: impl FnMut(Group)) {
    let (high, quants, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half_at(block, 108);
    for index in 0..16 {
        let low = if index < 8 {
            packed[index] & 15
        } else {
            packed[index - 8] >> 4
        };
        let top = (packed[8 + index % 4] >> (2 * (index / 4))) & 3;
        let scale = Factor {
            base: d,
            step: (low | (top << 4)) as i8 - 32,
        };
        let (half, step, side) = (index / 8, (index % 8) / 2, index % 2);
        let mut group = Group {
            scale,
            min: Factor::NONE,
            quants: [0; 32],
        };
        for i in 0..16 {
            let value = ((quants[half * 32 + side * 16 + i] >> (2 * step)) & 3) as i8;
            let bit = (high[side * 16 + i] >> (half * 4 + step)) & 1;
            group.quants[i] = value - if bit == 0 { 4 } else { 0 };
        }
        emit(group);
    }
}

/// The six-bit scale and minimum of group `j` of Q4_K and Q5_K.
fn scale_and_min(packed: &[u8], j: usize) -> (i8, i8) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (
            (packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4),
            (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4),
        )
    };
    (scale as i8, min as i8)
}

/// Emits the 8 groups of 32 of a Q4_K or Q5_K block; `quants_of` gives the weights of group `j`.
fn unpack_six_bit_factors(block: &[u8], quants_of: impl Fn(usize) -> [i8; 32], mut emit: impl FnMut(Group)) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for j in 0..8 {
        let (scale, min) = scale_and_min(&block[4..16], j);
        emit(Group {
            scale: Factor { base: d, step: scale },
            min: Factor {
                base: -dmin,
                step: min,
            },
            quants: quants_of(j),
        });
    }
}

/// Bits 0 to 3 of weight `i` of group `j`, of Q4_K and Q5_K: two groups share 32 bytes.
fn low_nibble(packed: &[u8], j: usize, i: usize) -> u8 {
    (packed[j / 2 * 32 + i] >> (4 * (j % 2))) & 15
}

/// Four bits per weight, in 8 groups of 32 with a six-bit scale and minimum.
fn unpack_q4k(block: &[u8], emit: impl FnMut(Group)) {
    let packed = &block[16..144];
    let quants_of = |j| std::array::from_fn(|i| low_nibble(packed, j, i) as i8);
    unpack_six_bit_factors(block, quants_of, emit);
}

/// Five bits per weight, in 8 groups of 32 with a six-bit scale and minimum.
fn unpack_q5k(block: &[u8], emit: impl FnMut(Group)) {
    let (high, packed) = (&block[16..48], &block[48..176]);
    let quants_of =
        |j| std::array::from_fn(|i| (low_nibble(packed, j, i) | (((high[i] >> j) & 1) << 4)) as i8);
    unpack_six_bit_factors(block, quants_of, emit);
}

/// Six bits per weight, in 16 groups of 16 with a signed eight-bit scale.
fn unpack_q6k(block: &[u8], mut emit: impl FnMut(Group)) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for (index, &scale) in scales.iter().enumerate() {
        let (half, quarter, side) = (index / 8, (index % 8) / 2, index % 2);
        let mut group = Group {
            scale: Factor {
                base: d,
                step: scale as i8,
            },
            min: Factor::NONE,
            quants: [0; 32],
        };
        for i in 0..16 {
            let l = side * 16 + i;
            let nibble = (low[half * 64 + (quarter % 2) * 32 + l] >> (4 * (quarter / 2))) & 15;
            let top = (high[half * 32 + l] >> (2 * quarter)) & 3;
            group.quants[i] = (nibble | (top << 4)) as i8 - 32;
        }
        emit(group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::{MatrixSource, RawElements};

    const ALL: [TensorFormat; 13] = [
        TensorFormat::F32,
        TensorFormat::F16,
        TensorFormat::Bf16,
        TensorFormat::Q4_0,
        TensorFormat::Q4_1,
        TensorFormat::Q5_0,
        TensorFormat::Q5_1,
        TensorFormat::Q8_0,
        TensorFormat::Q2K,
        TensorFormat::Q3K,
        TensorFormat::Q4K,
        TensorFormat::Q5K,
        TensorFormat::Q6K,
    ];

    #[test]
    #[cfg_attr(miri, ignore = "nothing unsafe, and a long file to read")]
    fn every_format_equals_the_gguf_package() {
        let golden = include_str!("../../../tests/golden/block_formats.json");
        let golden: serde_json::Value = serde_json::from_str(golden).unwrap();
        for format in ALL {
            let case = &golden[format.name()];
            let hex = case["bytes"].as_str().unwrap();
            let bytes: Vec<u8> = (0..hex.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
                .collect();
            let expected: Vec<f64> = case["values"]
                .as_array()
                .unwrap()
                .iter()
                .map(|v| v.as_f64().unwrap())
                .collect();
            let mut found = vec![0f32; expected.len()];
            let source = MatrixSource {
                rows: 1,
                cols: found.len(),
                elements: RawElements::Bytes(format, &bytes),
            };
            assert!(source.is_consistent(), "{format:?}");
            source.read_row(0, &mut found).unwrap();
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                // The reference rounds the product and the sum, and these values are rounded once.
                let error = (f64::from(*found) - expected).abs();
                assert!(
                    error <= 1e-5 * (1.0 + expected.abs()),
                    "{format:?} element {i}: {found}, expected {expected}"
                );
            }
        }
    }
}
