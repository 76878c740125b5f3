//! Weight matrices as files have them, before they are repacked.

use half::f16;

use super::BlockFormat;

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
fn dequantize(format: BlockFormat, bytes: &[u8], out: &mut [f32]) {
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
                        let (scale, min) = (group.scale.value(), group.min.value());
                        for (value, &quant) in out.iter_mut().zip(&group.quants) {
                            *value = f32::from(quant).mul_add(scale, min);
                        }
                    }
                });
            }
        }
    }
}
