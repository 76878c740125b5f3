//! Weight matrices as kernels read them: repacked at load into panels of [`PANEL`] outputs. Inside of a panel inputs
//! follow one another, each with its weights of all the panel's outputs, so that the lanes of a vector are
//! neighbouring outputs.

use half::f16;

use super::{
    arena::{Arena, Buffer},
    buffers::scratch_slice,
    disjoint::DisjointSlices,
    floats::{expand_bf16, expand_f16},
    isa::Isa,
    panel::{PANEL, PackError, for_each_panel},
    pool::ThreadPool,
    quantised::{Quantised, pack_quantised},
    ranges::InputRange,
    strip::Strip,
};
use crate::model::spec::{MatrixSource, RawElements, TensorFormat, dequantize};

/// A repacked matrix.
pub struct PackedMatrix {
    rows: usize,
    cols: usize,
    store: Store,
}

/// Weights, `[panel][input][PANEL]` but for quantised ones. Outputs behind the last have weights of 0.
enum Store {
    F32(Buffer<f32>),
    /// Bits of f16.
    F16(Buffer<u16>),
    /// Bits of bf16.
    Bf16(Buffer<u16>),
    Quantised(Quantised),
}

impl PackedMatrix {
    /// Repacks a matrix; `source` must be consistent. Weights in F16 and BF16 stay 16 bits wide, quantised ones
    /// become four, six or eight bits wide. Of a file one panel for each thread is in memory at a time.
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
        let store = match source.format() {
            TensorFormat::F32 => Store::F32(pack_f32(pool, arena, source)?),
            TensorFormat::F16 => Store::F16(pack_16_bits(pool, arena, source)?),
            TensorFormat::Bf16 => Store::Bf16(pack_16_bits(pool, arena, source)?),
            format => Store::Quantised(pack_quantised(pool, arena, format, source)?),
        };
        Ok(Self {
            rows: source.rows,
            cols: source.cols,
            store,
        })
    }

    /// Bytes that a matrix of this shape takes in memory once it is repacked.
    pub fn bytes_for(format: TensorFormat, rows: usize, cols: usize) -> usize {
        let elements = rows.div_ceil(PANEL) * PANEL * cols;
        match format {
            TensorFormat::F32 => elements * 4,
            TensorFormat::F16 | TensorFormat::Bf16 => elements * 2,
            quantised => Quantised::bytes_for(quantised, rows, cols),
        }
    }

    /// Number of outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes that the weights take in memory.
    pub fn bytes(&self) -> usize {
        match &self.store {
            Store::F32(v) => v.len() * 4,
            Store::F16(v) | Store::Bf16(v) => v.len() * 2,
            Store::Quantised(q) => q.bytes(),
        }
    }

    /// Whether weights are integers with scales.
    pub(super) fn is_quantised(&self) -> bool {
        matches!(self.store, Store::Quantised(_))
    }

    /// Number of panels.
    pub(super) fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    /// A panel, by its index.
    pub(super) fn panel(&self, index: usize) -> MatrixPanel<'_> {
        MatrixPanel { matrix: self, index }
    }

    /// Inputs that share a scale, and 1 where there are no scales. Inputs are expanded in multiples of it.
    pub(super) fn group_size(&self) -> usize {
        match &self.store {
            Store::Quantised(q) => q.group(),
            Store::F32(_) | Store::F16(_) | Store::Bf16(_) => 1,
        }
    }

    /// Writes the weights of output `row` as f32 to `out`, which has `cols` elements: an embedding look-up.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        let (panel, lane) = (row / PANEL, row % PANEL);
        for (k, value) in out.iter_mut().enumerate() {
            let at = panel * self.cols + k;
            *value = match &self.store {
                Store::F32(values) => values[at * PANEL + lane],
                Store::F16(bits) => f16::from_bits(bits[at * PANEL + lane]).to_f32(),
                Store::Bf16(bits) => f32::from_bits(u32::from(bits[at * PANEL + lane]) << 16),
                Store::Quantised(q) => q.value(at, lane),
            };
        }
    }
}

/// [`PANEL`] neighbouring outputs of a matrix.
#[derive(Clone, Copy)]
pub(super) struct MatrixPanel<'a> {
    /// The matrix that the outputs belong to.
    pub matrix: &'a PackedMatrix,
    /// Index of the panel.
    pub index: usize,
}

impl<'a> MatrixPanel<'a> {
    /// Elements of these inputs in a buffer that is `[panel][input][PANEL]`.
    fn elements(self, inputs: InputRange) -> std::ops::Range<usize> {
        let first = self.index * self.matrix.cols + inputs.first;
        first * PANEL..(first + inputs.count) * PANEL
    }

    /// The weights of these inputs as they lie in memory, where they are bf16: `[inputs.count][PANEL]`.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn bf16_in_place(self, inputs: InputRange) -> Option<&'a [u16]> {
        match &self.matrix.store {
            Store::Bf16(bits) => Some(&bits[self.elements(inputs)]),
            _ => None,
        }
    }

    /// The weights of these inputs as f32, `[inputs.count][PANEL]`: as they lie in memory, or expanded into `scratch`.
    /// The first input is a multiple of [`PackedMatrix::group_size`], and so is the count unless it reaches the end.
    pub(super) fn expanded(self, isa: Isa, inputs: InputRange, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        let elements = self.elements(inputs);
        let len = elements.len();
        match &self.matrix.store {
            Store::F32(values) => &values[elements],
            Store::F16(bits) => {
                let out = scratch_slice(scratch, len);
                expand_f16(isa, &bits[elements], out);
                out
            }
            Store::Bf16(bits) => {
                let out = scratch_slice(scratch, len);
                expand_bf16(isa, &bits[elements], out);
                out
            }
            Store::Quantised(q) => {
                let out = scratch_slice(scratch, len);
                q.expand(isa, elements.start / PANEL, out);
                out
            }
        }
    }

    /// The integers and scales of `count` of the panel's strips from `first` on, where weights are quantised.
    pub(super) fn strips(self, first: usize, count: usize) -> Option<Strip<'a>> {
        match &self.matrix.store {
            Store::Quantised(q) => Some(q.strips(self.index * self.matrix.cols, first, count)),
            Store::F32(_) | Store::F16(_) | Store::Bf16(_) => None,
        }
    }
}

/// Neighbouring strips of a panel.
#[derive(Clone, Copy)]
pub(super) struct MatrixStrips<'a> {
    /// The panel that the strips are cut from.
    pub panel: MatrixPanel<'a>,
    /// Index of the first strip in the panel.
    pub first: usize,
    /// Number of strips.
    pub count: usize,
}

fn pack_f32(
    pool: &mut ThreadPool,
    arena: &mut Arena,
    source: &MatrixSource<'_>,
) -> Result<Buffer<f32>, PackError> {
    let (rows, cols) = (source.rows, source.cols);
    let mut packed = arena
        .zeros::<f32>(rows.div_ceil(PANEL) * PANEL * cols)
        .map_err(PackError::Memory)?;
    let slices = DisjointSlices::new(&mut packed);
    for_each_panel(pool, source, &|panel, bytes| {
        // SAFETY: each panel is one task's, and these elements are the panel's only.
        let out = unsafe { slices.part(panel * PANEL * cols, PANEL * cols) };
        let mut values = vec![0f32; cols];
        for lane in 0..PANEL.min(rows - panel * PANEL) {
            match source.elements {
                RawElements::F32(all) => {
                    values.copy_from_slice(&all[(panel * PANEL + lane) * cols..][..cols]);
                }
                RawElements::Bytes(..) | RawElements::Stored(..) | RawElements::Noise(_) => {
                    dequantize(
                        source.format(),
                        &bytes[lane * cols * 4..][..cols * 4],
                        &mut values,
                    );
                }
            }
            for (k, value) in values.iter().enumerate() {
                out[k * PANEL + lane] = *value;
            }
        }
    })?;
    Ok(packed)
}

/// Repacks F16 or BF16, whose bits stay as they are.
fn pack_16_bits(
    pool: &mut ThreadPool,
    arena: &mut Arena,
    source: &MatrixSource<'_>,
) -> Result<Buffer<u16>, PackError> {
    let cols = source.cols;
    let mut packed = arena
        .zeros::<u16>(source.rows.div_ceil(PANEL) * PANEL * cols)
        .map_err(PackError::Memory)?;
    let slices = DisjointSlices::new(&mut packed);
    for_each_panel(pool, source, &|panel, bytes| {
        // SAFETY: each panel is one task's, and these elements are the panel's only.
        let out = unsafe { slices.part(panel * PANEL * cols, PANEL * cols) };
        for (lane, row) in bytes.chunks_exact(cols * 2).enumerate() {
            for (k, b) in row.chunks_exact(2).enumerate() {
                out[k * PANEL + lane] = u16::from_le_bytes([b[0], b[1]]);
            }
        }
    })?;
    Ok(packed)
}
