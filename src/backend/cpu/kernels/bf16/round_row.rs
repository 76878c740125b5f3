//! Rounding rows of activations with the processor's own instruction.

use std::arch::x86_64::{__m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_loadu_ps, _mm512_storeu_si512};

use super::layout::{RUN, RUN_PAIRS, RunBits};

/// Rounds a row into its runs, the last filled up with zeros.
///
/// Calling it from other code is `unsafe` because the processor must have AVX-512 F and BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(in crate::backend::cpu::kernels) fn round_row<'a>(x: &[f32], out: impl Iterator<Item = &'a mut RunBits>) {
    for (x, out) in x.chunks(RUN).zip(out) {
        let mut run = [0.0; RUN];
        let x = if x.len() == RUN {
            x
        } else {
            run[..x.len()].copy_from_slice(x);
            &run
        };
        // SAFETY: `x` is 32 f32, of which each load reads 16; `out` is the 64 bytes that are stored. Both vector
        // types are 64 bytes of which any bits are a value.
        unsafe {
            let (first, second) = (
                _mm512_loadu_ps(x.as_ptr()),
                _mm512_loadu_ps(x.as_ptr().add(RUN_PAIRS)),
            );
            let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first));
            _mm512_storeu_si512(out.0.as_mut_ptr().cast(), both);
        }
    }
}
