//! Memory from the system's maps.

use std::io;

use memmap2::MmapMut;

/// Bytes of a map, unless a buffer needs more. What a map's end does not use is never backed.
pub(super) const CHUNK: usize = 64 << 20;
/// A buffer's bytes are rounded up to a multiple of this.
pub(super) const STEP: usize = super::ALIGN;

/// A map of zeros.
pub(super) struct Memory(MmapMut);

impl Memory {
    /// Memory that the system gives page by page, as it is written.
    pub(super) fn sparse(len: usize) -> io::Result<Self> {
        // There is no empty map.
        MmapMut::map_anon(len.max(STEP)).map(Self)
    }

    /// Memory that the system may back with large pages.
    pub(super) fn large(len: usize) -> io::Result<Self> {
        let memory = Self::sparse(len)?;
        // A wish: a system without large pages says no, and nothing is lost.
        #[cfg(target_os = "linux")]
        let _ = memory.0.advise(memmap2::Advice::HugePage);
        Ok(memory)
    }

    pub(super) fn start(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }
}
