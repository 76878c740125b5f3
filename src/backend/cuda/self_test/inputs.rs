//! Made-up inputs of kernels, which are the same in every run.

use half::bf16;

use crate::random::Random;

/// Made-up numbers.
pub(super) struct Inputs {
    random: Random,
}

impl Inputs {
    /// Each test has numbers of its own.
    pub(super) fn new(test: u64) -> Self {
        Self {
            random: Random::new(test),
        }
    }

    /// A number from 0 to `end - 1`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.random.below(end.max(1))
    }

    /// A byte of any value.
    pub(super) fn byte(&mut self) -> u8 {
        (self.random.bits() >> 56) as u8
    }

    /// A whole number from `-most` to `most`.
    pub(super) fn whole(&mut self, most: i32) -> f32 {
        (self.below(2 * most as usize + 1) as i32 - most) as f32
    }

    /// A number from a distribution like the normal one, with mean 0 and variance 1: a sum of uniform ones.
    pub(super) fn normal(&mut self) -> f32 {
        let uniform = |bits: u64| f64::from((bits >> 40) as u32) / f64::from(1 << 24) - 0.5;
        let sum: f64 = (0..12).map(|_| uniform(self.random.bits())).sum();
        sum as f32
    }

    pub(super) fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal()).collect()
    }

    /// Normally distributed numbers, as the bits of bf16.
    pub(super) fn bf16s(&mut self, count: usize) -> Vec<u16> {
        (0..count).map(|_| to_bf16(self.normal())).collect()
    }

    /// The numbers from 0 to `count - 1` in any order.
    pub(super) fn shuffled(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        self.random.shuffle(&mut order);
        order
    }
}

pub(super) fn to_bf16(value: f32) -> u16 {
    bf16::from_f32(value).to_bits()
}

pub(super) fn from_bf16(bits: u16) -> f32 {
    bf16::from_bits(bits).to_f32()
}

/// The values of bits of bf16.
pub(super) fn from_bf16s(bits: &[u16]) -> Vec<f32> {
    bits.iter().map(|bits| from_bf16(*bits)).collect()
}
