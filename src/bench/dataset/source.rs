//! Which files make a prompt set, and how they are read.

use std::path::{Path, PathBuf};

use super::wrapper::Wrapper;
use crate::bench::taxonomy::Language;

/// Where a set is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// What to call it.
    pub name: String,
    /// Its files, in order; together they are one set.
    pub files: Vec<PathBuf>,
}

impl Source {
    /// A single file, called by its name.
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

/// How to read a set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// What to do with ALERT's instruction wrapper.
    pub wrapper: Wrapper,
    /// The language of rows that do not say it: ALERT's own files are English and have no column for it.
    pub language: Option<Language>,
}
