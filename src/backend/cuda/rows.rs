//! Rows of activations in a card's memory.

use std::sync::Arc;

use super::{
    buffer::{Buffer, address_of},
    driver::{DeviceAddress, DriverError, PRODUCT_ROWS, Queue},
};

/// How the values of rows are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum RowFormat {
    /// f32.
    #[default]
    F32,
    /// bf16: operands of products.
    Bf16,
}

impl RowFormat {
    fn bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::Bf16 => size_of::<u16>(),
        }
    }
}

/// Rows of activations, `[count, width]`. The memory is for the largest batch, and allocated when rows are first written:
/// by the step that warms a model up while it is loaded.
#[derive(Debug, Default)]
pub(super) struct CudaRows {
    buffer: Option<Buffer>,
    pub format: RowFormat,
    pub width: usize,
    /// Number of rows that launches compute.
    pub count: usize,
}

impl CudaRows {
    /// Bytes of memory for so many rows, whose number is rounded up to what products compute.
    pub(super) fn bytes_for(rows: usize, width: usize, format: RowFormat) -> usize {
        rows.next_multiple_of(PRODUCT_ROWS) * width * format.bytes()
    }

    /// Makes room for what is written next; `most` is the number of rows of the largest batch.
    pub(super) fn prepare(
        &mut self,
        queue: &Arc<dyn Queue>,
        shape: RowsShape,
        most: usize,
    ) -> Result<(), DriverError> {
        let bytes = Self::bytes_for(most, shape.width, shape.format);
        if self.buffer.as_ref().is_none_or(|buffer| buffer.bytes() < bytes) {
            self.buffer = Some(Buffer::new(queue, bytes)?);
        }
        (self.format, self.width, self.count) = (shape.format, shape.width, shape.count);
        Ok(())
    }

    /// The first row; no address before anything was written.
    pub(super) fn address(&self) -> DeviceAddress {
        address_of(self.buffer.as_ref())
    }

    /// 32-bit words of a row.
    pub(super) fn words(&self) -> usize {
        self.width * self.format.bytes() / size_of::<u32>()
    }
}

/// What rows will be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowsShape {
    pub count: usize,
    pub width: usize,
    pub format: RowFormat,
}
