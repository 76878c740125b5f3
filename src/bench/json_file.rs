//! Reads JSON files that a person wrote or kept: what is wrong with one names the file.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

use crate::files;

/// Why a JSON file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JsonFileError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is no JSON, or lacks something.
    #[error("{path} does not hold what it should")]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
}

/// Reads a whole file.
///
/// # Errors
/// [`JsonFileError`].
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, JsonFileError> {
    parsed(path, fs::read_to_string(path))
}

/// Reads a whole file that comes from somebody else, of at most so many bytes.
///
/// # Errors
/// [`JsonFileError`].
pub fn read_json_within<T: DeserializeOwned>(path: &Path, limit: u64) -> Result<T, JsonFileError> {
    parsed(path, files::read_text(path, limit))
}

fn parsed<T: DeserializeOwned>(path: &Path, text: io::Result<String>) -> Result<T, JsonFileError> {
    let text = text.map_err(|source| JsonFileError::Io {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|source| JsonFileError::Invalid {
        path: path.to_owned(),
        source,
    })
}
