//! The run folder: its files, read as streams and written whole or not at all.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, BufWriter},
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

use super::{FORMAT, ItemRecord, RunInfo, RunStatus, json, pretty};
use crate::{
    bench::plan::{ItemKey, PlanItem},
    digest,
};

const RESULTS: &str = "results.jsonl";

/// Why a run folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A new run never overwrites an old one.
    #[error("{0} is there already and is not empty: name another folder with --out")]
    NotEmpty(PathBuf),
    /// The run has not ended.
    #[error("the run in {0} is not complete: go on with `babelward bench resume {0}`")]
    Incomplete(PathBuf),
    /// Somebody changed the results.
    #[error(
        "{0} is not what the run wrote: its digest is another than in run.json. Put the file back, or ask the run's \
         journal for it with `babelward bench resume`; results that were edited are imported with `babelward bench import`"
    )]
    Altered(PathBuf),
    /// Reading or writing failed.
    #[error("cannot read or write {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}, line {line}: {message}")]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

/// A folder with `run.json`, `plan.jsonl`, `results.jsonl` and what is made from them.
#[derive(Debug, Clone)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes a new folder, or takes an empty one.
    ///
    /// # Errors
    /// [`FolderError::NotEmpty`], [`FolderError::Io`].
    pub fn create(path: &Path) -> Result<Self, FolderError> {
        let io = |source| FolderError::Io {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(path).map_err(io)?;
        match fs::read_dir(path).map_err(io)?.next() {
            None => Ok(Self::open(path)),
            Some(_) => Err(FolderError::NotEmpty(path.to_owned())),
        }
    }

    /// An existing folder; nothing is read yet.
    pub fn open(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Removes the folder again if nothing was written into it.
    pub fn remove_if_empty(&self) {
        // Not empty, or gone already: both are fine.
        let _ = fs::remove_dir(&self.path);
    }

    /// `run.json`, complete or not.
    ///
    /// # Errors
    /// [`FolderError::Io`], [`FolderError::Invalid`].
    pub fn info(&self) -> Result<RunInfo, FolderError> {
        /// All formats have this field.
        #[derive(serde::Deserialize)]
        struct AnyFormat {
            format: String,
        }
        let text = self.read("run.json")?;
        let AnyFormat { format } = self.parse("run.json", 1, &text)?;
        if format != FORMAT {
            return Err(self.invalid(
                "run.json",
                1,
                format!("the format is `{format}`, this program reads `{FORMAT}`"),
            ));
        }
        self.parse("run.json", 1, &text)
    }

    /// `run.json` of a run whose results are there.
    ///
    /// # Errors
    /// As [`RunFolder::info`], and [`FolderError::Incomplete`], [`FolderError::Altered`].
    pub fn complete_info(&self) -> Result<RunInfo, FolderError> {
        let info = self.info()?;
        if info.status == RunStatus::Running {
            return Err(FolderError::Incomplete(self.path.clone()));
        }
        if let Some(written) = &info.results_digest {
            let path = self.file(RESULTS);
            match digest::of_file(&path) {
                Ok(digest) if digest == *written => {}
                Ok(_) => return Err(FolderError::Altered(path)),
                Err(source) => return Err(FolderError::Io { path, source }),
            }
        }
        Ok(info)
    }

    /// The results one after another: sorted by id, language and seed, each of these once.
    ///
    /// # Errors
    /// [`FolderError::Io`].
    pub fn records(&self) -> Result<Records, FolderError> {
        let path = self.file(RESULTS);
        let file = fs::File::open(&path).map_err(|source| FolderError::Io {
            path: path.clone(),
            source,
        })?;
        Ok(Records {
            folder: self.clone(),
            file: BufReader::with_capacity(1 << 18, file),
            line: 0,
            text: String::new(),
            last: None,
        })
    }

    /// `run.json` and all results at once.
    ///
    /// # Errors
    /// As [`RunFolder::complete_info`] and [`Records`].
    pub fn load(&self) -> Result<(RunInfo, Vec<ItemRecord>), FolderError> {
        let info = self.complete_info()?;
        Ok((info, self.records()?.collect::<Result<_, _>>()?))
    }

    /// The prompts, in the order of the plan.
    ///
    /// # Errors
    /// [`FolderError::Io`], [`FolderError::Invalid`].
    pub fn plan(&self) -> Result<Vec<PlanItem>, FolderError> {
        let text = self.read("plan.jsonl")?;
        let lines = text.lines().enumerate();
        lines
            .map(|(index, line)| self.parse("plan.jsonl", index + 1, line))
            .collect()
    }

    /// Writes `results.jsonl`: one line each, in the order given, and tells its `sha256:<hex>`. The bytes depend on the
    /// records only.
    ///
    /// # Errors
    /// [`FolderError::Io`], and whatever the records' source fails with; then the old file stays.
    pub fn write_records<E: From<FolderError>>(
        &self,
        records: impl IntoIterator<Item = Result<ItemRecord, E>>,
    ) -> Result<String, E> {
        let mut failed = None;
        let mut hasher = digest::Hasher::default();
        self.write_with(RESULTS, |file| {
            for record in records {
                match record {
                    Ok(record) => {
                        let line = json(&record) + "\n";
                        hasher.update(line.as_bytes());
                        file.write_all(line.as_bytes())?;
                    }
                    Err(error) => {
                        failed = Some(error);
                        return Err(io::Error::other("the results are not complete"));
                    }
                }
            }
            Ok(())
        })
        .map_err(|error| failed.take().unwrap_or_else(|| error.into()))?;
        Ok(hasher.finish())
    }

    /// Writes `run.json`.
    ///
    /// # Errors
    /// [`FolderError::Io`].
    pub fn write_info(&self, info: &RunInfo) -> Result<(), FolderError> {
        self.write("run.json", &pretty(info))
    }

    /// Writes a whole file or leaves the old one.
    ///
    /// # Errors
    /// [`FolderError::Io`].
    pub fn write(&self, name: &str, text: &str) -> Result<(), FolderError> {
        self.write_with(name, |file| file.write_all(text.as_bytes()))
    }

    /// As [`RunFolder::write`], for what should not be in memory as a whole.
    ///
    /// # Errors
    /// [`FolderError::Io`].
    pub fn write_with(
        &self,
        name: &str,
        content: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> Result<(), FolderError> {
        let path = self.file(name);
        let partial = self.file(&format!("{name}.partial"));
        let write = || {
            let mut file = BufWriter::with_capacity(1 << 18, fs::File::create(&partial)?);
            content(&mut file)?;
            file.into_inner()
                .map_err(io::IntoInnerError::into_error)?
                .sync_all()?;
            fs::rename(&partial, &path)?;
            // The new name, too, is to be there after a power cut.
            fs::File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| {
            // Gone already, if it was not even made.
            let _ = fs::remove_file(&partial);
            FolderError::Io {
                path: path.clone(),
                source,
            }
        })
    }

    pub(super) fn read(&self, name: &str) -> Result<String, FolderError> {
        let path = self.file(name);
        fs::read_to_string(&path).map_err(|source| FolderError::Io { path, source })
    }

    pub(super) fn parse<T: DeserializeOwned>(
        &self,
        name: &str,
        line: usize,
        text: &str,
    ) -> Result<T, FolderError> {
        serde_json::from_str(text)
            .map_err(|error| self.invalid(name, line + error.line().saturating_sub(1), error.to_string()))
    }

    pub(in crate::bench) fn invalid(&self, name: &str, line: usize, message: String) -> FolderError {
        FolderError::Invalid {
            path: self.file(name),
            line,
            message,
        }
    }
}

/// The records of a run, read one at a time.
#[derive(Debug)]
pub struct Records {
    folder: RunFolder,
    file: BufReader<fs::File>,
    line: usize,
    text: String,
    last: Option<(ItemKey, u64)>,
}

impl Records {
    fn read(&mut self) -> Result<Option<ItemRecord>, FolderError> {
        self.text.clear();
        self.line += 1;
        let read = self.file.read_line(&mut self.text);
        let read = read.map_err(|error| self.folder.invalid(RESULTS, self.line, error.to_string()))?;
        if read == 0 {
            return Ok(None);
        }
        let record: ItemRecord = self.folder.parse(RESULTS, self.line, &self.text)?;
        let place = (record.key(), record.seed);
        if self.last.as_ref().is_some_and(|last| *last >= place) {
            let message = format!(
                "id {} in {} with seed {} is not after the line before",
                record.id,
                record.language.name(),
                record.seed
            );
            return Err(self.folder.invalid(RESULTS, self.line, message));
        }
        self.last = Some(place);
        Ok(Some(record))
    }
}

impl Iterator for Records {
    type Item = Result<ItemRecord, FolderError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}
