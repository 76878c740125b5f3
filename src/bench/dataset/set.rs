//! A prompt set without errors.

use std::path::Path;

use super::{
    assemble::Assembled,
    files::Files,
    problem::DatasetError,
    prompt::Row,
    source::{ReadOptions, Source},
    wrapper::WrapperUse,
};
use crate::bench::taxonomy::Language;

/// A prompt set whose rows are parallel over its languages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Name of the file, or of the set on its hub.
    pub name: String,
    /// `sha256:<hex>` of the file; of several files, that of their digests, one per line.
    pub digest: String,
    /// How many prompts have ALERT's instruction wrapper, and what was done with it.
    pub wrapper: WrapperUse,
    /// Languages that every row has, in the order of tables.
    pub languages: Vec<Language>,
    /// The prompts, in the order of the file.
    pub rows: Vec<Row>,
}

impl Dataset {
    /// Reads a file.
    ///
    /// # Errors
    /// [`DatasetError`].
    pub fn read(path: &Path) -> Result<Self, DatasetError> {
        Self::open(&Source::file(path), ReadOptions::default())
    }

    /// Reads all files of a set.
    ///
    /// # Errors
    /// [`DatasetError`].
    pub fn open(source: &Source, options: ReadOptions) -> Result<Self, DatasetError> {
        Self::whole(Files::read(source, options)?)
    }

    /// Reads JSON lines.
    ///
    /// # Errors
    /// [`DatasetError::Invalid`] with every problem.
    pub fn parse(name: &str, text: &str) -> Result<Self, DatasetError> {
        Self::whole(Files::parse(name, text, ReadOptions::default()))
    }

    fn whole(files: Files) -> Result<Self, DatasetError> {
        let Assembled {
            found,
            languages,
            problems,
            wrapper,
        } = files.assembled;
        if !problems.is_empty() {
            return Err(DatasetError::Invalid {
                name: files.name,
                problems,
            });
        }
        Ok(Self {
            name: files.name,
            digest: files.digest,
            wrapper,
            languages,
            rows: found.into_iter().map(|found| found.row).collect(),
        })
    }
}
