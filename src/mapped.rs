//! Read-only memory maps of model files: the one `unsafe` outside the kernels.

use std::{fs::File, io, path::Path, sync::Arc};

use memmap2::Mmap;

/// Maps a whole file.
pub fn map(path: &Path) -> io::Result<Arc<Mmap>> {
    // Opening a pipe would wait for somebody to write into it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "is not a regular file",
        ));
    }
    let file = File::open(path)?;
    // SAFETY: the map is read-only. As with every mapped model, whoever changes the file while it is being
    // loaded changes what is loaded; weights are repacked into own memory, so nothing reads it afterwards.
    let map = unsafe { Mmap::map(&file) }?;
    Ok(Arc::new(map))
}
