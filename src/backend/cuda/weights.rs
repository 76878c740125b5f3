//! Brings weights onto a card, rounded to bf16: copies of what files have, and noise that the card makes itself.

use std::{io, sync::Arc, thread};

use half::bf16;

use super::{
    arguments::{FillNoiseArgs, bytes_of},
    buffer::{Buffer, HostBuffer},
    driver::{Consequence, DriverError, KernelHandle, Queue},
    kernels::Kernel,
    launch_sizes::values_of,
    parallel::{join_all, threads},
};
use crate::model::{
    TensorProblem,
    spec::{MatrixSource, Noise, RawElements, StoredBytes as _, TensorFormat},
};

/// Bytes that are converted and copied at a time.
const PIECE_BYTES: usize = 32 << 20;

/// Most values of noise that a launch makes. A multiple of four, so that each launch begins with a whole word.
const NOISE_VALUES: usize = 1 << 30;

/// Brings weights onto the card.
pub(super) struct WeightLoader {
    queue: Arc<dyn Queue>,
    staging: HostBuffer,
    /// Makes noise; loaded when some is wanted for the first time.
    noise_kernel: Option<KernelHandle>,
}

impl WeightLoader {
    pub(super) fn new(queue: &Arc<dyn Queue>) -> Result<Self, DriverError> {
        Ok(Self {
            queue: Arc::clone(queue),
            staging: HostBuffer::new(queue, PIECE_BYTES)?,
            noise_kernel: None,
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
            if let RawElements::Noise(noise) = part.elements
                && noise.is_of_floats()
            {
                let values = part.rows * part.cols;
                let filled = self.fill(&buffer, offset, noise, values);
                filled.map_err(|error| at(tensor_problem(error)))?;
                offset += values * size_of::<bf16>();
                continue;
            }
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

    /// A matrix of noise by itself, which follows from this name.
    pub(super) fn noise(&mut self, name: &str, rows: usize, cols: usize) -> Result<Buffer, DriverError> {
        let noise = Noise::new(name, TensorFormat::Bf16, rows, cols).ok_or_else(|| DriverError {
            call: "cuMemAlloc",
            reason: format!("no memory has room for {rows} rows of {cols} values"),
            consequence: Consequence::OutOfMemory,
        })?;
        let buffer = Buffer::new(&self.queue, noise.len())?;
        self.fill(&buffer, 0, &noise, rows * cols)?;
        Ok(buffer)
    }

    /// Has the card write so many values of noise to `offset` of the buffer, and waits for it.
    fn fill(
        &mut self,
        buffer: &Buffer,
        offset: usize,
        noise: &Noise,
        values: usize,
    ) -> Result<(), DriverError> {
        assert!(
            offset + values * size_of::<bf16>() <= buffer.bytes(),
            "noise outside of a buffer"
        );
        let kernel = match self.noise_kernel {
            Some(kernel) => kernel,
            None => *self.noise_kernel.insert(self.queue.kernel(Kernel::FillNoise)?),
        };
        for first in (0..values).step_by(NOISE_VALUES) {
            let count = NOISE_VALUES.min(values - first);
            let argument = FillNoiseArgs {
                out: buffer.address().offset(offset + first * size_of::<bf16>()),
                counter: noise.counter(first),
                count: count as u32,
                scale: noise.scale(),
            };
            let size = values_of(count);
            // SAFETY: the argument is the kernel's. What it writes to is inside of the buffer, as was just checked, and nobody
            // touches it before the queue was waited for.
            unsafe { self.queue.launch(kernel, size, bytes_of(&argument)) }?;
        }
        self.queue.wait()
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
