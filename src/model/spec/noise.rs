//! Made-up weights: noise whose every value follows from a seed and from its place alone. So any part of a matrix can be made by
//! itself, by any thread, and a card makes the same values as the host (`noise.cu`).

use std::io;

use half::{bf16, f16};

use super::{StoredBytes, TensorFormat};
use crate::random::{GOLDEN, mix};

/// Values of floats that are made of one word, each of 16 of its bits.
const WORD_VALUES: usize = 4;

/// What 16 bits count from: they stand for a value from -1 to almost 1.
const HALF_RANGE: i32 = 1 << 15;

/// A matrix of noise in a storage format.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noise {
    format: TensorFormat,
    seed: u64,
    /// Values lie between this and its negative.
    amplitude: f32,
    bytes: usize,
}

impl Noise {
    /// The noise of the tensor with this name. Its standard deviation is near 1 / sqrt(cols), so that activations keep their
    /// size through the layers. `None` when a row is no whole number of the format's blocks, and in formats without noise.
    pub fn new(name: &str, format: TensorFormat, rows: usize, cols: usize) -> Option<Self> {
        let has_noise = matches!(
            format,
            TensorFormat::F32 | TensorFormat::Bf16 | TensorFormat::Q8_0 | TensorFormat::Q4_1
        );
        if !has_noise {
            return None;
        }
        let seed = |seed: u64, byte| mix(seed.wrapping_add(GOLDEN) ^ u64::from(byte));
        Some(Self {
            format,
            seed: name.bytes().fold(0, seed),
            // An even distribution over [-a, a] has the standard deviation a / sqrt(3).
            amplitude: 1.7 / (cols as f32).sqrt(),
            bytes: format.bytes_for(cols)?.checked_mul(rows)?,
        })
    }

    /// The format that it is stored in.
    pub fn format(&self) -> TensorFormat {
        self.format
    }

    /// Whether the values are floats. Those in f32, rounded to bf16, are those in bf16.
    pub fn is_of_floats(&self) -> bool {
        matches!(self.format, TensorFormat::F32 | TensorFormat::Bf16)
    }

    /// The counter of the word that value `index` of floats is the first of; `index` is a multiple of 4.
    pub fn counter(&self, index: usize) -> u64 {
        self.seed
            .wrapping_add(GOLDEN.wrapping_mul((index / WORD_VALUES) as u64))
    }

    /// What the 16 bits of a value are multiplied with, once they are counted from -32,768.
    pub fn scale(&self) -> f32 {
        self.amplitude / HALF_RANGE as f32
    }

    fn word(&self, index: usize) -> u64 {
        mix(self.counter(index * WORD_VALUES).wrapping_add(GOLDEN))
    }

    fn value(&self, index: usize) -> f32 {
        let bits = self.word(index / WORD_VALUES) >> (16 * (index % WORD_VALUES));
        (i32::from(bits as u16) - HALF_RANGE) as f32 * self.scale()
    }

    /// Fills the quantised values of a block, eight to a word.
    fn fill_quants(&self, block: usize, out: &mut [u8]) {
        let words = out.len() / 8;
        for (index, out) in out.chunks_exact_mut(8).enumerate() {
            out.copy_from_slice(&self.word(block * words + index).to_le_bytes());
        }
    }

    fn fill_block(&self, block: usize, out: &mut [u8]) {
        match self.format {
            TensorFormat::F32 => out.copy_from_slice(&self.value(block).to_le_bytes()),
            TensorFormat::Q8_0 => {
                out[..2].copy_from_slice(&f16::from_f32(self.amplitude / 127.0).to_le_bytes());
                self.fill_quants(block, &mut out[2..]);
            }
            TensorFormat::Q4_1 => {
                out[..2].copy_from_slice(&f16::from_f32(self.amplitude / 7.5).to_le_bytes());
                out[2..4].copy_from_slice(&f16::from_f32(-self.amplitude).to_le_bytes());
                self.fill_quants(block, &mut out[4..]);
            }
            // The only one that is left.
            _ => out.copy_from_slice(&bf16::from_f32(self.value(block)).to_le_bytes()),
        }
    }
}

impl StoredBytes for Noise {
    fn len(&self) -> usize {
        self.bytes
    }

    fn read_at(&self, offset: usize, out: &mut [u8]) -> io::Result<()> {
        let size = self.format.block_bytes();
        let inside = offset.checked_add(out.len()).is_some_and(|end| end <= self.bytes);
        if !inside || !offset.is_multiple_of(size) || !out.len().is_multiple_of(size) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("noise of {} bytes is made in whole blocks of {size}", self.bytes),
            ));
        }
        for (index, out) in out.chunks_exact_mut(size).enumerate() {
            self.fill_block(offset / size + index, out);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMATS: [TensorFormat; 4] = [
        TensorFormat::F32,
        TensorFormat::Bf16,
        TensorFormat::Q8_0,
        TensorFormat::Q4_1,
    ];

    fn bytes(noise: &Noise, offset: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        noise.read_at(offset, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn words_are_those_of_splitmix64() {
        // The first outputs of splitmix64 with the seed 1234567, as its reference implementation prints them
        // (https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64).
        let noise = Noise {
            seed: 1_234_567,
            ..Noise::new("x", TensorFormat::F32, 1, 4).unwrap()
        };
        let words: Vec<u64> = (0..3).map(|index| noise.word(index)).collect();
        assert_eq!(
            words,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn any_part_is_the_same_as_in_the_whole() {
        for format in FORMATS {
            let noise = Noise::new("a tensor", format, 6, 64).unwrap();
            let whole = bytes(&noise, 0, noise.len());
            let row = noise.len() / 6;
            for first in 0..6 {
                assert_eq!(bytes(&noise, first * row, row), whole[first * row..][..row]);
            }
            assert!(noise.read_at(1, &mut [0; 64]).is_err());
            assert!(noise.read_at(noise.len(), &mut vec![0; row]).is_err());
        }
    }

    #[test]
    fn tensors_differ_and_the_formats_of_floats_agree() {
        let noise = |name, format| Noise::new(name, format, 50, 300).unwrap();
        let (wide, narrow) = (noise("a", TensorFormat::F32), noise("a", TensorFormat::Bf16));
        let wide: Vec<f32> = bytes(&wide, 0, wide.len())
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        let rounded: Vec<u8> = wide
            .iter()
            .flat_map(|&value| bf16::from_f32(value).to_le_bytes())
            .collect();
        assert_eq!(bytes(&narrow, 0, narrow.len()), rounded);
        assert_ne!(bytes(&noise("b", TensorFormat::Bf16), 0, narrow.len()), rounded);
        let count = wide.len() as f64;
        let mean = wide.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
        let variance = wide
            .iter()
            .map(|&value| (f64::from(value) - mean).powi(2))
            .sum::<f64>()
            / count;
        let deviation = variance.sqrt() * 300f64.sqrt();
        assert!(
            mean.abs() < 0.002 && (deviation - 0.98).abs() < 0.02,
            "{mean} {deviation}"
        );
    }

    #[test]
    fn rows_that_are_no_whole_blocks_and_other_formats_have_no_noise() {
        assert_eq!(Noise::new("a", TensorFormat::Q8_0, 4, 33), None);
        assert_eq!(Noise::new("a", TensorFormat::F32, usize::MAX, 2), None);
        assert_eq!(Noise::new("a", TensorFormat::Q6K, 4, 256), None);
    }
}
