//! Repacked matrices of four- and eight-bit weights.

use half::f16;

use super::{
    BlockFormat, Isa, ThreadPool,
    gemv::{PanelBits, PanelScales, PanelView},
    isa::per_isa,
    packed::{PANEL, expand_f16},
    pool::Shards,
};

/// Weights as `quant x scale + min`, a scale (and a minimum) for each group of inputs.
pub(super) struct Quantised {
    /// Weights along `k` that share a scale.
    group: usize,
    /// Four-bit: `[panel][k / 2][PANEL]` bytes, even `k` in the low nibble. Eight-bit: `[panel][k][PANEL]`.
    bits: Bits,
    /// `[panel][k / group][PANEL]`.
    scales: Scales,
    /// As `scales`; empty when all are 0.
    mins: Scales,
}

enum Bits {
    Four(Vec<u8>),
    Eight(Vec<i8>),
}

enum Scales {
    F16(Vec<u16>),
    F32(Vec<f32>),
}

impl Quantised {
    /// Weights along `k` that share a scale.
    pub(super) fn group(&self) -> usize {
        self.group
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        let bits = match &self.bits {
            Bits::Four(v) => v.len(),
            Bits::Eight(v) => v.len(),
        };
        bits + self.scales.bytes() + self.mins.bytes()
    }

    /// The weights from input `first` on, counted over all panels.
    pub(super) fn view(&self, first: usize) -> PanelView<'_> {
        let from = first / self.group * PANEL;
        PanelView {
            group: self.group,
            bits: match &self.bits {
                Bits::Four(bytes) => PanelBits::Four(&bytes[first / 2 * PANEL..]),
                Bits::Eight(quants) => PanelBits::Eight(&quants[first * PANEL..]),
            },
            scales: self.scales.from(from),
            mins: if self.mins.is_empty() {
                None
            } else {
                Some(self.mins.from(from))
            },
        }
    }

    /// The weight of input `at`, counted over all panels, and one of its panel's outputs.
    pub(super) fn value(&self, at: usize, lane: usize) -> f32 {
        let quant = match &self.bits {
            Bits::Four(bytes) => f32::from((bytes[at / 2 * PANEL + lane] >> (4 * (at % 2))) & 15),
            Bits::Eight(bytes) => f32::from(bytes[at * PANEL + lane]),
        };
        let group = at / self.group * PANEL + lane;
        quant.mul_add(
            self.scales.get(group),
            if self.mins.is_empty() {
                0.0
            } else {
                self.mins.get(group)
            },
        )
    }

    /// Expands a tile to f32, `[input][PANEL]`; `first` counts inputs over all panels.
    pub(super) fn expand(&self, isa: Isa, first: usize, out: &mut [f32]) {
        let mut scale = [0f32; PANEL];
        let mut min = [0f32; PANEL];
        for (index, out) in out.chunks_mut(self.group * PANEL).enumerate() {
            let at = first + index * self.group;
            self.scales.read(isa, at / self.group, &mut scale);
            if !self.mins.is_empty() {
                self.mins.read(isa, at / self.group, &mut min);
            }
            let count = out.len() / PANEL;
            match &self.bits {
                Bits::Four(bytes) => {
                    expand_four(
                        isa,
                        &bytes[at / 2 * PANEL..][..count / 2 * PANEL],
                        &scale,
                        &min,
                        out,
                    );
                }
                Bits::Eight(bytes) => {
                    expand_eight(isa, &bytes[at * PANEL..][..count * PANEL], &scale, &min, out);
                }
            }
        }
    }
}

impl Scales {
    fn with_len(half: bool, len: usize) -> Self {
        if half {
            Self::F16(vec![0; len])
        } else {
            Self::F32(vec![0.0; len])
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::F16(v) => v.len() * 2,
            Self::F32(v) => v.len() * 4,
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::F16(v) => v.is_empty(),
            Self::F32(v) => v.is_empty(),
        }
    }

    fn get(&self, at: usize) -> f32 {
        match self {
            Self::F16(v) => f16::from_bits(v[at]).to_f32(),
            Self::F32(v) => v[at],
        }
    }

    fn from(&self, at: usize) -> PanelScales<'_> {
        match self {
            Self::F16(v) => PanelScales::F16(&v[at..]),
            Self::F32(v) => PanelScales::F32(&v[at..]),
        }
    }

    fn read(&self, isa: Isa, group: usize, out: &mut [f32; PANEL]) {
        match self {
            Self::F16(v) => expand_f16(isa, &v[group * PANEL..][..PANEL], out),
            Self::F32(v) => out.copy_from_slice(&v[group * PANEL..][..PANEL]),
        }
    }

    fn shards(&mut self) -> ScaleShards<'_> {
        match self {
            Self::F16(v) => ScaleShards::F16(Shards::new(v)),
            Self::F32(v) => ScaleShards::F32(Shards::new(v)),
        }
    }
}

enum ScaleShards<'a> {
    F16(Shards<'a, u16>),
    F32(Shards<'a, f32>),
}

impl ScaleShards<'_> {
    /// # Safety
    /// No two threads may write the same place.
    unsafe fn set(&self, at: usize, value: f32) {
        match self {
            // SAFETY: by the caller's promise.
            Self::F16(s) => unsafe { s.part(at, 1)[0] = f16::from_f32(value).to_bits() },
            // SAFETY: by the caller's promise.
            Self::F32(s) => unsafe { s.part(at, 1)[0] = value },
        }
    }
}

/// Repacks a matrix of a quantised format.
pub(super) fn pack_quantised(
    pool: &mut ThreadPool,
    rows: usize,
    cols: usize,
    format: BlockFormat,
    bytes: &[u8],
) -> Quantised {
    let panels = rows.div_ceil(PANEL);
    let group = format.group_size();
    let row_bytes = cols / format.block_elements() * format.block_bytes();
    let per_panel = cols / group * PANEL;
    let mut scales = Scales::with_len(format.has_half_scales(), panels * per_panel);
    let mins_len = if format.has_min() { panels * per_panel } else { 0 };
    let mut mins = Scales::with_len(format.has_half_scales(), mins_len);
    let mut four = vec![
        0u8;
        if format.is_four_bit() {
            panels * PANEL * cols / 2
        } else {
            0
        }
    ];
    let mut eight = vec![
        0i8;
        if format.is_four_bit() {
            0
        } else {
            panels * PANEL * cols
        }
    ];
    {
        let (scale_shards, min_shards) = (scales.shards(), mins.shards());
        let (four_shards, eight_shards) = (Shards::new(&mut four), Shards::new(&mut eight));
        pool.run(panels, &|panel| {
            // SAFETY: panels do not overlap, here and below.
            let four = unsafe {
                if format.is_four_bit() {
                    four_shards.part(panel * PANEL * cols / 2, PANEL * cols / 2)
                } else {
                    &mut []
                }
            };
            // SAFETY: as above.
            let eight = unsafe {
                if format.is_four_bit() {
                    &mut []
                } else {
                    eight_shards.part(panel * PANEL * cols, PANEL * cols)
                }
            };
            for lane in 0..PANEL.min(rows - panel * PANEL) {
                let row = &bytes[(panel * PANEL + lane) * row_bytes..][..row_bytes];
                let mut k = 0;
                for block in row.chunks_exact(format.block_bytes()) {
                    format.unpack(block, |unpacked| {
                        let at = panel * per_panel + k / group * PANEL + lane;
                        // SAFETY: `at` lies in this panel's part.
                        unsafe {
                            scale_shards.set(at, unpacked.scale);
                            if format.has_min() {
                                min_shards.set(at, unpacked.min);
                            }
                        }
                        for (i, &quant) in unpacked.quants[..group].iter().enumerate() {
                            if format.is_four_bit() {
                                four[(k + i) / 2 * PANEL + lane] |= (quant as u8) << (4 * ((k + i) % 2));
                            } else {
                                eight[(k + i) * PANEL + lane] = quant;
                            }
                        }
                        k += group;
                    });
                }
            }
        });
    }
    let bits = if format.is_four_bit() {
        Bits::Four(four)
    } else {
        Bits::Eight(eight)
    };
    Quantised {
        group,
        bits,
        scales,
        mins,
    }
}

per_isa! {
    fn expand_four(isa; bytes: &[u8], scale: &[f32; PANEL], min: &[f32; PANEL], out: &mut [f32]) {
        let (pairs, _) = out.as_chunks_mut::<{ 2 * PANEL }>();
        for (bytes, out) in bytes.as_chunks::<PANEL>().0.iter().zip(pairs) {
            for lane in 0..PANEL {
                out[lane] = ((bytes[lane] & 15) as i32 as f32).mul_add(scale[lane], min[lane]);
            }
            for lane in 0..PANEL {
                out[PANEL + lane] = ((bytes[lane] >> 4) as i32 as f32).mul_add(scale[lane], min[lane]);
            }
        }
    }
}

per_isa! {
    fn expand_eight(isa; quants: &[i8], scale: &[f32; PANEL], min: &[f32; PANEL], out: &mut [f32]) {
        let (rows, _) = out.as_chunks_mut::<PANEL>();
        for (quants, out) in quants.as_chunks::<PANEL>().0.iter().zip(rows) {
            for lane in 0..PANEL {
                out[lane] = (quants[lane] as i32 as f32).mul_add(scale[lane], min[lane]);
            }
        }
    }
}
