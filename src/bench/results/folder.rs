//! The run folder: its files are read as streams, and each is written as a whole or not at all.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, BufWriter},
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

use super::{
    info::{FORMAT, RunInfo, RunStatus},
    json::{json_line, pretty_json},
    merkle::{TreeHasher, WrittenResults},
    record::ItemRecord,
};
use crate::{
    bench::plan::{ItemKey, PlanItem},
    digest,
};

const RESULTS: &str = "results.jsonl";

/// Why a run folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A new run never overwrites an old one.
    #[error("{0} already exists and is not empty: name another folder with --out")]
    NotEmpty(PathBuf),
    /// The run has not ended.
    #[error("the run in {0} is not complete: continue it with `babelward bench resume {0}`")]
    Incomplete(PathBuf),
    /// The results were changed after the run wrote them.
    #[error(
        "{0} is not what the run wrote: its digest differs from the one in run.json. Restore the file, or rebuild it from \
         the run's journal with `babelward bench resume`; edited results can be imported with `babelward bench import`"
    )]
    Altered(PathBuf),
    /// Reading or writing a file failed.
    #[error("cannot read or write {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// A file does not have the expected content.
    #[error("{path}, line {line}: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
}

/// The folder of a run, with `run.json`, `plan.jsonl`, `results.jsonl` and the files made from them.
#[derive(Debug, Clone)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Creates a new folder, or uses an existing empty one.
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

    /// Opens an existing folder; nothing is read yet.
    pub fn open(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of one of the folder's files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Removes the folder again if nothing was written into it.
    pub fn remove_if_empty(&self) {
        // The folder may have files in it or be gone already; either is fine.
        let _ = fs::remove_dir(&self.path);
    }

    /// Reads `run.json`, whether or not the run is complete.
    ///
    /// # Errors
    /// [`FolderError::Io`], [`FolderError::Invalid`].
    pub fn info(&self) -> Result<RunInfo, FolderError> {
        /// The field that every version of the format has.
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

    /// Reads `run.json` of a complete run, and checks the digest of its results.
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

    /// Reads the results one after another. They are sorted by id, language and seed, without repetitions.
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

    /// Reads `run.json` and all results at once.
    ///
    /// # Errors
    /// As [`RunFolder::complete_info`] and [`Records`].
    pub fn load(&self) -> Result<(RunInfo, Vec<ItemRecord>), FolderError> {
        let info = self.complete_info()?;
        Ok((info, self.records()?.collect::<Result<_, _>>()?))
    }

    /// Reads the prompts, in the order of the plan.
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

    /// Writes `results.jsonl` with one record in each line, in the order given. The bytes depend on the records only.
    ///
    /// # Errors
    /// [`FolderError::Io`], and the errors of the records' source, after which the old file is still there.
    pub fn write_records<E: From<FolderError>>(
        &self,
        records: impl IntoIterator<Item = Result<ItemRecord, E>>,
    ) -> Result<WrittenResults, E> {
        let mut failed = None;
        let mut hasher = digest::Hasher::default();
        let mut tree = TreeHasher::default();
        self.write_with(RESULTS, |file| {
            for record in records {
                match record {
                    Ok(record) => {
                        let mut line = json_line(&record);
                        tree.push(line.as_bytes());
                        line.push('\n');
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
        Ok(WrittenResults {
            digest: hasher.finish(),
            tree: tree.finish(),
        })
    }

    /// Writes `run.json`.
    ///
    /// # Errors
    /// [`FolderError::Io`].
    pub fn write_info(&self, info: &RunInfo) -> Result<(), FolderError> {
        self.write("run.json", &pretty_json(info))
    }

    /// Writes a file as a whole; if this fails, the old file is still there.
    ///
    /// # Errors
    /// [`FolderError::Io`].
    pub fn write(&self, name: &str, text: &str) -> Result<(), FolderError> {
        self.write_with(name, |file| file.write_all(text.as_bytes()))
    }

    /// As [`RunFolder::write`], for content that should not be in memory as a whole.
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
            // The rename must survive a power failure, too.
            fs::File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| {
            // If the partial file was never created, there is nothing to remove.
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

    pub(crate) fn invalid(&self, name: &str, line: usize, message: String) -> FolderError {
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
        let position = (record.key(), record.seed);
        if self.last.as_ref().is_some_and(|last| *last >= position) {
            let message = format!(
                "id {} in {} with seed {} does not come after the previous line: the records must be sorted",
                record.id,
                record.language.name(),
                record.seed
            );
            return Err(self.folder.invalid(RESULTS, self.line, message));
        }
        self.last = Some(position);
        Ok(Some(record))
    }
}

impl Iterator for Records {
    type Item = Result<ItemRecord, FolderError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}
