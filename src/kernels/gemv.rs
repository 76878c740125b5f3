//! Products with one or two rows: weights are expanded in registers instead of through a tile, because here
//! the tile's round trip through the cache would cost more than the arithmetic. The chain per element is the
//! tiled path's, so the bits are too.

use super::packed::PANEL;

/// A panel's quantised weights, from its first input on. Slices reach to the panel's end.
pub(super) struct PanelView<'a> {
    /// Inputs that share a scale.
    pub group: usize,
    pub bits: PanelBits<'a>,
    pub scales: PanelScales<'a>,
    /// `None` when all are 0.
    pub mins: Option<PanelScales<'a>>,
}

#[derive(Clone, Copy)]
pub(super) enum PanelBits<'a> {
    /// `[k / 2][PANEL]`, even `k` in the low nibble.
    Four(&'a [u8]),
    /// `[k][PANEL]`
    Eight(&'a [i8]),
}

#[derive(Clone, Copy)]
pub(super) enum PanelScales<'a> {
    F16(&'a [u16]),
    F32(&'a [f32]),
}

impl PanelView<'_> {
    fn check(&self, k: usize) {
        let groups = k / self.group * PANEL;
        let covers = |scales: &PanelScales<'_>| match scales {
            PanelScales::F16(v) => v.len() >= groups,
            PanelScales::F32(v) => v.len() >= groups,
        };
        let bits = match self.bits {
            PanelBits::Four(v) => v.len() * 2,
            PanelBits::Eight(v) => v.len(),
        };
        assert!(k.is_multiple_of(self.group) && self.group.is_multiple_of(2) && bits >= k * PANEL);
        assert!(covers(&self.scales) && self.mins.as_ref().is_none_or(covers));
    }
}

/// `c[j] += Σ_k x[k] * w[k][j]` for one panel.
///
/// # Safety
/// The processor has AVX-512 F, BW and VL.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn avx512(panel: &PanelView<'_>, x: &[f32], c: &mut [f32; PANEL]) {
    use std::arch::x86_64::{
        __m512, _mm_loadu_si128, _mm256_loadu_si256, _mm512_and_si512, _mm512_cvtepi8_epi32,
        _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
        _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_srli_epi32, _mm512_storeu_ps,
    };
    const VECTORS: usize = PANEL / 16;
    panel.check(x.len());

    /// # Safety
    /// `scales` holds `PANEL` values from `at` on; the processor has AVX-512 F.
    #[target_feature(enable = "avx512f")]
    unsafe fn read(scales: &PanelScales<'_>, at: usize) -> [__m512; VECTORS] {
        let mut out = [_mm512_setzero_ps(); VECTORS];
        for (j, out) in out.iter_mut().enumerate() {
            // SAFETY: in bounds by the caller's promise.
            *out = unsafe {
                match scales {
                    PanelScales::F16(v) => {
                        _mm512_cvtph_ps(_mm256_loadu_si256(v.as_ptr().add(at + 16 * j).cast()))
                    }
                    PanelScales::F32(v) => _mm512_loadu_ps(v.as_ptr().add(at + 16 * j)),
                }
            };
        }
        out
    }

    // SAFETY: `check` has compared all lengths with `x.len()`.
    unsafe {
        let mut sums = [_mm512_setzero_ps(); VECTORS];
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum = _mm512_loadu_ps(c.as_ptr().add(16 * j));
        }
        let low = _mm512_set1_epi32(15);
        for first in (0..x.len()).step_by(panel.group) {
            let at = first / panel.group * PANEL;
            let scales = read(&panel.scales, at);
            let mins = panel
                .mins
                .as_ref()
                .map_or([_mm512_setzero_ps(); VECTORS], |mins| read(mins, at));
            match panel.bits {
                PanelBits::Four(bytes) => {
                    for k in (first..first + panel.group).step_by(2) {
                        let (even, odd) = (
                            _mm512_set1_ps(*x.as_ptr().add(k)),
                            _mm512_set1_ps(*x.as_ptr().add(k + 1)),
                        );
                        for j in 0..VECTORS {
                            let pair = _mm_loadu_si128(bytes.as_ptr().add(k / 2 * PANEL + 16 * j).cast());
                            let pair = _mm512_cvtepu8_epi32(pair);
                            let quant = _mm512_cvtepi32_ps(_mm512_and_si512(pair, low));
                            sums[j] =
                                _mm512_fmadd_ps(even, _mm512_fmadd_ps(quant, scales[j], mins[j]), sums[j]);
                            let quant = _mm512_cvtepi32_ps(_mm512_srli_epi32::<4>(pair));
                            sums[j] =
                                _mm512_fmadd_ps(odd, _mm512_fmadd_ps(quant, scales[j], mins[j]), sums[j]);
                        }
                    }
                }
                PanelBits::Eight(quants) => {
                    for k in first..first + panel.group {
                        let input = _mm512_set1_ps(*x.as_ptr().add(k));
                        for j in 0..VECTORS {
                            let quant = _mm_loadu_si128(quants.as_ptr().add(k * PANEL + 16 * j).cast());
                            let quant = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(quant));
                            sums[j] =
                                _mm512_fmadd_ps(input, _mm512_fmadd_ps(quant, scales[j], mins[j]), sums[j]);
                        }
                    }
                }
            }
        }
        for (j, sum) in sums.iter().enumerate() {
            _mm512_storeu_ps(c.as_mut_ptr().add(16 * j), *sum);
        }
    }
}
