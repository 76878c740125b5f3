//! Scales (or minimums) of a repacked matrix, a value for each group of inputs and each output.

use std::io;

use half::f16;

use super::{
    Factor, Isa, TensorFormat,
    arena::{Arena, Buffer},
    int8::{STRIP, StripScales},
    packed::PANEL,
    pool::DisjointSlices,
};

/// `[panel][k / group][PANEL]` values, as narrow as the format has them.
pub(super) enum Scales {
    F16(Buffer<u16>),
    F32(Buffer<f32>),
    /// K-quants: `base * step`, a base for `per_base` neighbouring groups.
    Steps {
        /// `[panel][k / group / per_base][PANEL]`
        bases: Buffer<u16>,
        /// `[panel][k / group][PANEL]`
        steps: Buffer<i8>,
        per_base: usize,
    },
}

/// How a format's scales are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScaleKind {
    F16,
    F32,
    /// So many groups share a base.
    Steps(usize),
}

impl ScaleKind {
    /// The narrowest storage that keeps the scales and minimums of a format exact.
    pub(super) fn of(format: TensorFormat) -> Self {
        match format {
            TensorFormat::Q2K | TensorFormat::Q3K | TensorFormat::Q6K => Self::Steps(16),
            TensorFormat::Q4K | TensorFormat::Q5K => Self::Steps(8),
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
    /// Zeros for so many groups, over all panels.
    pub(super) fn new(arena: &mut Arena, kind: ScaleKind, groups: usize) -> io::Result<Self> {
        let len = groups * PANEL;
        Ok(match kind {
            ScaleKind::F16 => Self::F16(arena.zeros(len)?),
            ScaleKind::F32 => Self::F32(arena.zeros(len)?),
            ScaleKind::Steps(per_base) => Self::Steps {
                bases: arena.zeros(groups.div_ceil(per_base) * PANEL)?,
                steps: arena.zeros(len)?,
                per_base,
            },
        })
    }

    /// Bytes that scales of this kind will take.
    pub(super) fn bytes_for(kind: ScaleKind, groups: usize) -> usize {
        let len = groups * PANEL;
        match kind {
            ScaleKind::F16 => len * 2,
            ScaleKind::F32 => len * 4,
            ScaleKind::Steps(per_base) => groups.div_ceil(per_base) * PANEL * 2 + len,
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

    /// The value of a group, counted over all panels, for one of its panel's outputs.
    pub(super) fn get(&self, group: usize, lane: usize) -> f32 {
        let at = group * PANEL + lane;
        match self {
            Self::F16(v) => f16::from_bits(v[at]).to_f32(),
            Self::F32(v) => v[at],
            Self::Steps {
                bases,
                steps,
                per_base,
            } => {
                let base = f16::from_bits(bases[group / per_base * PANEL + lane]).to_f32();
                base * f32::from(steps[at])
            }
        }
    }

    /// A group's values for its whole panel, the group counted over all panels.
    pub(super) fn read(&self, isa: Isa, group: usize, out: &mut [f32; PANEL]) {
        self.strip(0, 0).read(isa, group, out);
    }

    /// Half a panel's values, from a panel's first group on.
    pub(super) fn strip(&self, first_group: usize, strip: usize) -> StripScales<'_> {
        let at = first_group * PANEL + strip * STRIP;
        match self {
            Self::F16(v) => StripScales::F16(&v[at..]),
            Self::F32(v) => StripScales::F32(&v[at..]),
            Self::Steps {
                bases,
                steps,
                per_base,
            } => StripScales::Steps {
                bases: &bases[first_group / per_base * PANEL + strip * STRIP..],
                steps: &steps[at..],
                per_base: *per_base,
            },
        }
    }

    /// For writing from several threads.
    pub(super) fn slices(&mut self) -> ScaleSlices<'_> {
        match self {
            Self::F16(v) => ScaleSlices::F16(DisjointSlices::new(v)),
            Self::F32(v) => ScaleSlices::F32(DisjointSlices::new(v)),
            Self::Steps {
                bases,
                steps,
                per_base,
            } => ScaleSlices::Steps {
                bases: DisjointSlices::new(bases),
                steps: DisjointSlices::new(steps),
                per_base: *per_base,
            },
        }
    }
}

/// [`Scales`] that several threads write.
pub(super) enum ScaleSlices<'a> {
    F16(DisjointSlices<'a, u16>),
    F32(DisjointSlices<'a, f32>),
    Steps {
        bases: DisjointSlices<'a, u16>,
        steps: DisjointSlices<'a, i8>,
        per_base: usize,
    },
}

impl ScaleSlices<'_> {
    /// Sets a group's value, the group counted over all panels.
    ///
    /// # Safety
    /// No two threads may write the same panel.
    pub(super) unsafe fn set(&self, group: usize, lane: usize, factor: Factor) {
        let at = group * PANEL + lane;
        // SAFETY: all places belong to the group's panel, which is the caller's.
        unsafe {
            match self {
                Self::F16(s) => s.part(at, 1)[0] = f16::from_f32(factor.value()).to_bits(),
                Self::F32(s) => s.part(at, 1)[0] = factor.value(),
                Self::Steps {
                    bases,
                    steps,
                    per_base,
                } => {
                    bases.part(group / per_base * PANEL + lane, 1)[0] = f16::from_f32(factor.base).to_bits();
                    steps.part(at, 1)[0] = factor.step;
                }
            }
        }
    }
}
