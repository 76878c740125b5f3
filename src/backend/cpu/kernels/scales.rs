//! Scales (or minimums) of a repacked matrix: a value for each group of inputs and each output.
//!
//! A group's index is counted over all panels: group `g` of panel `p` is `p * groups_per_panel + g`.

use std::io;

use half::f16;

use super::{
    arena::{Arena, Buffer},
    disjoint::DisjointSlices,
    isa::Isa,
    panel::{PANEL, STRIP},
    strip::StripScales,
};
use crate::model::spec::{Factor, TensorFormat};

/// `[group][PANEL]` values, as narrow as the format has them.
pub(super) enum Scales {
    /// Bits of f16.
    F16(Buffer<u16>),
    /// Plain values.
    F32(Buffer<f32>),
    /// `base * step`, as k-quants have them.
    Steps {
        /// Bits of f16, `[group / groups_per_base][PANEL]`.
        bases: Buffer<u16>,
        /// `[group][PANEL]`
        steps: Buffer<i8>,
        /// Neighbouring groups that share a base.
        groups_per_base: usize,
    },
}

/// How a format's scales are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScaleKind {
    F16,
    F32,
    /// A base and steps.
    Steps {
        /// Neighbouring groups that share a base.
        groups_per_base: usize,
    },
}

impl ScaleKind {
    /// The narrowest storage that keeps the scales and minimums of a format exact.
    pub(super) fn of(format: TensorFormat) -> Self {
        match format {
            TensorFormat::Q2K | TensorFormat::Q3K | TensorFormat::Q6K => Self::Steps { groups_per_base: 16 },
            TensorFormat::Q4K | TensorFormat::Q5K => Self::Steps { groups_per_base: 8 },
            TensorFormat::F32 | TensorFormat::F16 | TensorFormat::Bf16 | TensorFormat::Q8K => Self::F32,
            TensorFormat::Q4_0
            | TensorFormat::Q4_1
            | TensorFormat::Q5_0
            | TensorFormat::Q5_1
            | TensorFormat::Q8_0 => Self::F16,
        }
    }
}

impl Scales {
    /// Zeros for `groups` groups, counted over all panels.
    pub(super) fn new(arena: &mut Arena, kind: ScaleKind, groups: usize) -> io::Result<Self> {
        let len = groups * PANEL;
        Ok(match kind {
            ScaleKind::F16 => Self::F16(arena.zeros(len)?),
            ScaleKind::F32 => Self::F32(arena.zeros(len)?),
            ScaleKind::Steps { groups_per_base } => Self::Steps {
                bases: arena.zeros(groups.div_ceil(groups_per_base) * PANEL)?,
                steps: arena.zeros(len)?,
                groups_per_base,
            },
        })
    }

    /// Bytes that scales of this kind take in memory, for `groups` groups counted over all panels.
    pub(super) fn bytes_for(kind: ScaleKind, groups: usize) -> usize {
        let len = groups * PANEL;
        match kind {
            ScaleKind::F16 => len * 2,
            ScaleKind::F32 => len * 4,
            ScaleKind::Steps { groups_per_base } => groups.div_ceil(groups_per_base) * PANEL * 2 + len,
        }
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::F16(v) => v.len() * 2,
            Self::F32(v) => v.len() * 4,
            Self::Steps { bases, steps, .. } => bases.len() * 2 + steps.len(),
        }
    }

    /// The value of a group for the output `lane` of its panel.
    pub(super) fn get(&self, group: usize, lane: usize) -> f32 {
        let at = group * PANEL + lane;
        match self {
            Self::F16(v) => f16::from_bits(v[at]).to_f32(),
            Self::F32(v) => v[at],
            Self::Steps {
                bases,
                steps,
                groups_per_base,
            } => {
                let base = f16::from_bits(bases[group / groups_per_base * PANEL + lane]).to_f32();
                base * f32::from(steps[at])
            }
        }
    }

    /// Writes a group's values for all outputs of its panel.
    pub(super) fn read(&self, isa: Isa, group: usize, out: &mut [f32; PANEL]) {
        self.strip(0, 0).read(isa, group, out);
    }

    /// The values from a panel's strip `strip` on, where `first_group` is the panel's first group.
    pub(super) fn strip(&self, first_group: usize, strip: usize) -> StripScales<'_> {
        let at = first_group * PANEL + strip * STRIP;
        match self {
            Self::F16(v) => StripScales::F16(&v[at..]),
            Self::F32(v) => StripScales::F32(&v[at..]),
            Self::Steps {
                bases,
                steps,
                groups_per_base,
            } => StripScales::Steps {
                bases: &bases[first_group / groups_per_base * PANEL + strip * STRIP..],
                steps: &steps[at..],
                groups_per_base: *groups_per_base,
            },
        }
    }

    /// Access for several threads that write different panels.
    pub(super) fn slices(&mut self) -> ScaleSlices<'_> {
        match self {
            Self::F16(v) => ScaleSlices::F16(DisjointSlices::new(v)),
            Self::F32(v) => ScaleSlices::F32(DisjointSlices::new(v)),
            Self::Steps {
                bases,
                steps,
                groups_per_base,
            } => ScaleSlices::Steps {
                bases: DisjointSlices::new(bases),
                steps: DisjointSlices::new(steps),
                groups_per_base: *groups_per_base,
            },
        }
    }
}

/// [`Scales`] of which several threads write different panels.
pub(super) enum ScaleSlices<'a> {
    F16(DisjointSlices<'a, u16>),
    F32(DisjointSlices<'a, f32>),
    Steps {
        bases: DisjointSlices<'a, u16>,
        steps: DisjointSlices<'a, i8>,
        groups_per_base: usize,
    },
}

impl ScaleSlices<'_> {
    /// Sets the value of a group for the output `lane` of its panel.
    ///
    /// # Safety
    /// No other thread sets a value of the group's panel at the same time, and panels do not share a base: the groups
    /// of a panel are a multiple of `groups_per_base`.
    pub(super) unsafe fn set(&self, group: usize, lane: usize, factor: Factor) {
        let at = group * PANEL + lane;
        // SAFETY: every element written here belongs to the group's panel, which the caller keeps to one thread; each
        // slice ends with its statement.
        unsafe {
            match self {
                Self::F16(s) => s.part(at, 1)[0] = f16::from_f32(factor.value()).to_bits(),
                Self::F32(s) => s.part(at, 1)[0] = factor.value(),
                Self::Steps {
                    bases,
                    steps,
                    groups_per_base,
                } => {
                    let base = group / groups_per_base * PANEL + lane;
                    bases.part(base, 1)[0] = f16::from_f32(factor.base).to_bits();
                    steps.part(at, 1)[0] = factor.step;
                }
            }
        }
    }
}
