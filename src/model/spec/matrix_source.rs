//! Weight matrices as files have them, before they are repacked.

use std::io;

use half::f16;

use super::{Noise, StoredBytes, TensorFormat};

/// Most bytes of a single row that are read from a file at a time.
const PIECE_BYTES: usize = 1 << 16;

/// A weight matrix as a file has it, row-major.
#[derive(Clone, Copy)]
pub struct MatrixSource<'a> {
    /// Number of outputs.
    pub rows: usize,
    /// Number of inputs.
    pub cols: usize,
    /// The weights: `cols` of the first output, then those of the next.
    pub elements: RawElements<'a>,
}

/// Elements of a [`MatrixSource`].
#[derive(Clone, Copy)]
pub enum RawElements<'a> {
    /// Values in memory.
    F32(&'a [f32]),
    /// Bytes in memory, in one of ggml's formats (little endian).
    Bytes(TensorFormat, &'a [u8]),
    /// Bytes in a file, in one of ggml's formats. They are read while they are repacked, so that they are never in
    /// memory all at once.
    Stored(TensorFormat, &'a dyn StoredBytes),
    /// Made up, where and when they are read.
    Noise(&'a Noise),
}

impl MatrixSource<'_> {
    /// The format in which the weights are stored.
    pub fn format(&self) -> TensorFormat {
        match self.elements {
            RawElements::F32(_) => TensorFormat::F32,
            RawElements::Bytes(format, _) | RawElements::Stored(format, _) => format,
            RawElements::Noise(noise) => noise.format(),
        }
    }

    /// Whether there are `rows * cols` elements, and each row is whole blocks.
    pub fn is_consistent(&self) -> bool {
        match self.elements {
            RawElements::F32(values) => self.rows.checked_mul(self.cols) == Some(values.len()),
            RawElements::Bytes(format, bytes) => self.bytes_in(format) == Some(bytes.len()),
            RawElements::Stored(format, stored) => self.bytes_in(format) == Some(stored.len()),
            RawElements::Noise(noise) => self.bytes_in(noise.format()) == Some(noise.len()),
        }
    }

    /// Bytes of the matrix in a format, or `None` when a row is not whole blocks or the number overflows.
    fn bytes_in(&self, format: TensorFormat) -> Option<usize> {
        format.bytes_for(self.cols)?.checked_mul(self.rows)
    }

    /// The bytes of neighbouring rows, as they lie in memory or read into `scratch`. For [`RawElements::F32`] there
    /// are none.
    pub(crate) fn rows<'s>(
        &'s self,
        rows: std::ops::Range<usize>,
        scratch: &'s mut Vec<u8>,
    ) -> io::Result<&'s [u8]> {
        let row_bytes = self.row_bytes();
        let bytes = rows.start * row_bytes..rows.end * row_bytes;
        match self.elements {
            RawElements::F32(_) => Ok(&[]),
            RawElements::Bytes(_, all) => Ok(&all[bytes]),
            RawElements::Stored(_, stored) => read_rows(stored, bytes, scratch),
            RawElements::Noise(noise) => read_rows(noise, bytes, scratch),
        }
    }

    /// Bytes of a row.
    fn row_bytes(&self) -> usize {
        let format = self.format();
        self.cols / format.block_elements() * format.block_bytes()
    }

    /// Writes the weights of output `row` as f32 to `out`, which has `cols` elements.
    ///
    /// # Errors
    /// When the elements are in a file that cannot be read.
    pub fn read_row(&self, row: usize, out: &mut [f32]) -> io::Result<()> {
        let row_bytes = self.row_bytes();
        match self.elements {
            RawElements::F32(values) => out.copy_from_slice(&values[row * self.cols..][..self.cols]),
            RawElements::Bytes(format, bytes) => {
                dequantize(format, &bytes[row * row_bytes..][..row_bytes], out);
            }
            RawElements::Stored(format, stored) => expand(format, stored, row * row_bytes, out)?,
            RawElements::Noise(noise) => expand(noise.format(), noise, row * row_bytes, out)?,
        }
        Ok(())
    }
}

/// Reads neighbouring rows into `scratch`.
fn read_rows<'s>(
    stored: &dyn StoredBytes,
    bytes: std::ops::Range<usize>,
    scratch: &'s mut Vec<u8>,
) -> io::Result<&'s [u8]> {
    scratch.resize(bytes.len(), 0);
    stored.read_at(bytes.start, scratch)?;
    Ok(scratch)
}

/// Reads whole blocks of a format from `offset` on, and expands them to f32.
fn expand(
    format: TensorFormat,
    stored: &dyn StoredBytes,
    mut offset: usize,
    out: &mut [f32],
) -> io::Result<()> {
    let blocks = PIECE_BYTES / format.block_bytes();
    let mut piece = Vec::new();
    for out in out.chunks_mut(blocks * format.block_elements()) {
        piece.resize(out.len() / format.block_elements() * format.block_bytes(), 0);
        stored.read_at(offset, &mut piece)?;
        dequantize(format, &piece, out);
        offset += piece.len();
    }
    Ok(())
}

/// Expands whole blocks of a format to f32.
pub(crate) fn dequantize(format: TensorFormat, bytes: &[u8], out: &mut [f32]) {
    match format {
        TensorFormat::F32 => {
            for (value, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *value = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        TensorFormat::F16 => {
            for (value, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *value = f16::from_le_bytes([b[0], b[1]]).to_f32();
            }
        }
        TensorFormat::Bf16 => {
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
