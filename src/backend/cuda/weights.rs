//! Copies weights to a card, rounded to bf16.

use std::{io, sync::Arc, thread};

use half::bf16;

use super::{
    buffer::{Buffer, HostBuffer},
    driver::{Consequence, DriverError, Queue},
    parallel::{join_all, threads},
};
use crate::model::{
    TensorProblem,
    spec::{MatrixSource, TensorFormat},
};

/// Bytes that are converted and copied at a time.
const PIECE_BYTES: usize = 32 << 20;

/// Copies weights to the card.
pub(super) struct WeightLoader {
    queue: Arc<dyn Queue>,
    staging: HostBuffer,
}

impl WeightLoader {
    pub(super) fn new(queue: &Arc<dyn Queue>) -> Result<Self, DriverError> {
        Ok(Self {
            queue: Arc::clone(queue),
            staging: HostBuffer::new(queue, PIECE_BYTES)?,
        })
    }

    /// The matrices below each other, rounded to bf16. The error names the matrix among `parts`.
    pub(super) fn load(&mut self, parts: &[MatrixSource<'_>]) -> Result<Buffer, (usize, TensorProblem)> {
        let bytes = |part: &MatrixSource<'_>| part.rows * part.cols * size_of::<bf16>();
        let buffer = Buffer::new(&self.queue, parts.iter().map(bytes).sum());
        let buffer = buffer.map_err(|error| (0, tensor_problem(error)))?;
        let mut offset = 0;
        for (index, part) in parts.iter().enumerate() {
            let at = |problem| (index, problem);
            let row_bytes = part.cols * size_of::<bf16>();
            if row_bytes > self.staging.bytes() {
                self.staging =
                    HostBuffer::new(&self.queue, row_bytes).map_err(|error| at(tensor_problem(error)))?;
            }
            let rows_at_a_time = (self.staging.bytes() / row_bytes.max(1)).max(1);
            for first in (0..part.rows).step_by(rows_at_a_time) {
                let rows = rows_at_a_time.min(part.rows - first);
                self.round(part, first, rows)
                    .map_err(|error| at(TensorProblem::Read(error)))?;
                let copied = buffer.write(offset, &self.staging, rows * row_bytes);
                copied.map_err(|error| at(tensor_problem(error)))?;
                offset += rows * row_bytes;
            }
        }
        Ok(buffer)
    }

    /// Writes rows of a matrix to the staging buffer, rounded to bf16.
    fn round(&mut self, part: &MatrixSource<'_>, first: usize, rows: usize) -> io::Result<()> {
        let out = self.staging.part_mut::<u16>(0, rows * part.cols);
        let each = rows.div_ceil(threads()).max(1);
        thread::scope(|scope| {
            let pieces = out.chunks_mut(each * part.cols).enumerate();
            let workers: Vec<_> = pieces
                .map(|(index, out)| scope.spawn(move || round_rows(part, first + index * each, out)))
                .collect();
            join_all(workers)
        })
    }
}

fn round_rows(part: &MatrixSource<'_>, first: usize, out: &mut [u16]) -> io::Result<()> {
    let mut bytes = Vec::new();
    let mut row = vec![0.0; part.cols];
    for (index, out) in out.chunks_exact_mut(part.cols).enumerate() {
        let source = first + index;
        if part.format() == TensorFormat::Bf16 {
            let bytes = part.rows(source..source + 1, &mut bytes)?;
            for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *out = u16::from_le_bytes([bytes[0], bytes[1]]);
            }
        } else {
            part.read_row(source, &mut row)?;
            for (out, &value) in out.iter_mut().zip(&row) {
                *out = bf16::from_f32(value).to_bits();
            }
        }
    }
    Ok(())
}

/// Why a tensor was not loaded when a call to the card failed.
pub(super) fn tensor_problem(error: DriverError) -> TensorProblem {
    match error.consequence {
        Consequence::OutOfMemory => TensorProblem::Memory(io::Error::other(error)),
        Consequence::ThisCall | Consequence::Lasting => TensorProblem::Device(Box::new(error)),
    }
}
