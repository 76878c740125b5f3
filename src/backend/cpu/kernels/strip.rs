//! Views of packed integer weights: a strip or a panel of outputs over all inputs.

use super::{floats::expand_f16, isa::Isa, panel::PANEL};

/// Integer weights of neighbouring outputs, from the first output on. A word of four bytes holds neighbouring inputs of
/// one output.
#[derive(Clone, Copy)]
pub(super) enum StripBits<'a> {
    /// Four-bit weights, `[k / 8][PANEL][4]`: byte `b` of a word has input `b` in its low and input `4 + b` in its high
    /// half.
    Four(&'a [u8]),
    /// Eight-bit weights, `[k / 4][PANEL][4]`.
    Eight(&'a [u8]),
}

impl StripBits<'_> {
    /// All bytes, from the first output's on.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Four(bytes) | Self::Eight(bytes) => bytes,
        }
    }

    /// Inputs in a word.
    pub(super) fn inputs_per_word(&self) -> usize {
        match self {
            Self::Four(_) => 8,
            Self::Eight(_) => 4,
        }
    }
}

/// Scales or minimums of neighbouring outputs, `[group][PANEL]` from the first output on.
#[derive(Clone, Copy)]
pub(super) enum StripScales<'a> {
    /// Bits of f16.
    F16(&'a [u16]),
    /// Plain values.
    F32(&'a [f32]),
    /// `bases[group / groups_per_base] * steps[group]`
    Steps {
        /// Bits of f16, `[group / groups_per_base][PANEL]`.
        bases: &'a [u16],
        /// `[group][PANEL]`
        steps: &'a [i8],
        /// Neighbouring groups that share a base.
        groups_per_base: usize,
    },
}

impl StripScales<'_> {
    /// Whether a scale times 1.5 * 2^23 is exact in f32, which it is with at most 22 significant bits.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn are_short(&self) -> bool {
        match self {
            Self::F16(_) | Self::Steps { .. } => true,
            Self::F32(_) => false,
        }
    }

    /// Writes a group's values for the first `out.len()` outputs.
    pub(super) fn read(&self, isa: Isa, group: usize, out: &mut [f32]) {
        match self {
            Self::F16(values) => expand_f16(isa, &values[group * PANEL..][..out.len()], out),
            Self::F32(values) => out.copy_from_slice(&values[group * PANEL..][..out.len()]),
            Self::Steps {
                bases,
                steps,
                groups_per_base,
            } => {
                expand_f16(isa, &bases[group / groups_per_base * PANEL..][..out.len()], out);
                for (value, &step) in out.iter_mut().zip(&steps[group * PANEL..]) {
                    *value *= f32::from(step);
                }
            }
        }
    }

    /// Whether there are values of `groups` groups for `width` outputs.
    pub(super) fn covers(&self, groups: usize, width: usize) -> bool {
        let holds = |len: usize, groups: usize| groups == 0 || len >= (groups - 1) * PANEL + width;
        match self {
            Self::F16(values) => holds(values.len(), groups),
            Self::F32(values) => holds(values.len(), groups),
            Self::Steps {
                bases,
                steps,
                groups_per_base,
            } => holds(steps.len(), groups) && holds(bases.len(), groups.div_ceil(*groups_per_base)),
        }
    }
}

/// Quantised weights of neighbouring outputs: `(bits - zero) * scale + min`.
#[derive(Clone, Copy)]
pub(super) struct Strip<'a> {
    /// Number of outputs: [`super::panel::STRIP`] or [`PANEL`].
    pub width: usize,
    /// Index of the strip, or of the first of several, in its panel.
    pub index: usize,
    /// Inputs that share a scale: 16 or 32.
    pub group: usize,
    /// The bits that stand for 0: 0, 8 or 128.
    pub zero: i32,
    /// The integers.
    pub bits: StripBits<'a>,
    /// A scale for each group and output.
    pub scales: StripScales<'a>,
    /// A minimum for each group and output; `None` when all are 0.
    pub mins: Option<StripScales<'a>>,
}
