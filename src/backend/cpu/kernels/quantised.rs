//! Repacked matrices of four-, six- and eight-bit weights.

use super::{
    arena::{Arena, Buffer},
    disjoint::DisjointSlices,
    isa::{Isa, per_isa},
    panel::{PANEL, PANEL_WORD_BYTES, PackError, STRIP, for_each_panel},
    pool::ThreadPool,
    scales::{ScaleKind, Scales},
    strip::{SIX_BIT_UNIT, SIX_BIT_WORDS, Strip, StripBits, WeightWidth},
};
use crate::model::spec::{MatrixSource, TensorFormat};

/// Weights as `(bits - zero) * scale + min`, with a scale (and a minimum) for each group of inputs and each output.
///
/// Neighbouring inputs of an output lie in a word of four bytes. That is what integer dot products read, and one 32-bit
/// lane for everything else. An input's index `at` is counted over all panels: input `k` of panel `p` is `p * cols +
/// k`.
pub(super) struct Quantised {
    /// Inputs that share a scale.
    group: usize,
    /// The bits that stand for 0.
    zero: u8,
    width: WeightWidth,
    /// `[panel]`, each as [`StripBits`] describes it for the width.
    bits: Buffer<u8>,
    scales: Scales,
    /// `None` when all are 0.
    mins: Option<Scales>,
}

impl Quantised {
    /// Inputs that share a scale.
    pub(super) fn group(&self) -> usize {
        self.group
    }

    /// Bytes that a matrix of this shape takes in memory.
    pub(super) fn bytes_for(format: TensorFormat, rows: usize, cols: usize) -> usize {
        let panels = rows.div_ceil(PANEL);
        let words = WeightWidth::of(format).words(cols);
        let factors = Scales::bytes_for(ScaleKind::of(format), panels * (cols / format.group_size()));
        panels * words * PANEL_WORD_BYTES + factors * (1 + usize::from(format.has_min()))
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bits.len() + self.scales.bytes() + self.mins.as_ref().map_or(0, Scales::bytes)
    }

    /// `count` strips of a panel from strip `strip` on; `at` is the panel's first input.
    pub(super) fn strips(&self, at: usize, strip: usize, count: usize) -> Strip<'_> {
        let group = at / self.group;
        let bits = &self.bits[self.width.words(at) * PANEL_WORD_BYTES + strip * 4 * STRIP..];
        Strip {
            width: count * STRIP,
            index: strip,
            group: self.group,
            zero: i32::from(self.zero),
            bits: match self.width {
                WeightWidth::Four => StripBits::Four(bits),
                WeightWidth::Six => StripBits::Six(bits),
                WeightWidth::Eight => StripBits::Eight(bits),
            },
            scales: self.scales.strip(group, strip),
            mins: self.mins.as_ref().map(|mins| mins.strip(group, strip)),
        }
    }

    /// The weight of input `at` for the output `lane` of its panel.
    pub(super) fn value(&self, at: usize, lane: usize) -> f32 {
        let byte = |word: usize| self.bits[word * PANEL_WORD_BYTES + 4 * lane + at % 4];
        let bits = match self.width {
            WeightWidth::Four => (byte(at / 8) >> (at & 4)) & 15,
            WeightWidth::Six => {
                let (unit, input) = (at / SIX_BIT_UNIT * SIX_BIT_WORDS, at % SIX_BIT_UNIT);
                let low = (byte(unit + input / 8) >> (input & 4)) & 15;
                low | ((byte(unit + 2) >> (input / 4 * 2)) & 3) << 4
            }
            WeightWidth::Eight => byte(at / 4),
        };
        let quant = f32::from(i16::from(bits) - i16::from(self.zero));
        let group = at / self.group;
        let min = self.mins.as_ref().map_or(0.0, |mins| mins.get(group, lane));
        quant.mul_add(self.scales.get(group, lane), min)
    }

    /// Expands inputs from `first` on to f32, `[input][PANEL]`, as many as `out` holds. `first` begins a group.
    pub(super) fn expand(&self, isa: Isa, first: usize, out: &mut [f32]) {
        let mut scale = [0f32; PANEL];
        let mut min = [0f32; PANEL];
        for (index, out) in out.chunks_mut(self.group * PANEL).enumerate() {
            let at = first + index * self.group;
            self.scales.read(isa, at / self.group, &mut scale);
            if let Some(mins) = &self.mins {
                mins.read(isa, at / self.group, &mut min);
            }
            let count = out.len() / PANEL;
            let words = |inputs| self.width.words(inputs) * PANEL_WORD_BYTES;
            let bytes = &self.bits[words(at)..][..words(count)];
            let factors = Factors {
                zero: i32::from(self.zero),
                scale: &scale,
                min: &min,
            };
            match self.width {
                WeightWidth::Four => expand_four(isa, bytes, factors, out),
                WeightWidth::Six => expand_six(isa, bytes, factors, out),
                WeightWidth::Eight => expand_eight(isa, bytes, factors, out),
            }
        }
    }
}

/// A group's scales and minimums for all outputs of a panel, and the bits that stand for 0.
#[derive(Clone, Copy)]
struct Factors<'a> {
    zero: i32,
    scale: &'a [f32; PANEL],
    min: &'a [f32; PANEL],
}

/// Expands one input of a panel to f32, whose bits `bits` takes from each output's word.
#[inline(always)]
fn expand_input(words: &[u8], bits: impl Fn(usize, u32) -> u32, factors: Factors<'_>, out: &mut [f32]) {
    for (lane, (out, word)) in out.iter_mut().zip(words.as_chunks::<4>().0).enumerate() {
        let bits = bits(lane, u32::from_le_bytes(*word));
        *out = ((bits as i32 - factors.zero) as f32).mul_add(factors.scale[lane], factors.min[lane]);
    }
}

per_isa! {
    /// Expands words of eight four-bit weights, `[k / 8][PANEL][4]`, to `[k][PANEL]`.
    fn expand_four(isa; bytes: &[u8], factors: Factors<'_>, out: &mut [f32]) {
        for (words, out) in bytes.chunks_exact(PANEL_WORD_BYTES).zip(out.chunks_exact_mut(8 * PANEL)) {
            for (input, out) in out.chunks_exact_mut(PANEL).enumerate() {
                let shift = 8 * (input as u32 % 4) + (input as u32 & 4);
                expand_input(words, |_, word| (word >> shift) & 15, factors, out);
            }
        }
    }
}

per_isa! {
    /// Expands units of six-bit weights, `[k / 16][3][PANEL][4]`, to `[k][PANEL]`.
    fn expand_six(isa; bytes: &[u8], factors: Factors<'_>, out: &mut [f32]) {
        let units = bytes.chunks_exact(SIX_BIT_WORDS * PANEL_WORD_BYTES);
        for (unit, out) in units.zip(out.chunks_exact_mut(SIX_BIT_UNIT * PANEL)) {
            let (low, high) = unit.split_at(2 * PANEL_WORD_BYTES);
            let high = &high.as_chunks::<4>().0[..PANEL];
            for (input, out) in out.chunks_exact_mut(PANEL).enumerate() {
                let (byte, quarter) = (8 * (input as u32 % 4), input as u32 / 4);
                let low = &low[input / 8 * PANEL_WORD_BYTES..][..PANEL_WORD_BYTES];
                let bits = |lane: usize, word: u32| {
                    let high = u32::from_le_bytes(high[lane]) >> (byte + 2 * quarter);
                    (word >> (byte + 4 * (quarter % 2))) & 15 | (high & 3) << 4
                };
                expand_input(low, bits, factors, out);
            }
        }
    }
}

per_isa! {
    /// Expands words of four eight-bit weights, `[k / 4][PANEL][4]`, to `[k][PANEL]`.
    fn expand_eight(isa; bytes: &[u8], factors: Factors<'_>, out: &mut [f32]) {
        for (words, out) in bytes.chunks_exact(PANEL_WORD_BYTES).zip(out.chunks_exact_mut(4 * PANEL)) {
            for (input, out) in out.chunks_exact_mut(PANEL).enumerate() {
                expand_input(words, |_, word| (word >> (8 * input)) & 255, factors, out);
            }
        }
    }
}

/// Repacks a matrix of a quantised format.
pub(super) fn pack_quantised(
    pool: &mut ThreadPool,
    arena: &mut Arena,
    format: TensorFormat,
    source: &MatrixSource<'_>,
) -> Result<Quantised, PackError> {
    let (rows, cols) = (source.rows, source.cols);
    let panels = rows.div_ceil(PANEL);
    let group = format.group_size();
    let row_bytes = cols / format.block_elements() * format.block_bytes();
    let panel_groups = cols / group;
    let width = WeightWidth::of(format);
    let zero = width.zero(format);
    let panel_bytes = width.words(cols) * PANEL_WORD_BYTES;
    // Outputs behind the last row keep scales and minimums of 0, so that whatever their bits are they weigh 0.
    let mut bits = arena
        .zeros::<u8>(panels * panel_bytes)
        .map_err(PackError::Memory)?;
    let mut factors =
        || Scales::new(arena, ScaleKind::of(format), panels * panel_groups).map_err(PackError::Memory);
    let mut scales = factors()?;
    let mut mins = format.has_min().then(factors).transpose()?;
    {
        let (bit_slices, scale_slices) = (DisjointSlices::new(&mut bits), scales.slices());
        let min_slices = mins.as_mut().map(Scales::slices);
        for_each_panel(pool, source, &|panel, bytes| {
            // SAFETY: each panel is one task's, and these bytes are the panel's only.
            let bits = unsafe { bit_slices.part(panel * panel_bytes, panel_bytes) };
            for (lane, row) in bytes.chunks_exact(row_bytes).enumerate() {
                let mut k = 0;
                for block in row.chunks_exact(format.block_bytes()) {
                    format.unpack(block, |unpacked| {
                        let index = panel * panel_groups + k / group;
                        // SAFETY: the group is this panel's, and the panel is this task's. Formats with bases have
                        // blocks of as many groups as share a base, and a row is whole blocks, so panels share no
                        // base.
                        unsafe {
                            scale_slices.set(index, lane, unpacked.scale);
                            if let Some(mins) = &min_slices {
                                mins.set(index, lane, unpacked.min);
                            }
                        }
                        for (k, &quant) in (k..).zip(&unpacked.quants[..group]) {
                            let value = (i16::from(quant) + i16::from(zero)) as u8;
                            let mut add = |word: usize, value| {
                                bits[word * PANEL_WORD_BYTES + 4 * lane + k % 4] |= value;
                            };
                            match width {
                                WeightWidth::Four => add(k / 8, value << (k & 4)),
                                WeightWidth::Six => {
                                    let unit = k / SIX_BIT_UNIT * SIX_BIT_WORDS;
                                    let input = k % SIX_BIT_UNIT;
                                    add(unit + input / 8, (value & 15) << (input & 4));
                                    add(unit + 2, (value >> 4) << (input / 4 * 2));
                                }
                                WeightWidth::Eight => add(k / 4, value),
                            }
                        }
                        k += group;
                    });
                }
            }
        })?;
    }
    Ok(Quantised {
        group,
        zero,
        width,
        bits,
        scales,
        mins,
    })
}
