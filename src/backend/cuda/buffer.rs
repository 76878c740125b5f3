//! Memory of a card and memory of the host that a card can copy by itself, freed when they are dropped.

use std::{fmt, ptr::NonNull, sync::Arc};

use super::driver::{DeviceAddress, DriverError, Queue};

/// Memory of a card.
pub(super) struct Buffer {
    queue: Arc<dyn Queue>,
    address: DeviceAddress,
    bytes: usize,
}

impl Buffer {
    /// Memory without any defined contents.
    pub(super) fn new(queue: &Arc<dyn Queue>, bytes: usize) -> Result<Self, DriverError> {
        // A card has no address for nothing.
        let bytes = bytes.max(16);
        Ok(Self {
            address: queue.allocate(bytes)?,
            queue: Arc::clone(queue),
            bytes,
        })
    }

    /// Memory that holds these values.
    pub(super) fn holding<T: Plain>(queue: &Arc<dyn Queue>, values: &[T]) -> Result<Self, DriverError> {
        let bytes = size_of_val(values);
        let buffer = Self::new(queue, bytes)?;
        let mut staging = HostBuffer::new(queue, bytes)?;
        staging.slice_mut::<T>()[..values.len()].copy_from_slice(values);
        buffer.write(0, &staging, bytes)?;
        Ok(buffer)
    }

    pub(super) fn address(&self) -> DeviceAddress {
        self.address
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies the first `bytes` bytes of `from` to `offset`, and waits for it.
    pub(super) fn write(&self, offset: usize, from: &HostBuffer, bytes: usize) -> Result<(), DriverError> {
        assert!(
            offset + bytes <= self.bytes && bytes <= from.bytes,
            "a copy outside of a buffer"
        );
        // SAFETY: both ranges are inside of their allocations, as was just checked, and nobody touches them before the
        // queue was waited for.
        unsafe {
            self.queue
                .upload(self.address.offset(offset), from.address, bytes)
        }?;
        self.queue.wait()
    }

    /// Copies `bytes` bytes from `offset` on to the beginning of `to`, and waits for it.
    pub(super) fn read(&self, offset: usize, to: &mut HostBuffer, bytes: usize) -> Result<(), DriverError> {
        assert!(
            offset + bytes <= self.bytes && bytes <= to.bytes,
            "a copy outside of a buffer"
        );
        // SAFETY: as in `write`.
        unsafe {
            self.queue
                .download(to.address, self.address.offset(offset), bytes)
        }?;
        self.queue.wait()
    }
}

/// The address of a buffer, or no address where there is none.
pub(super) fn address_of(buffer: Option<&Buffer>) -> DeviceAddress {
    buffer.map_or(DeviceAddress::NULL, Buffer::address)
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.queue.release(self.address);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:#x}", self.bytes, self.address.0)
    }
}

/// Values that any bytes are a value of.
///
/// # Safety
/// Every combination of bytes is a value, and there are none between its fields.
pub(super) unsafe trait Plain: Copy {}

// SAFETY: numbers.
unsafe impl Plain for u8 {}
// SAFETY: numbers.
unsafe impl Plain for u16 {}
// SAFETY: numbers.
unsafe impl Plain for u32 {}
// SAFETY: numbers.
unsafe impl Plain for f32 {}
// SAFETY: numbers.
unsafe impl Plain for f64 {}
// SAFETY: addresses are numbers, and arguments have no bytes between their fields.
unsafe impl<A: super::arguments::Argument> Plain for A {}

/// Memory of the host that a card can copy to and from by itself. It is zero at first.
pub(super) struct HostBuffer {
    queue: Arc<dyn Queue>,
    address: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the memory is this buffer's alone, like a vector's.
unsafe impl Send for HostBuffer {}

impl HostBuffer {
    pub(super) fn new(queue: &Arc<dyn Queue>, bytes: usize) -> Result<Self, DriverError> {
        let bytes = bytes.max(16).next_multiple_of(8);
        let address = queue.allocate_host(bytes)?;
        // SAFETY: the allocation has so many bytes.
        unsafe { address.write_bytes(0, bytes) };
        Ok(Self {
            queue: Arc::clone(queue),
            address,
            bytes,
        })
    }

    pub(super) fn address(&self) -> NonNull<u8> {
        self.address
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first `count` values from byte `offset` on.
    pub(super) fn part<T: Plain>(&self, offset: usize, count: usize) -> &[T] {
        let start = self.start::<T>(offset, count);
        // SAFETY: `start` has checked that so many values lie in the allocation. All bytes of it were written, and any
        // bytes are values of `T`.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), count) }
    }

    /// The first `count` values from byte `offset` on, to be written.
    pub(super) fn part_mut<T: Plain>(&mut self, offset: usize, count: usize) -> &mut [T] {
        let mut start = self.start::<T>(offset, count);
        // SAFETY: as in `part`, and the buffer is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(start.as_mut(), count) }
    }

    /// All of it, as values.
    pub(super) fn slice_mut<T: Plain>(&mut self) -> &mut [T] {
        self.part_mut(0, self.bytes / size_of::<T>())
    }

    fn start<T: Plain>(&self, offset: usize, count: usize) -> NonNull<T> {
        let inside = offset + count * size_of::<T>() <= self.bytes;
        let aligned = align_of::<T>() <= 8 && offset.is_multiple_of(align_of::<T>());
        assert!(inside && aligned, "values outside of a buffer");
        // SAFETY: the offset is inside of the allocation, as was just checked.
        unsafe { self.address.add(offset).cast() }
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        self.queue.release_host(self.address);
    }
}
