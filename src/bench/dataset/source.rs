//! Which files make a prompt set, and how they are read.

use std::path::{Path, PathBuf};

use super::wrapper::Wrapper;
use crate::bench::taxonomy::Language;

/// The files of a prompt set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// What the set is called.
    pub name: String,
    /// The files in order; together they are one set.
    pub files: Vec<PathBuf>,
}

impl Source {
    /// A set of a single file, which is called like the file.
    pub fn file(path: &Path) -> Self {
        Self {
            name: file_name(path),
            files: vec![path.to_owned()],
        }
    }
}

/// A path's last part, for people.
pub(super) fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// How a set is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// What to do with ALERT's instruction wrapper.
    pub wrapper: Wrapper,
    /// The language of rows that name none: ALERT's own files are English and have no column for it.
    pub language: Option<Language>,
}
