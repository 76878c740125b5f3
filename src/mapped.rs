//! Read-only memory maps of model files: the one `unsafe` outside the kernels.

use std::{fs::File, io, path::Path, sync::Arc};

use memmap2::Mmap;

/// Maps a whole file.
pub fn map(path: &Path) -> io::Result<Arc<Mmap>> {
    let file = File::open(path)?;
    // SAFETY: the map is read-only. As with every mapped model, whoever changes the file while it is being
    // loaded changes what is loaded; weights are repacked into own memory, so nothing reads it afterwards.
    let map = unsafe { Mmap::map(&file) }?;
    Ok(Arc::new(map))
}
