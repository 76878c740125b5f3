//! Memory from the system's anonymous maps.

use std::io;

use memmap2::MmapMut;

use crate::backend::cpu::kernels::prefetch::CACHE_LINE;

/// Bytes of a map, unless a buffer needs more. The system never backs the part of a map that no buffer uses.
pub(super) const CHUNK: usize = 64 << 20;
/// A buffer's bytes are rounded up to a multiple of this, so that the next one begins at a line of the cache.
pub(super) const STEP: usize = CACHE_LINE;

/// A map of zeros. It begins at a page.
pub(super) struct Memory(MmapMut);

impl Memory {
    /// Memory that the system backs page by page, as it is written.
    pub(super) fn sparse(len: usize) -> io::Result<Self> {
        // The system refuses an empty map.
        MmapMut::map_anon(len.max(STEP)).map(Self)
    }

    /// Memory that the system may back with large pages.
    pub(super) fn large(len: usize) -> io::Result<Self> {
        let memory = Self::sparse(len)?;
        // A system without large pages refuses the advice, and small pages are used.
        #[cfg(target_os = "linux")]
        let _ = memory.0.advise(memmap2::Advice::HugePage);
        Ok(memory)
    }

    pub(super) fn start(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }
}
