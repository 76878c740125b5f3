//! Products of eight-bit activations with four- and eight-bit weights, in integers.
//!
//! Inside a group of inputs that share a weight scale, sums are exact integers, so neither the order nor the
//! instruction set can change them. Across groups, each element is one chain of fused multiply-adds in
//! ascending order: `t = d * Σ q·x`, `t += min * Σ x` where the format has minimums, `c += t * scale(x)`.
//! Batched equals alone, to the bit.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
mod rows;
#[cfg(target_arch = "x86_64")]
mod tiles;

pub(super) use rows::Int8Rows;
#[cfg(target_arch = "x86_64")]
pub(super) use tiles::{TileScratch, product_of_tiles};

use self::rows::{FINE, SPAN};
use super::{
    Isa, Output,
    buffers::sized,
    floats::expand_f16,
    isa::{IsaKind, per_isa},
    packed::PANEL,
};

/// Outputs that a kernel computes together for many rows: two AVX-512 vectors.
pub(super) const STRIP: usize = 32;
/// Most rows of activations that a kernel takes at once.
pub(super) const MAX_ROWS: usize = 6;
/// Rows that are taken together where the processor multiplies tiles of bytes: with two vectors of outputs each,
/// their sums fill 24 of 32 registers.
pub(super) const TILE_ROWS: usize = 12;
/// Up to so many rows a kernel takes a whole panel: memory is read in its order, and sums still fit registers.
pub(super) const PANEL_ROWS: usize = 2;

/// Integer weights of a strip, from its first output on. Four bytes of an output lie together.
#[derive(Clone, Copy)]
pub(super) enum StripBits<'a> {
    /// `[k / 8][PANEL][4]`: byte `b` has input `b` in its low and input `4 + b` in its high nibble.
    Four(&'a [u8]),
    /// `[k / 4][PANEL][4]`
    Eight(&'a [u8]),
    /// `[k / 4][STRIP][4]`: a strip's [`StripBits::Four`] taken apart.
    Unpacked(&'a [u8]),
}

impl StripBits<'_> {
    /// Bytes from one run of inputs to the next, and inputs in a run.
    fn layout(&self) -> (usize, usize) {
        match self {
            Self::Four(_) => (4 * PANEL, 8),
            Self::Eight(_) => (4 * PANEL, 4),
            Self::Unpacked(_) => (4 * STRIP, 4),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Four(bytes) | Self::Eight(bytes) | Self::Unpacked(bytes) => bytes,
        }
    }
}

/// Scales or minimums of a strip, `[group][PANEL]` from its first output on.
#[derive(Clone, Copy)]
pub(super) enum StripScales<'a> {
    F16(&'a [u16]),
    F32(&'a [f32]),
    /// `bases[group / per_base] * steps[group]`
    Steps {
        bases: &'a [u16],
        steps: &'a [i8],
        per_base: usize,
    },
}

impl StripScales<'_> {
    /// Whether a scale times 1.5 * 2^23 is exact: it has at most 22 significant bits.
    #[cfg(target_arch = "x86_64")]
    pub(in crate::backend::cpu::kernels) fn are_short(&self) -> bool {
        match self {
            Self::F16(_) | Self::Steps { .. } => true,
            Self::F32(_) => false,
        }
    }

    /// A group's values, for the first of the strip's outputs.
    pub(super) fn read(&self, isa: Isa, group: usize, out: &mut [f32]) {
        match self {
            Self::F16(values) => expand_f16(isa, &values[group * PANEL..][..out.len()], out),
            Self::F32(values) => out.copy_from_slice(&values[group * PANEL..][..out.len()]),
            Self::Steps {
                bases,
                steps,
                per_base,
            } => {
                expand_f16(isa, &bases[group / per_base * PANEL..][..out.len()], out);
                for (value, &step) in out.iter_mut().zip(&steps[group * PANEL..]) {
                    *value *= f32::from(step);
                }
            }
        }
    }

    fn covers(&self, groups: usize, width: usize) -> bool {
        let holds = |len: usize, groups: usize| groups == 0 || len >= (groups - 1) * PANEL + width;
        match self {
            Self::F16(values) => holds(values.len(), groups),
            Self::F32(values) => holds(values.len(), groups),
            Self::Steps {
                bases,
                steps,
                per_base,
            } => holds(steps.len(), groups) && holds(bases.len(), groups.div_ceil(*per_base)),
        }
    }
}

/// Weights of a strip of outputs: `(bits - zero) * scale + min`.
#[derive(Clone, Copy)]
pub(super) struct Strip<'a> {
    /// Outputs: [`STRIP`], or [`PANEL`] for at most [`PANEL_ROWS`] rows.
    pub width: usize,
    /// Inputs that share a scale: 16 or 32.
    pub group: usize,
    /// What stands for 0: 0, 8 or 128.
    pub zero: i32,
    pub bits: StripBits<'a>,
    pub scales: StripScales<'a>,
    /// `None` when all are 0.
    pub mins: Option<StripScales<'a>>,
}

impl<'a> Strip<'a> {
    /// The same weights with a byte each, where that makes a kernel faster. `bytes` is overwritten.
    pub(super) fn unpacked(self, isa: Isa, cols: usize, bytes: &'a mut Vec<u8>) -> Self {
        match (self.bits, isa.0) {
            #[cfg(target_arch = "x86_64")]
            (StripBits::Four(packed), IsaKind::Amx | IsaKind::Avx512Vnni) => {
                let bytes = sized(bytes, cols * STRIP);
                take_apart(isa, packed, 0, bytes);
                Self {
                    bits: StripBits::Unpacked(bytes),
                    ..self
                }
            }
            _ => self,
        }
    }
}

#[cfg(target_arch = "x86_64")]
per_isa! {
    fn take_apart(isa; packed: &[u8], zero: u8, out: &mut [u8]) {
        for (packed, out) in packed.chunks(4 * PANEL).zip(out.chunks_exact_mut(8 * STRIP)) {
            let (even, odd) = out.split_at_mut(4 * STRIP);
            for ((byte, even), odd) in packed.iter().zip(even).zip(odd) {
                *even = (byte & 15).wrapping_sub(zero);
                *odd = (byte >> 4).wrapping_sub(zero);
            }
        }
    }
}

/// Where a kernel finds its rows; pointers to the first row's elements.
#[derive(Clone, Copy)]
struct RowsAt {
    cols: usize,
    values: *const i8,
    scales: *const f32,
    /// One per group of the weights.
    sums: *const f32,
    groups: usize,
}

/// Where a kernel leaves its sums.
#[derive(Clone, Copy)]
pub(super) struct Target {
    /// The first row's first output.
    pub at: *mut f32,
    /// Elements from one row to the next.
    pub stride: usize,
    /// Whether chains start from 0 or from what is there.
    pub output: Output,
}

impl Int8Rows {
    /// # Panics
    /// When the rows do not exist, or the strip does not hold as many inputs.
    fn at(&self, (first, count): (usize, usize), strip: &Strip<'_>) -> RowsAt {
        let (cols, group, width) = (self.cols(), strip.group, strip.width);
        let (step, inputs) = strip.bits.layout();
        assert!((group == FINE || group == SPAN) && cols.is_multiple_of(SPAN) && cols > 0);
        assert!(first + count <= self.rows());
        let groups = cols / group;
        assert!(strip.bits.bytes().len() >= (cols / inputs - 1) * step + 4 * width);
        assert!(
            strip.scales.covers(groups, width) && strip.mins.is_none_or(|mins| mins.covers(groups, width))
        );
        let sums = if group == FINE {
            &self.fine_sums
        } else {
            &self.sums
        };
        RowsAt {
            cols,
            values: self.values[first * cols..].as_ptr(),
            scales: self.scales[first * (cols / SPAN)..].as_ptr(),
            sums: sums[first * groups..].as_ptr(),
            groups,
        }
    }
}

/// `c[i][j] = x[first + i] · w[j]`, or added to it, for `count` rows and the strip's outputs.
///
/// # Safety
/// `c` is readable and writable for `count` rows of the strip's width and belongs to nobody else.
///
/// # Panics
/// When the rows do not exist, or the strip does not hold `x.cols()` inputs.
pub(super) unsafe fn product(
    isa: Isa,
    x: &Int8Rows,
    (first, count): (usize, usize),
    strip: &Strip<'_>,
    c: Target,
) {
    let width = strip.width;
    assert!(count <= MAX_ROWS && (width == STRIP || (width == PANEL && count <= PANEL_ROWS)));
    let rows = x.at((first, count), strip);
    macro_rules! dispatch {
        ($kernel:path) => {{
            use $kernel as kernel;
            // SAFETY: the assertions cover rows and strip, the caller vouches for `c`, and an `Isa` is only made
            // for a processor that has its features.
            unsafe {
                match (count, width) {
                    (0, _) => {}
                    (1, PANEL) => kernel::<1, { PANEL / 16 }>(&rows, strip, c),
                    (2, PANEL) => kernel::<2, { PANEL / 16 }>(&rows, strip, c),
                    (1, _) => kernel::<1, { STRIP / 16 }>(&rows, strip, c),
                    (2, _) => kernel::<2, { STRIP / 16 }>(&rows, strip, c),
                    (3, _) => kernel::<3, { STRIP / 16 }>(&rows, strip, c),
                    (4, _) => kernel::<4, { STRIP / 16 }>(&rows, strip, c),
                    (5, _) => kernel::<5, { STRIP / 16 }>(&rows, strip, c),
                    _ => kernel::<6, { STRIP / 16 }>(&rows, strip, c),
                }
            }
        }};
    }
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        IsaKind::Amx | IsaKind::Avx512Vnni => dispatch!(avx512::product),
        #[cfg(target_arch = "x86_64")]
        IsaKind::Avx512 | IsaKind::Avx2 => dispatch!(avx2::product),
        _ => dispatch!(portable::product),
    }
}
