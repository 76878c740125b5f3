//! Memory from the heap, for tools that watch memory: every buffer has an allocation of its own, with nothing
//! behind its last element, so that they see an access beyond it.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    io,
};

pub(super) const CHUNK: usize = 0;
pub(super) const STEP: usize = 1;

/// An allocation of zeros.
pub(super) struct Memory(*mut u8, Layout);

impl Memory {
    pub(super) fn sparse(len: usize) -> io::Result<Self> {
        let error = || io::Error::from(io::ErrorKind::OutOfMemory);
        let layout = Layout::from_size_align(len.max(1), super::ALIGN).map_err(|_| error())?;
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc_zeroed(layout) };
        if start.is_null() {
            return Err(error());
        }
        Ok(Self(start, layout))
    }

    pub(super) fn large(len: usize) -> io::Result<Self> {
        Self::sparse(len)
    }

    pub(super) fn start(&mut self) -> *mut u8 {
        self.0
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, once.
        unsafe { dealloc(self.0, self.1) };
    }
}
