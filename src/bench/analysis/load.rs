//! Complete runs as tables of verdicts.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::bench::{
    results::{FolderError, ItemRecord, RunFolder, RunInfo},
    scores::{
        comparable::{PromptFingerprints, RunFacts},
        result_table::ResultTable,
    },
};

/// A complete run without its texts.
pub struct LoadedRun {
    /// Where it is.
    pub folder: RunFolder,
    /// Its `run.json`.
    pub info: RunInfo,
    /// Its verdicts.
    pub table: ResultTable,
}

impl LoadedRun {
    /// Reads a run's folder.
    ///
    /// # Errors
    /// [`FolderError`]; [`FolderError::Incomplete`] for a run without results.
    pub fn read(dir: &Path) -> Result<Self, FolderError> {
        Self::read_with(dir, |_| {})
    }

    /// Reads a run's folder, and shows each of its records to `see`.
    fn read_with(dir: &Path, mut see: impl FnMut(&ItemRecord)) -> Result<Self, FolderError> {
        let folder = RunFolder::open(dir);
        let info = folder.complete_info()?;
        let records = folder.records()?.inspect(|record| {
            if let Ok(record) = record {
                see(record);
            }
        });
        let table = ResultTable::collect(info.settings.counting(), records)?;
        Ok(Self { folder, info, table })
    }
}

/// A complete run, with what decides whether it can be compared with others.
pub struct ComparableRun {
    /// Its folder, its `run.json` and its verdicts.
    pub run: LoadedRun,
    /// What else than the target may change its verdicts.
    pub facts: RunFacts,
}

impl ComparableRun {
    /// Reads a run's folder.
    ///
    /// # Errors
    /// [`FolderError`]; [`FolderError::Incomplete`] for a run without results.
    pub fn read(dir: &Path) -> Result<Self, FolderError> {
        let mut prompts = PromptFingerprints::default();
        let run = LoadedRun::read_with(dir, |record| prompts.add(record))?;
        let facts = RunFacts::of(&run.info, &run.table, prompts);
        Ok(Self { run, facts })
    }
}

/// The runs in a folder, sorted: the folder itself where it is a run, and otherwise those below it. A folder without runs is
/// given back, so that reading it reports what is missing.
pub fn runs_in(dir: &Path) -> Vec<PathBuf> {
    let is_run = |path: &Path| path.join("run.json").exists();
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut runs: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| is_run(path))
        .collect();
    runs.sort();
    match is_run(dir) || runs.is_empty() {
        true => vec![dir.to_owned()],
        false => runs,
    }
}
