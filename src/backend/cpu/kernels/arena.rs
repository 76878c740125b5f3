//! Memory for weights, keys and values, taken from the system directly, so that the system gets it back at once when
//! it is freed.
//!
//! Weights lie in large maps that the system may back with large pages. A decode step reads every weight once. With
//! small pages, a fifth of that time goes into address translation, and single matrices are too small for large
//! pages.

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
    ptr::NonNull,
    sync::Arc,
};

use self::memory::{CHUNK, Memory, STEP};
use super::prefetch::CACHE_LINE;

/// Elements of a [`Buffer`], which begins as zeroed memory.
///
/// # Safety
/// Every pattern of bits is a value of the type, all zeros included.
pub(super) unsafe trait Plain: Copy + Send + Sync + 'static {}

// SAFETY: every pattern of 8 bits is a u8.
unsafe impl Plain for u8 {}
// SAFETY: every pattern of 32 bits is a u32.
unsafe impl Plain for u32 {}
// SAFETY: every pattern of 8 bits is an i8.
unsafe impl Plain for i8 {}
// SAFETY: every pattern of 16 bits is a u16.
unsafe impl Plain for u16 {}
// SAFETY: every pattern of 32 bits is an f32; some are NaN.
unsafe impl Plain for f32 {}

/// Hands out buffers from large maps, one after the other. A map goes back to the system with the last of its buffers.
#[derive(Default)]
pub struct Arena {
    current: Option<PartlyUsed>,
}

/// The newest map.
struct PartlyUsed {
    chunk: Arc<Chunk>,
    /// Bytes that have been handed out, from the map's start on.
    used: usize,
}

/// A map, which several buffers own together.
struct Chunk {
    start: *mut u8,
    /// Bytes.
    len: usize,
    /// Owns what `start` points to.
    _memory: Memory,
}

// SAFETY: `start` points to memory that the chunk owns and that belongs to no thread. A chunk itself never reads or
// writes it; that is done by buffers, each in a part of its own.
unsafe impl Send for Chunk {}
// SAFETY: a shared chunk gives access to `start` and `len` only, which never change.
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
    /// A buffer of `len` zeros.
    ///
    /// # Errors
    /// When the system has no more memory to give.
    pub(super) fn zeros<T: Plain>(&mut self, len: usize) -> io::Result<Buffer<T>> {
        let bytes = bytes_of::<T>(len)?;
        let PartlyUsed { chunk, used } = match self.current.take() {
            Some(current) if current.chunk.len - current.used >= bytes => current,
            _ => {
                let len = bytes.max(CHUNK);
                PartlyUsed {
                    chunk: Chunk::new(Memory::large(len)?, len),
                    used: 0,
                }
            }
        };
        let start = if bytes == 0 {
            // The end of a chunk need not be aligned.
            NonNull::dangling().as_ptr()
        } else {
            // SAFETY: `used + bytes <= chunk.len`, as was just checked or because the chunk is new and at least
            // `bytes` long.
            unsafe { chunk.start.add(used) }.cast()
        };
        self.current = Some(PartlyUsed {
            chunk: Arc::clone(&chunk),
            used: used + bytes,
        });
        Ok(Buffer {
            start,
            len,
            _chunk: chunk,
            _elements: PhantomData,
        })
    }
}

/// Bytes of `len` elements, rounded up to where the next buffer may begin.
fn bytes_of<T>(len: usize) -> io::Result<usize> {
    // So that the places where buffers begin are aligned for every element.
    const { assert!(align_of::<T>() <= CACHE_LINE) };
    len.checked_mul(size_of::<T>())
        .and_then(|bytes| bytes.checked_next_multiple_of(STEP))
        .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
}

impl<T: Plain> Buffer<T> {
    /// A buffer of `len` zeros in a map of its own. The system backs a page when it is first written, and gets all of
    /// them back when the buffer is dropped.
    ///
    /// # Errors
    /// When the system does not promise so much memory.
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

/// A slice of a map that belongs to nobody else.
pub(super) struct Buffer<T> {
    /// Aligned for `T`. The `len` elements from here on lie in the chunk and in no other buffer.
    start: *mut T,
    /// Elements.
    len: usize,
    /// Keeps the map alive.
    _chunk: Arc<Chunk>,
    _elements: PhantomData<T>,
}

// SAFETY: a buffer owns its elements, as a vector does, and `Plain` types may be sent.
unsafe impl<T: Plain> Send for Buffer<T> {}
// SAFETY: a shared buffer only gives out `&[T]`, and `Plain` types may be shared.
unsafe impl<T: Plain> Sync for Buffer<T> {}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `start` is aligned: it is dangling, or a map's start plus a multiple of `STEP`, or the start of an
        // allocation. The `len` elements are inside of the chunk, which `_chunk` keeps alive; the system zeroed them,
        // and `Plain` makes any bits a value. No other buffer has them, and `self` is borrowed for the slice's
        // lifetime.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: the elements are valid as `deref` explains; `self`, their only owner, is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Elements that do not fit what is left of a first map, where buffers share maps.
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
        assert_eq!(floats.as_ptr().addr() % CACHE_LINE, 0);
        assert!(arena.zeros::<f32>(usize::MAX / 2).is_err());
        drop(arena);
        assert_eq!(floats[99], 1.0);
        assert!(Arena::default().zeros::<f32>(0).unwrap().is_empty());
    }

    #[test]
    #[cfg(not(exact_memory))]
    fn a_sparse_buffer_takes_memory_as_it_is_written_and_gives_it_back() {
        // Two GiB, more than the test machine need have free: only what is written takes memory.
        let mut buffer = Buffer::<u16>::sparse(1 << 30).unwrap();
        buffer[1 << 29] = 7;
        assert_eq!((buffer[0], buffer[1 << 29], buffer.len()), (0, 7, 1 << 30));
        assert!(Buffer::<f32>::sparse(0).unwrap().is_empty());
        assert!(Buffer::<f32>::sparse(usize::MAX / 2).is_err());
        #[cfg(target_os = "linux")]
        {
            let start = buffer.as_ptr().addr();
            let end = start + size_of_val(&buffer[..]);
            // The kernel joins neighbouring maps, and other threads may take some of the place once it is free, but not all.
            let covers = |line: &str| {
                let (from, to) = line.split(' ').next()?.split_once('-')?;
                let from = usize::from_str_radix(from, 16).ok()?;
                let to = usize::from_str_radix(to, 16).ok()?;
                Some(from <= start && end <= to)
            };
            let mapped = || {
                let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
                maps.lines().any(|line| covers(line) == Some(true))
            };
            assert!(mapped());
            drop(buffer);
            assert!(!mapped(), "the map is still there");
        }
    }
}
