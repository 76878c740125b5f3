//! SHA-256 digests as they appear in provenance: `sha256:<hex>`.

use std::{io::Read, path::Path};

use sha2::{Digest as _, Sha256};

use crate::files;

/// `sha256:<hex>` of some bytes.
pub fn of_bytes(bytes: impl AsRef<[u8]>) -> String {
    tagged(Sha256::digest(bytes).as_slice())
}

/// `sha256:<hex>` of bytes that come in pieces.
#[derive(Debug, Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Adds the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all pieces.
    pub fn finish(self) -> String {
        tagged(self.0.finalize().as_slice())
    }
}

/// `sha256:<hex>` of a regular file's content, read in pieces.
pub fn of_file(path: &Path) -> std::io::Result<String> {
    let mut file = files::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(tagged(hasher.finalize().as_slice()));
        }
        hasher.update(&buffer[..read]);
    }
}

fn tagged(hash: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(7 + 2 * hash.len());
    text.push_str("sha256:");
    for byte in hash {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
