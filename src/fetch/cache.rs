//! The folder of fetched models. A file appears in it complete and checked, or not at all.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

use super::{
    artifact::Artifact,
    error::{FetchError, SourceError},
    progress::Reporter,
    sources::Sources,
};
use crate::digest;

/// The state of a file in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheState {
    /// There is no such file.
    Missing,
    /// The file has another size or digest.
    Damaged,
    /// The file has the pinned content.
    Valid,
}

/// The cache entry of one file.
pub(super) struct Cache<'a> {
    artifact: &'a Artifact,
    folder: PathBuf,
    target: PathBuf,
}

impl<'a> Cache<'a> {
    pub(super) fn new(artifact: &'a Artifact, sources: &Sources) -> Self {
        Self {
            artifact,
            folder: sources.cache.clone(),
            target: sources.cache.join(artifact.file),
        }
    }

    /// The path of the file.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// The path for the bytes that have arrived from the hub so far.
    pub(super) fn part(&self) -> PathBuf {
        self.folder.join(format!("{}.part", self.artifact.file))
    }

    /// The path of a folder for pip's files, on the same file system.
    pub(super) fn staging(&self) -> PathBuf {
        self.folder.join(format!("{}.staging", self.artifact.file))
    }

    /// The state of the file. Reads all of it (0.1 s for 100 MB), because a model with other content must not be served in its
    /// place.
    pub(super) fn state(&self) -> Result<CacheState, FetchError> {
        match fs::metadata(&self.target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(CacheState::Missing),
            Err(source) => return Err(self.error(&self.target, source)),
            Ok(found) if found.len() != self.artifact.bytes => return Ok(CacheState::Damaged),
            Ok(_) => {}
        }
        let found = digest::of_file(&self.target).map_err(|source| self.error(&self.target, source))?;
        Ok(if found == self.artifact.sha256 {
            CacheState::Valid
        } else {
            CacheState::Damaged
        })
    }

    /// Creates the folder and locks it for other processes until the result is dropped. The system releases the lock when a
    /// process ends.
    pub(super) fn lock(&self, reporter: &Reporter) -> Result<File, FetchError> {
        fs::create_dir_all(&self.folder).map_err(|source| self.error(&self.folder, source))?;
        let path = self.folder.join(format!("{}.lock", self.artifact.file));
        lock(&path, reporter).map_err(|source| self.error(&path, source))
    }

    /// Removes the file.
    pub(super) fn discard(&self) -> Result<(), FetchError> {
        fs::remove_file(&self.target).map_err(|source| self.error(&self.target, source))
    }

    /// Checks a fetched file and moves it to its path. A file with a wrong digest is removed.
    pub(super) fn install(&self, fetched: &Path) -> Result<(), SourceError> {
        let installed = check(fetched, self.artifact.sha256).and_then(|()| {
            fs::rename(fetched, &self.target).map_err(|source| SourceError::Io {
                path: self.target.clone(),
                source,
            })
        });
        let _ = fs::remove_dir_all(self.staging());
        installed
    }

    fn error(&self, path: &Path, reason: io::Error) -> FetchError {
        FetchError::Cache {
            path: path.to_owned(),
            reason,
        }
    }
}

/// Locks a file for other processes until the result is dropped.
pub(super) fn lock(path: &Path, reporter: &Reporter) -> io::Result<File> {
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    match lock.try_lock() {
        Ok(()) => return Ok(lock),
        Err(TryLockError::WouldBlock) => reporter.note("another process is fetching it; waiting"),
        Err(TryLockError::Error(source)) => return Err(source),
    }
    lock.lock()?;
    Ok(lock)
}

/// Compares a file with its pinned digest, and removes it if they differ.
pub(super) fn check(path: &Path, expected: &str) -> Result<(), SourceError> {
    compare(path, digest::of_file(path), expected)
}

/// Compares the digest that was found of a file with the expected one, and removes the file if they differ.
pub(super) fn compare(path: &Path, found: io::Result<String>, expected: &str) -> Result<(), SourceError> {
    let found = found.map_err(|source| SourceError::Io {
        path: path.to_owned(),
        source,
    })?;
    if found == expected {
        return Ok(());
    }
    let _ = fs::remove_file(path);
    Err(SourceError::WrongDigest {
        file: path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        found,
        expected: expected.to_owned(),
    })
}
