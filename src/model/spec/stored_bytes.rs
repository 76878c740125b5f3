//! Bytes that are read where and when they are needed.

use std::io;

/// Bytes that are in a file, or made up, and not in memory. Several threads read them at the same time.
pub trait StoredBytes: Sync {
    /// Number of bytes.
    fn len(&self) -> usize;

    /// Whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// When the file cannot be read, or has fewer bytes.
    fn read_at(&self, offset: usize, out: &mut [u8]) -> io::Result<()>;
}
