//! Compiled kernels on disk, so that a start does not wait for the compiler each time.
//!
//! A file's name is the digest of all that its code follows from. It begins with the digest of the code, by which a damaged
//! file is known, and replaced.

use std::{fs, io::Write as _, path::PathBuf};

use sha2::{Digest as _, Sha256};

use super::{
    super::{Architecture, DriverError},
    compile,
};
use crate::backend::cuda::kernels::{HEADER, KernelFile};

/// Bytes of a SHA-256.
const DIGEST_BYTES: usize = 32;

/// The machine code of a source, from the cache or compiled now.
///
/// # Errors
/// When it has to be compiled and the compiler fails.
pub(super) fn machine_code(file: KernelFile, architecture: Architecture) -> Result<Vec<u8>, DriverError> {
    let path = folder().map(|folder| folder.join(name(file, architecture, compile::version())));
    cached(path, || compile::compile(file, architecture))
}

/// What is in the file at `path`, or what `compile` makes, which is then written there.
fn cached(
    path: Option<PathBuf>,
    compile: impl FnOnce() -> Result<Vec<u8>, DriverError>,
) -> Result<Vec<u8>, DriverError> {
    let Some(path) = path else {
        return compile();
    };
    if let Ok(bytes) = fs::read(&path) {
        if let Some(code) = checked(bytes) {
            return Ok(code);
        }
        tracing::warn!(file = %path.display(), "a compiled kernel on disk is damaged; it is compiled again");
    }
    let code = compile()?;
    if let Err(error) = write(&path, &code) {
        tracing::warn!(file = %path.display(), %error, "a compiled kernel could not be kept on disk; the next start compiles it again");
    }
    Ok(code)
}

/// The code in a file's bytes, if it is what was written.
fn checked(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let digest = bytes.get(..DIGEST_BYTES)?;
    if digest != &Sha256::digest(&bytes[DIGEST_BYTES..])[..] {
        return None;
    }
    bytes.drain(..DIGEST_BYTES);
    Some(bytes)
}

/// Writes a file whole or not at all: another process may read it at the same time.
fn write(path: &std::path::Path, code: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    let part = folder.join(format!(
        "{}.{}.part",
        path.file_name().unwrap_or_default().to_string_lossy(),
        std::process::id()
    ));
    let mut file = fs::File::create(&part)?;
    file.write_all(&Sha256::digest(code))?;
    file.write_all(code)?;
    file.sync_all()?;
    fs::rename(part, path)
}

fn name(file: KernelFile, architecture: Architecture, compiler: (i32, i32)) -> String {
    use std::fmt::Write as _;
    let mut hasher = Sha256::new();
    for part in [HEADER.1, file.source(), &file.options().join(" ")] {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.update(format!("{architecture} {}.{}", compiler.0, compiler.1));
    let mut name = String::new();
    for byte in hasher.finalize() {
        let _ = write!(name, "{byte:02x}");
    }
    name + ".cubin"
}

fn folder() -> Option<PathBuf> {
    Some(dirs::cache_dir()?.join("babelward").join("kernels"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_compiled_once_and_again_when_its_file_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernels").join("a.cubin");
        let mut compiled = 0;
        let mut get = || {
            cached(Some(path.clone()), || {
                compiled += 1;
                Ok(vec![1, 2, 3])
            })
            .unwrap()
        };
        assert_eq!((get(), get()), (vec![1, 2, 3], vec![1, 2, 3]));
        let whole = fs::read(&path).unwrap();
        for damaged in [&whole[..whole.len() - 1], &whole[..5], &[]] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(get(), [1, 2, 3]);
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
        assert_eq!(compiled, 4);
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_done_without() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let code = cached(Some(file.path().join("below-a-file")), || Ok(vec![7]));
        assert_eq!(code.unwrap(), [7]);
    }

    #[test]
    fn names_differ_where_the_code_may() {
        let card = |major, minor| Architecture { major, minor };
        let attention = |head| KernelFile::Attention { head };
        let names = [
            name(attention(64), card(9, 0), (13, 0)),
            name(attention(128), card(9, 0), (13, 0)),
            name(KernelFile::Rows, card(9, 0), (13, 0)),
            name(KernelFile::Rows, card(8, 0), (13, 0)),
            name(KernelFile::Rows, card(8, 0), (13, 1)),
        ];
        let distinct: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
    }
}
