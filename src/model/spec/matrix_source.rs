//! Weight matrices as files have them, before they are repacked.

use std::io;

use half::f16;

use super::TensorFormat;

/// Bytes of a row that are read at a time, so that a long row takes no more memory than this beside its values.
const PIECE_BYTES: usize = 1 << 16;

/// Bytes that are not in memory. Several threads may read them at the same time.
pub trait StoredBytes: Sync {
    /// Number of bytes.
    fn len(&self) -> usize;

    /// Whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// When the system cannot read so many.
    fn read_at(&self, offset: usize, out: &mut [u8]) -> io::Result<()>;
}

/// A weight matrix as a file has it: `rows` outputs of `cols` inputs, row-major.
#[derive(Clone, Copy)]
pub struct MatrixSource<'a> {
    /// Number of outputs.
    pub rows: usize,
    /// Number of inputs.
    pub cols: usize,
    /// The elements, and where they are.
    pub elements: RawElements<'a>,
}

/// Elements of a [`MatrixSource`].
#[derive(Clone, Copy)]
pub enum RawElements<'a> {
    /// Values in memory.
    F32(&'a [f32]),
    /// Bytes in memory in one of ggml's formats (little endian).
    Bytes(TensorFormat, &'a [u8]),
    /// The same in a file. They are read as they are repacked, so that they never are in memory all at once.
    Stored(TensorFormat, &'a dyn StoredBytes),
}

impl MatrixSource<'_> {
    /// The storage format.
    pub fn format(&self) -> TensorFormat {
        match self.elements {
            RawElements::F32(_) => TensorFormat::F32,
            RawElements::Bytes(format, _) | RawElements::Stored(format, _) => format,
        }
    }

    /// Whether there are as many elements as rows and columns say, in whole blocks per row.
    pub fn is_consistent(&self) -> bool {
        match self.elements {
            RawElements::F32(values) => self.rows.checked_mul(self.cols) == Some(values.len()),
            RawElements::Bytes(format, bytes) => self.bytes_in(format) == Some(bytes.len()),
            RawElements::Stored(format, stored) => self.bytes_in(format) == Some(stored.len()),
        }
    }

    fn bytes_in(&self, format: TensorFormat) -> Option<usize> {
        format.bytes_for(self.cols)?.checked_mul(self.rows)
    }

    /// The bytes of neighbouring rows: a part of the bytes in memory, or read from the file into `scratch`. There are none
    /// of values that are f32 in memory already.
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
            RawElements::Stored(_, stored) => {
                scratch.resize(bytes.len(), 0);
                stored.read_at(bytes.start, scratch)?;
                Ok(scratch)
            }
        }
    }

    fn row_bytes(&self) -> usize {
        let format = self.format();
        self.cols / format.block_elements() * format.block_bytes()
    }

    /// Row `row` as f32, written to `out` (`cols` long).
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
            RawElements::Stored(format, stored) => {
                let blocks = PIECE_BYTES / format.block_bytes();
                let mut piece = Vec::new();
                let mut offset = row * row_bytes;
                for out in out.chunks_mut(blocks * format.block_elements()) {
                    piece.resize(out.len() / format.block_elements() * format.block_bytes(), 0);
                    stored.read_at(offset, &mut piece)?;
                    dequantize(format, &piece, out);
                    offset += piece.len();
                }
            }
        }
        Ok(())
    }
}

/// Expands whole blocks to f32.
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
