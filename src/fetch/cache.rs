//! The folder of fetched models: files appear in it whole and checked, or not at all.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

use super::{Artifact, FetchError, SourceError, Sources, progress::Reporter};
use crate::digest;

/// What is in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheState {
    /// Nothing.
    Missing,
    /// A file of another size or digest.
    Damaged,
    /// The pinned content.
    Valid,
}

/// The places of one artifact.
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

    /// Where the file is, once it is there.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Bytes that have arrived from the hub so far.
    pub(super) fn part(&self) -> PathBuf {
        self.folder.join(format!("{}.part", self.artifact.file))
    }

    /// A folder for pip's files, on the same file system.
    pub(super) fn staging(&self) -> PathBuf {
        self.folder.join(format!("{}.staging", self.artifact.file))
    }

    /// Reads the whole file (0.1 s for 100 MB), because a model that is not the pinned one must not be served
    /// as it.
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

    /// Creates the folder and keeps other processes out until the result is dropped. The system lets go of
    /// the lock when a process dies.
    pub(super) fn lock(&self, reporter: &Reporter) -> Result<File, FetchError> {
        fs::create_dir_all(&self.folder).map_err(|source| self.error(&self.folder, source))?;
        let path = self.folder.join(format!("{}.lock", self.artifact.file));
        lock(&path, reporter).map_err(|source| self.error(&path, source))
    }

    /// Removes what is in the target's place.
    pub(super) fn discard(&self) -> Result<(), FetchError> {
        fs::remove_file(&self.target).map_err(|source| self.error(&self.target, source))
    }

    /// Checks a fetched file and moves it into place. A file with the wrong digest is removed.
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

/// Keeps other processes out until the result is dropped.
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

/// Compares a file with its pinned digest; removes it when it differs.
pub(super) fn check(path: &Path, expected: &str) -> Result<(), SourceError> {
    let found = digest::of_file(path).map_err(|source| SourceError::Io {
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
