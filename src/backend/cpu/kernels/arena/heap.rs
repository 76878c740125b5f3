//! Memory from the heap, for tools that watch memory: every buffer has an allocation of its own, with nothing
//! behind its last element, so that they see an access beyond it.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    io,
};

use crate::backend::cpu::kernels::prefetch::CACHE_LINE;

/// Least bytes of an allocation for several buffers: none, so that each buffer gets its own.
pub(super) const CHUNK: usize = 0;
/// A buffer's bytes are not rounded up.
pub(super) const STEP: usize = 1;

/// An allocation of zeros that begins at a line of the cache.
pub(super) struct Memory {
    start: *mut u8,
    layout: Layout,
}

impl Memory {
    pub(super) fn sparse(len: usize) -> io::Result<Self> {
        let error = || io::Error::from(io::ErrorKind::OutOfMemory);
        let layout = Layout::from_size_align(len.max(1), CACHE_LINE).map_err(|_| error())?;
        // SAFETY: the layout's size is at least 1.
        let start = unsafe { alloc_zeroed(layout) };
        if start.is_null() {
            return Err(error());
        }
        Ok(Self { start, layout })
    }

    pub(super) fn large(len: usize) -> io::Result<Self> {
        Self::sparse(len)
    }

    pub(super) fn start(&mut self) -> *mut u8 {
        self.start
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `sparse` allocated `start` with this layout, and only this drop frees it.
        unsafe { dealloc(self.start, self.layout) };
    }
}
