//! Views of packed integer weights: a strip or a panel of outputs over all inputs.

use super::{floats::expand_f16, isa::Isa, panel::PANEL};
use crate::model::spec::TensorFormat;

/// Integer weights of neighbouring outputs, from the first output on. A word of four bytes holds neighbouring inputs of
/// one output.
#[derive(Clone, Copy)]
pub(super) enum StripBits<'a> {
    /// Four-bit weights, `[k / 8][PANEL][4]`: byte `b` of a word has input `b` in its low and input `4 + b` in its high
    /// half.
    Four(&'a [u8]),
    /// Six-bit weights in units of sixteen inputs, `[k / 16][3][PANEL][4]`. The first two words of a unit are the low four bits,
    /// as [`Self::Four`] has them. The third has the high two: byte `b` has those of inputs `b`, `4 + b`, `8 + b` and
    /// `12 + b`, from the low bits on.
    Six(&'a [u8]),
    /// Eight-bit weights, `[k / 4][PANEL][4]`.
    Eight(&'a [u8]),
}

/// Inputs of a unit of six-bit weights.
pub(super) const SIX_BIT_UNIT: usize = 16;
/// Words of each output in a unit of six-bit weights.
pub(super) const SIX_BIT_WORDS: usize = 3;

/// How many bits an integer weight has in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WeightWidth {
    Four,
    Six,
    Eight,
}

impl WeightWidth {
    /// The least that holds the integers of a quantised format. Formats of floats have none.
    pub(super) fn of(format: TensorFormat) -> Self {
        match format {
            TensorFormat::Q2K
            | TensorFormat::Q3K
            | TensorFormat::Q4_0
            | TensorFormat::Q4_1
            | TensorFormat::Q4K => Self::Four,
            TensorFormat::Q5_0 | TensorFormat::Q5_1 | TensorFormat::Q5K | TensorFormat::Q6K => Self::Six,
            TensorFormat::Q8_0
            | TensorFormat::Q8K
            | TensorFormat::F32
            | TensorFormat::F16
            | TensorFormat::Bf16 => Self::Eight,
        }
    }

    /// The bits that stand for 0 in weights of this width: none where the format has no negative integers.
    pub(super) fn zero(self, format: TensorFormat) -> u8 {
        let signed = !format.has_min();
        match self {
            Self::Four if signed => 8,
            Self::Six if signed => 32,
            Self::Eight if signed => 128,
            Self::Four | Self::Six | Self::Eight => 0,
        }
    }

    /// Words of each output that `inputs` inputs take, a multiple of a group's.
    pub(super) fn words(self, inputs: usize) -> usize {
        match self {
            Self::Four => inputs / 8,
            Self::Six => inputs / SIX_BIT_UNIT * SIX_BIT_WORDS,
            Self::Eight => inputs / 4,
        }
    }
}

impl StripBits<'_> {
    /// All bytes, from the first output's on.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Four(bytes) | Self::Six(bytes) | Self::Eight(bytes) => bytes,
        }
    }

    /// Words of each output that `inputs` inputs take, a multiple of a group's.
    pub(super) fn words(&self, inputs: usize) -> usize {
        self.width().words(inputs)
    }

    fn width(&self) -> WeightWidth {
        match self {
            Self::Four(_) => WeightWidth::Four,
            Self::Six(_) => WeightWidth::Six,
            Self::Eight(_) => WeightWidth::Eight,
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
    /// The bits that stand for 0: 0, 8, 32 or 128.
    pub zero: i32,
    /// The integers.
    pub bits: StripBits<'a>,
    /// A scale for each group and output.
    pub scales: StripScales<'a>,
    /// A minimum for each group and output; `None` when all are 0.
    pub mins: Option<StripScales<'a>>,
}
