//! Memory for weights and for keys and values, straight from the system, so that it goes back there at once.
//!
//! Weights lie in large maps that the system may back with large pages. A decode step reads every weight once.
//! With small pages, a fifth of that time goes into address translation, and single matrices are too small for
//! large ones.

#[cfg(exact_memory)]
#[path = "arena/heap.rs"]
mod memory;
#[cfg(not(exact_memory))]
#[path = "arena/map.rs"]
mod memory;

use std::{
    io,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use self::memory::{CHUNK, Memory, STEP};

/// Buffers begin at multiples of this: a cache line, and a vector.
const ALIGN: usize = 64;

/// Elements for which all bits zero is a value, and every pattern of bits too.
pub(super) trait Plain: Copy + Send + Sync + 'static {}

impl Plain for u8 {}
impl Plain for u32 {}
impl Plain for i8 {}
impl Plain for u16 {}
impl Plain for f32 {}

/// Hands out buffers, one after the other. The memory goes back to the system with the last buffer of a map.
#[derive(Default)]
pub struct Arena {
    /// The newest map and how much of it has been handed out.
    current: Option<(Arc<Chunk>, usize)>,
}

struct Chunk {
    start: *mut u8,
    len: usize,
    _memory: Memory,
}

// SAFETY: a chunk is only memory; its parts are reached through buffers, each of which owns its part alone.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    fn new(mut memory: Memory, len: usize) -> Arc<Self> {
        Arc::new(Self {
            start: memory.start(),
            len,
            _memory: memory,
        })
    }
}

impl Arena {
    /// `len` zeros.
    ///
    /// # Errors
    /// When the system has no more memory to give.
    pub(super) fn zeros<T: Plain>(&mut self, len: usize) -> io::Result<Buffer<T>> {
        let bytes = bytes_of::<T>(len)?;
        let (chunk, used) = match self.current.take() {
            Some((chunk, used)) if chunk.len - used >= bytes => (chunk, used),
            _ => {
                let len = bytes.max(CHUNK);
                (Chunk::new(Memory::large(len)?, len), 0)
            }
        };
        // SAFETY: `used + bytes` is within the chunk.
        let start = unsafe { chunk.start.add(used) }.cast();
        self.current = Some((Arc::clone(&chunk), used + bytes));
        Ok(Buffer {
            start,
            len,
            _chunk: chunk,
            _elements: PhantomData,
        })
    }
}

/// Bytes of so many elements, up to where the next buffer may begin.
fn bytes_of<T>(len: usize) -> io::Result<usize> {
    len.checked_mul(size_of::<T>())
        .and_then(|bytes| bytes.checked_next_multiple_of(STEP))
        .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
}

impl<T: Plain> Buffer<T> {
    /// `len` zeros in a map of their own. The system gives the memory of a page when it is first written, and
    /// gets all of it back when the buffer is dropped.
    ///
    /// # Errors
    /// When the system does not promise so much.
    pub(super) fn sparse(len: usize) -> io::Result<Self> {
        let bytes = bytes_of::<T>(len)?;
        let chunk = Chunk::new(Memory::sparse(bytes)?, bytes);
        Ok(Self {
            start: chunk.start.cast(),
            len,
            _chunk: chunk,
            _elements: PhantomData,
        })
    }
}

/// A slice of an [`Arena`]'s memory that nobody else has.
pub(super) struct Buffer<T> {
    start: *mut T,
    len: usize,
    /// Keeps the memory.
    _chunk: Arc<Chunk>,
    _elements: PhantomData<T>,
}

// SAFETY: a buffer owns its elements, as a vector does.
unsafe impl<T: Plain> Send for Buffer<T> {}
// SAFETY: as above.
unsafe impl<T: Plain> Sync for Buffer<T> {}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `zeros` or `sparse` gave this buffer `len` elements, aligned, zeroed by the system, which no
        // other buffer has, and the chunk is alive.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than what is left of a first map, where there is one.
    const LARGE: usize = if CHUNK > 0 { CHUNK } else { 1 << 10 };

    #[test]
    fn buffers_are_zero_aligned_and_apart() {
        let mut arena = Arena::default();
        let mut bytes = arena.zeros::<u8>(3).unwrap();
        let mut floats = arena.zeros::<f32>(100).unwrap();
        let large = arena.zeros::<u16>(LARGE).unwrap();
        assert!(bytes.iter().all(|&b| b == 0) && floats.iter().all(|&f| f == 0.0));
        assert!(large.len() == LARGE && large[LARGE - 1] == 0);
        bytes.fill(255);
        floats.fill(1.0);
        assert!(bytes.iter().all(|&b| b == 255) && floats.iter().all(|&f| f == 1.0));
        assert_eq!(floats.as_ptr().addr() % ALIGN, 0);
        assert!(arena.zeros::<f32>(usize::MAX / 2).is_err());
        drop(arena);
        assert_eq!(floats[99], 1.0);
        assert!(Arena::default().zeros::<f32>(0).unwrap().is_empty());
    }

    #[test]
    #[cfg(not(exact_memory))]
    fn a_sparse_buffer_takes_memory_as_it_is_written_and_gives_it_back() {
        // Far more than the test machine need have.
        let mut buffer = Buffer::<u16>::sparse(1 << 30).unwrap();
        buffer[1 << 29] = 7;
        assert_eq!((buffer[0], buffer[1 << 29], buffer.len()), (0, 7, 1 << 30));
        assert!(Buffer::<f32>::sparse(0).unwrap().is_empty());
        assert!(Buffer::<f32>::sparse(usize::MAX / 2).is_err());
        #[cfg(target_os = "linux")]
        {
            let start = format!("{:x}-", buffer.as_ptr().addr());
            let mapped = || {
                std::fs::read_to_string("/proc/self/maps")
                    .unwrap()
                    .contains(&start)
            };
            assert!(mapped());
            drop(buffer);
            assert!(!mapped(), "the map is still there");
        }
    }
}
