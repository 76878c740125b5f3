//! Weight matrices repacked at load into panels of [`PANEL`] output rows, `k`-major inside a panel, so that a
//! kernel's vector lanes are neighbouring outputs.

use std::{io, sync::OnceLock};

use half::f16;

use super::{
    Isa, MatrixSource, RawElements, TensorFormat, ThreadPool,
    arena::{Arena, Buffer},
    buffers::sized,
    dequantize,
    floats::{expand_bf16, expand_f16},
    int8::Strip,
    pool::DisjointSlices,
    quantised::{Quantised, pack_quantised},
};

/// Output rows in a panel: four AVX-512 registers of f32.
pub(super) const PANEL: usize = 64;

/// A repacked matrix.
pub struct PackedMatrix {
    rows: usize,
    cols: usize,
    store: Store,
}

enum Store {
    F32(Buffer<f32>),
    /// F16 or BF16 bits.
    Half(HalfKind, Buffer<u16>),
    Quantised(Quantised),
}

#[derive(Clone, Copy)]
enum HalfKind {
    F16,
    Bf16,
}

/// Why a matrix could not be repacked.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The system has no memory for it.
    #[error("there is no memory for it: {0}")]
    Memory(io::Error),
    /// It could not be read from its file.
    #[error("it could not be read: {0}")]
    Read(io::Error),
}

/// Calls `pack` with each panel of `source` and the bytes of its rows, on the threads of the pool, until one cannot be
/// read.
pub(super) fn each_panel(
    pool: &mut ThreadPool,
    source: &MatrixSource<'_>,
    pack: &(dyn Fn(usize, &[u8]) + Sync),
) -> Result<(), PackError> {
    let fault = OnceLock::new();
    pool.run(source.rows.div_ceil(PANEL), &|panel| {
        if fault.get().is_some() {
            return;
        }
        let mut scratch = Vec::new();
        let first = panel * PANEL;
        match source.rows(first..source.rows.min(first + PANEL), &mut scratch) {
            Ok(bytes) => pack(panel, bytes),
            // The first one tells enough.
            Err(error) => drop(fault.set(error)),
        }
    });
    match fault.into_inner() {
        Some(error) => Err(PackError::Read(error)),
        None => Ok(()),
    }
}

impl PackedMatrix {
    /// Repacks a matrix; `source` must be consistent. F16 and BF16 stay 16 bits wide, quantised formats four
    /// or eight. What is in a file is read a panel at a time.
    ///
    /// # Errors
    /// When there is no memory for it, or it cannot be read.
    ///
    /// # Panics
    /// When `source` is not consistent; loaders check first.
    pub fn pack(
        pool: &mut ThreadPool,
        arena: &mut Arena,
        source: &MatrixSource<'_>,
    ) -> Result<Self, PackError> {
        assert!(source.is_consistent());
        let (rows, cols) = (source.rows, source.cols);
        let panels = rows.div_ceil(PANEL);
        let store = match source.format() {
            TensorFormat::F32 => {
                let mut packed = arena
                    .zeros::<f32>(panels * PANEL * cols)
                    .map_err(PackError::Memory)?;
                let slices = DisjointSlices::new(&mut packed);
                each_panel(pool, source, &|panel, bytes| {
                    // SAFETY: panels do not overlap.
                    let out = unsafe { slices.part(panel * PANEL * cols, PANEL * cols) };
                    let mut values = vec![0f32; cols];
                    for lane in 0..PANEL.min(rows - panel * PANEL) {
                        match source.elements {
                            RawElements::F32(all) => {
                                values.copy_from_slice(&all[(panel * PANEL + lane) * cols..][..cols]);
                            }
                            RawElements::Bytes(format, _) | RawElements::Stored(format, _) => {
                                dequantize(format, &bytes[lane * cols * 4..][..cols * 4], &mut values);
                            }
                        }
                        for (k, value) in values.iter().enumerate() {
                            out[k * PANEL + lane] = *value;
                        }
                    }
                })?;
                Store::F32(packed)
            }
            format @ (TensorFormat::F16 | TensorFormat::Bf16) => {
                let mut packed = arena
                    .zeros::<u16>(panels * PANEL * cols)
                    .map_err(PackError::Memory)?;
                let slices = DisjointSlices::new(&mut packed);
                each_panel(pool, source, &|panel, bytes| {
                    // SAFETY: panels do not overlap.
                    let out = unsafe { slices.part(panel * PANEL * cols, PANEL * cols) };
                    for (lane, row) in bytes.chunks_exact(cols * 2).enumerate() {
                        for (k, b) in row.chunks_exact(2).enumerate() {
                            out[k * PANEL + lane] = u16::from_le_bytes([b[0], b[1]]);
                        }
                    }
                })?;
                let kind = if format == TensorFormat::F16 {
                    HalfKind::F16
                } else {
                    HalfKind::Bf16
                };
                Store::Half(kind, packed)
            }
            format => Store::Quantised(pack_quantised(pool, arena, format, source)?),
        };
        Ok(Self { rows, cols, store })
    }

    /// Bytes that a matrix of this shape will take once it is repacked.
    pub fn bytes_for(format: TensorFormat, rows: usize, cols: usize) -> usize {
        let elements = rows.div_ceil(PANEL) * PANEL * cols;
        match format {
            TensorFormat::F32 => elements * 4,
            TensorFormat::F16 | TensorFormat::Bf16 => elements * 2,
            quantised => Quantised::bytes_for(quantised, rows, cols),
        }
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
        match &self.store {
            Store::F32(v) => v.len() * 4,
            Store::Half(_, v) => v.len() * 2,
            Store::Quantised(q) => q.bytes(),
        }
    }

    /// Whether weights are integers with scales.
    pub(super) fn is_quantised(&self) -> bool {
        matches!(self.store, Store::Quantised(_))
    }

    pub(super) fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    /// How many inputs a tile may begin at: a multiple of this.
    pub(super) fn tile_step(&self) -> usize {
        match &self.store {
            Store::Quantised(q) => q.group(),
            _ => 1,
        }
    }

    /// The tile as it lies in memory, when it is bf16.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn bf16_in_place(&self, panel: usize, k: usize, count: usize) -> Option<&[u16]> {
        match &self.store {
            Store::Half(HalfKind::Bf16, bits) => {
                Some(&bits[(panel * self.cols + k) * PANEL..][..count * PANEL])
            }
            _ => None,
        }
    }

    /// Inputs `k..k + count` of a panel as f32, `[count][PANEL]`, as they lie in memory or expanded into `scratch`.
    /// `k` is a multiple of [`Self::tile_step`], and so is `count` unless it reaches the end.
    pub(super) fn tile<'a>(
        &'a self,
        isa: Isa,
        panel: usize,
        k: usize,
        count: usize,
        scratch: &'a mut Vec<f32>,
    ) -> &'a [f32] {
        let first = panel * self.cols + k;
        let elements = first * PANEL..(first + count) * PANEL;
        let len = elements.len();
        match &self.store {
            Store::F32(values) => &values[elements],
            Store::Half(kind, bits) => {
                let out = sized(scratch, len);
                match kind {
                    HalfKind::F16 => expand_f16(isa, &bits[elements], out),
                    HalfKind::Bf16 => expand_bf16(isa, &bits[elements], out),
                }
                out
            }
            Store::Quantised(q) => {
                let out = sized(scratch, len);
                q.expand(isa, first, out);
                out
            }
        }
    }

    /// The weights of `strips` neighbouring halves of a panel as integers, where they are.
    pub(super) fn strip(&self, panel: usize, strip: usize, strips: usize) -> Option<Strip<'_>> {
        match &self.store {
            Store::Quantised(q) => Some(q.strip(panel * self.cols, strip, strips)),
            Store::F32(_) | Store::Half(..) => None,
        }
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
