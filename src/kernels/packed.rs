//! Weight matrices repacked at load into panels of [`PANEL`] output rows, `k`-major inside a panel, so that a
//! kernel's vector lanes are neighbouring outputs.

use half::f16;

use super::{
    BlockFormat, Isa, ThreadPool,
    gemv::{PanelBits, PanelScales, PanelView},
    isa::per_isa,
    pool::Shards,
};

/// Output rows in a panel: four AVX-512 registers of f32.
pub(super) const PANEL: usize = 64;

/// A weight matrix as a file has it: `rows` outputs of `cols` inputs, row-major.
#[derive(Clone, Copy)]
pub struct MatrixSource<'a> {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// The elements.
    pub elements: RawElements<'a>,
}

/// Elements of a [`MatrixSource`].
#[derive(Clone, Copy)]
pub enum RawElements<'a> {
    /// Values in memory.
    F32(&'a [f32]),
    /// Bytes of a file in one of ggml's formats (little endian).
    Bytes(BlockFormat, &'a [u8]),
}

impl MatrixSource<'_> {
    /// The storage format.
    pub fn format(&self) -> BlockFormat {
        match self.elements {
            RawElements::F32(_) => BlockFormat::F32,
            RawElements::Bytes(format, _) => format,
        }
    }

    /// Whether there are as many elements as rows and columns say, in whole blocks per row.
    pub fn is_consistent(&self) -> bool {
        match self.elements {
            RawElements::F32(values) => self.rows.checked_mul(self.cols) == Some(values.len()),
            RawElements::Bytes(format, bytes) => {
                let row = format.bytes_for(self.cols);
                row.and_then(|row| row.checked_mul(self.rows)) == Some(bytes.len())
            }
        }
    }

    /// Row `row` as f32, written to `out` (`cols` long).
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        match self.elements {
            RawElements::F32(values) => out.copy_from_slice(&values[row * self.cols..][..self.cols]),
            RawElements::Bytes(format, bytes) => {
                let row_bytes = self.cols / format.block_elements() * format.block_bytes();
                dequantize(format, &bytes[row * row_bytes..][..row_bytes], out);
            }
        }
    }
}

/// Expands whole blocks to f32.
pub(super) fn dequantize(format: BlockFormat, bytes: &[u8], out: &mut [f32]) {
    match format {
        BlockFormat::F32 => {
            for (value, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *value = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        BlockFormat::F16 => {
            for (value, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *value = f16::from_le_bytes([b[0], b[1]]).to_f32();
            }
        }
        BlockFormat::Bf16 => {
            for (value, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *value = f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16);
            }
        }
        quantised => {
            let size = quantised.group_size();
            let blocks = bytes.chunks_exact(quantised.block_bytes());
            for (block, out) in blocks.zip(out.chunks_exact_mut(quantised.block_elements())) {
                let mut groups = out.chunks_exact_mut(size);
                quantised.unpack(block, |group| {
                    if let Some(out) = groups.next() {
                        for (value, &quant) in out.iter_mut().zip(&group.quants) {
                            *value = f32::from(quant).mul_add(group.scale, group.min);
                        }
                    }
                });
            }
        }
    }
}

/// A repacked matrix.
pub struct PackedMatrix {
    rows: usize,
    cols: usize,
    store: Store,
}

enum Store {
    F32(Vec<f32>),
    /// F16 or BF16 bits.
    Half(HalfKind, Vec<u16>),
    Quantised(Quantised),
}

#[derive(Clone, Copy)]
enum HalfKind {
    F16,
    Bf16,
}

struct Quantised {
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

impl PackedMatrix {
    /// Repacks a matrix; `source` must be consistent. F16 and BF16 stay 16 bits wide, quantised formats four
    /// or eight.
    ///
    /// # Panics
    /// When `source` is not consistent; loaders check first.
    pub fn pack(pool: &mut ThreadPool, source: &MatrixSource<'_>) -> Self {
        assert!(source.is_consistent());
        let (rows, cols) = (source.rows, source.cols);
        let panels = rows.div_ceil(PANEL);
        let store = match source.elements {
            RawElements::F32(_) | RawElements::Bytes(BlockFormat::F32, _) => {
                let mut packed = vec![0f32; panels * PANEL * cols];
                let shards = Shards::new(&mut packed);
                pool.run(panels, &|panel| {
                    // SAFETY: panels do not overlap.
                    let out = unsafe { shards.part(panel * PANEL * cols, PANEL * cols) };
                    let mut row = vec![0f32; cols];
                    for lane in 0..PANEL.min(rows - panel * PANEL) {
                        source.read_row(panel * PANEL + lane, &mut row);
                        for (k, value) in row.iter().enumerate() {
                            out[k * PANEL + lane] = *value;
                        }
                    }
                });
                Store::F32(packed)
            }
            RawElements::Bytes(format @ (BlockFormat::F16 | BlockFormat::Bf16), bytes) => {
                let mut packed = vec![0u16; panels * PANEL * cols];
                let shards = Shards::new(&mut packed);
                pool.run(panels, &|panel| {
                    // SAFETY: panels do not overlap.
                    let out = unsafe { shards.part(panel * PANEL * cols, PANEL * cols) };
                    for lane in 0..PANEL.min(rows - panel * PANEL) {
                        let row = &bytes[(panel * PANEL + lane) * cols * 2..][..cols * 2];
                        for (k, b) in row.chunks_exact(2).enumerate() {
                            out[k * PANEL + lane] = u16::from_le_bytes([b[0], b[1]]);
                        }
                    }
                });
                let kind = if format == BlockFormat::F16 {
                    HalfKind::F16
                } else {
                    HalfKind::Bf16
                };
                Store::Half(kind, packed)
            }
            RawElements::Bytes(format, bytes) => {
                Store::Quantised(pack_quantised(pool, rows, cols, format, bytes))
            }
        };
        Self { rows, cols, store }
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let scales = |s: &Scales| match s {
            Scales::F16(v) => v.len() * 2,
            Scales::F32(v) => v.len() * 4,
        };
        match &self.store {
            Store::F32(v) => v.len() * 4,
            Store::Half(_, v) => v.len() * 2,
            Store::Quantised(q) => {
                let bits = match &q.bits {
                    Bits::Four(v) => v.len(),
                    Bits::Eight(v) => v.len(),
                };
                bits + scales(&q.scales) + scales(&q.mins)
            }
        }
    }

    pub(super) fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    /// How many inputs a tile may begin at: a multiple of this.
    pub(super) fn tile_step(&self) -> usize {
        match &self.store {
            Store::Quantised(q) => q.group,
            _ => 1,
        }
    }

    /// The tile as it lies in memory, when it is f32 already.
    pub(super) fn tile_in_place(&self, panel: usize, k: usize, count: usize) -> Option<&[f32]> {
        match &self.store {
            Store::F32(values) => Some(&values[(panel * self.cols + k) * PANEL..][..count * PANEL]),
            _ => None,
        }
    }

    /// Inputs `k..k + count` of a panel as f32, `[count][PANEL]`. `k` is a multiple of [`Self::tile_step`],
    /// and so is `count` unless it reaches the end.
    pub(super) fn expand_tile(&self, isa: Isa, panel: usize, k: usize, out: &mut [f32]) {
        let count = out.len() / PANEL;
        let first = panel * self.cols + k;
        match &self.store {
            Store::F32(values) => out.copy_from_slice(&values[first * PANEL..][..count * PANEL]),
            Store::Half(kind, bits) => {
                let bits = &bits[first * PANEL..][..count * PANEL];
                match kind {
                    HalfKind::F16 => expand_f16(isa, bits, out),
                    HalfKind::Bf16 => expand_bf16(isa, bits, out),
                }
            }
            Store::Quantised(q) => q.expand(isa, first, out),
        }
    }

    /// A panel's quantised weights as they are, for kernels that expand in registers.
    pub(super) fn quantised_panel(&self, panel: usize) -> Option<PanelView<'_>> {
        let Store::Quantised(q) = &self.store else {
            return None;
        };
        let first = panel * self.cols;
        let from = first / q.group * PANEL;
        Some(PanelView {
            group: q.group,
            bits: match &q.bits {
                Bits::Four(bytes) => PanelBits::Four(&bytes[first / 2 * PANEL..]),
                Bits::Eight(quants) => PanelBits::Eight(&quants[first * PANEL..]),
            },
            scales: q.scales.from(from),
            mins: if q.mins.is_empty() {
                None
            } else {
                Some(q.mins.from(from))
            },
        })
    }

    /// Row `row` as f32 (`cols` long): an embedding look-up.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        let (panel, lane) = (row / PANEL, row % PANEL);
        for (k, value) in out.iter_mut().enumerate() {
            let at = panel * self.cols + k;
            *value = match &self.store {
                Store::F32(values) => values[at * PANEL + lane],
                Store::Half(HalfKind::F16, bits) => f16::from_bits(bits[at * PANEL + lane]).to_f32(),
                Store::Half(HalfKind::Bf16, bits) => f32::from_bits(u32::from(bits[at * PANEL + lane]) << 16),
                Store::Quantised(q) => q.value(at, lane),
            };
        }
    }
}

impl Quantised {
    fn value(&self, at: usize, lane: usize) -> f32 {
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

    /// `first` counts inputs over all panels.
    fn expand(&self, isa: Isa, first: usize, out: &mut [f32]) {
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

fn pack_quantised(
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
    fn expand_f16(isa; bits: &[u16], out: &mut [f32]) {
        // An own conversion that vectorises on every instruction set: exact for all finite values.
        for (value, &bits) in out.iter_mut().zip(bits) {
            let magnitude = u32::from(bits & 0x7fff) << 13;
            let sign = u32::from(bits & 0x8000) << 16;
            // 2^112 moves f16's exponent bias to f32's; subnormals come out right as well.
            let scaled = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
            *value = f32::from_bits(scaled.to_bits() | sign);
        }
    }
}

per_isa! {
    fn expand_bf16(isa; bits: &[u16], out: &mut [f32]) {
        for (value, &bits) in out.iter_mut().zip(bits) {
            *value = f32::from_bits(u32::from(bits) << 16);
        }
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
