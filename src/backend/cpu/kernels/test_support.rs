//! What the kernels' tests share.

use super::{compute::Compute, isa::Isa, pool::ThreadPool};

/// Divisor of the number of cases that tests try: Miri interprets every instruction, so it tries few.
pub(super) const COARSER: usize = if cfg!(miri) { 32 } else { 1 };

/// Pseudo-random values from -1 to 1, the same for the same `seed`.
pub(super) fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2) | 1;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1u64 << 23) as f32) - 1.0
        })
        .collect()
}

/// The bits of values, which compare equal for equal NaNs and unequal for 0 and -0.
pub(super) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// `threads` threads and an instruction set.
pub(super) fn compute(threads: usize, isa: Isa) -> Compute {
    let pool = ThreadPool::new(threads).unwrap();
    Compute { pool, isa }
}
