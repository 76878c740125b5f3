//! SHA-256 digests as they appear in provenance: `sha256:<hex>`.

use std::{io::Read, path::Path};

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use sha2::{Digest as _, Sha256};

use crate::files;

/// `sha256:<hex>` of some bytes.
pub fn of_bytes(bytes: impl AsRef<[u8]>) -> String {
    tagged(Sha256::digest(bytes).as_slice())
}

/// Whether a text is written as a digest is: `sha256:` and 64 hexadecimal digits in lower case.
pub fn is_digest(text: &str) -> bool {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let hex = text.strip_prefix("sha256:");
    hex.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(is_hex))
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

/// The SHA-1 of a regular file's content as git computes it for a blob, in hexadecimal digits: that of `blob`, the length in
/// bytes and a zero byte, and the content. It finds damage; against forgery it is worth nothing, because SHA-1 is broken.
pub fn git_blob_of_file(path: &Path) -> std::io::Result<String> {
    let file = files::Pieces::open(path)?;
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(format!("blob {}\0", file.len()).as_bytes());
    let mut reader = file.from_start();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex(context.finish().as_ref()));
        }
        context.update(&buffer[..read]);
    }
}

/// `sha256:<hex>` of a hash that was computed elsewhere.
pub fn of_hash(hash: &[u8; 32]) -> String {
    tagged(hash)
}

/// The hash that a digest names; `None` for what is no digest.
pub fn hash_of(text: &str) -> Option<[u8; 32]> {
    let hex = text.strip_prefix("sha256:").filter(|_| is_digest(text))?;
    let mut hash = [0; 32];
    for (byte, digits) in hash.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(hash)
}

fn tagged(hash: &[u8]) -> String {
    format!("sha256:{}", hex(hash))
}

fn hex(hash: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 * hash.len());
    for byte in hash {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_has_the_hash_that_git_gives_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        // What `git hash-object` prints.
        for (content, expected) in [
            ("", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
            ("{}", "9e26dfeeb6e641a33dae4961196235bdb965b21b"),
            ("hello\n", "ce013625030ba8dba906f756967f9e9ca394464a"),
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(git_blob_of_file(&path).unwrap(), expected, "{content:?}");
        }
    }
}
