//! Cuts an input into parts, and puts them into files.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// What separates the parts of an input. It is a line of text, so that an input of texts can be read and written by people.
const SEPARATOR: &[u8] = b"\n====\n";

/// The parts of an input. There is at least one.
pub(crate) fn parts(input: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = input;
    while let Some(at) = rest
        .windows(SEPARATOR.len())
        .position(|window| window == SEPARATOR)
    {
        parts.push(&rest[..at]);
        rest = &rest[at + SEPARATOR.len()..];
    }
    parts.push(rest);
    parts
}

/// The part with this number; empty where there are fewer.
pub(crate) fn part<'a>(parts: &[&'a [u8]], number: usize) -> &'a [u8] {
    parts.get(number).copied().unwrap_or_default()
}

/// A part as text. What is not UTF-8 is replaced.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder that is removed afterwards, in memory where the system has a place for that.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let made = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        Self(made.expect("a folder can be made"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file and returns its path.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, content).expect("a file can be written");
        path
    }
}

/// A path of the repository, whether this is compiled in the repository's package or in that of `fuzz`.
pub(crate) fn repository(path: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let top = match env!("CARGO_PKG_NAME") {
        "babelward-fuzz" => here.parent().expect("fuzz lies in the repository"),
        _ => here,
    };
    top.join(path)
}
