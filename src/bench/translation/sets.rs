//! The same prompts by several translators, from a folder that `translate` made.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::{ScoreTable, TranslatorChoice, import};
use crate::bench::{
    dataset::{Dataset, DatasetError, PromptId, ReadOptions, Source},
    results::{FolderError, RunFolder},
};

/// Name of the file with scores of the translations, beside the runs over them.
pub const RUN_SCORES: &str = "quality.jsonl";

/// One translator's prompts.
pub struct TranslatorSet {
    /// The translator's name.
    pub translator: String,
    /// The prompts.
    pub dataset: Dataset,
}

/// The prompts of several translators: of each the same prompts, since nothing else can be compared.
pub struct TranslatorSets {
    /// Two or more.
    pub sets: Vec<TranslatorSet>,
    /// How many prompts some translator has.
    pub all_prompts: usize,
    /// How many of these are left out because a translator lacks them.
    pub left_out: usize,
    folder: PathBuf,
}

/// Why the sets of several translators cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TranslatorSetsError {
    /// The folder was not made by `translate`.
    #[error("--translators needs a folder that `babelward translate` made; {0} is none")]
    NoFolder(PathBuf),
    /// A translator is named twice.
    #[error("--translators: {0} is given twice")]
    Twice(String),
    /// The folder has no prompts of a translator.
    #[error("--translators: {folder} has no translator {name}; it has {known}")]
    Unknown {
        /// The folder of translated prompts.
        folder: PathBuf,
        /// The translator that was named.
        name: String,
        /// Those that it has.
        known: String,
    },
    /// There is nothing to compare.
    #[error("--translators: name two or more; to run the prompts of one, give its file to --data")]
    TooFew,
    /// A set cannot be read.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The sets share no prompt.
    #[error("the translators have no prompt in common")]
    NothingInCommon,
    /// The folder cannot be read.
    #[error("cannot read {path}")]
    Io {
        /// Which folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The scores of the translations cannot be read.
    #[error(transparent)]
    Scores(#[from] import::ImportError),
    /// The scores cannot be written beside the runs.
    #[error(transparent)]
    Write(#[from] FolderError),
    /// The scores cannot be written as JSON.
    #[error("the scores cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

impl TranslatorSets {
    /// Reads the sets of the chosen translators, and drops the prompts that one of them lacks.
    ///
    /// # Errors
    /// [`TranslatorSetsError`].
    pub fn read(
        folder: &Path,
        choice: &TranslatorChoice,
        options: ReadOptions,
    ) -> Result<Self, TranslatorSetsError> {
        let sets_folder = folder.join("translators");
        if !sets_folder.is_dir() {
            return Err(TranslatorSetsError::NoFolder(folder.to_owned()));
        }
        let known = names_in(&sets_folder).map_err(|source| TranslatorSetsError::Io {
            path: sets_folder.clone(),
            source,
        })?;
        let names = choice.of(&known);
        for (index, name) in names.iter().enumerate() {
            if names[..index].contains(name) {
                return Err(TranslatorSetsError::Twice(name.clone()));
            }
            if !known.contains(name) {
                return Err(TranslatorSetsError::Unknown {
                    folder: folder.to_owned(),
                    name: name.clone(),
                    known: known.join(", "),
                });
            }
        }
        if names.len() < 2 {
            return Err(TranslatorSetsError::TooFew);
        }
        let mut sets = Vec::new();
        for translator in names {
            let path = sets_folder.join(format!("{translator}.jsonl"));
            let dataset = Dataset::open(&Source::file(&path), options)?;
            sets.push(TranslatorSet { translator, dataset });
        }
        Self::with_common_prompts(folder, sets)
    }

    fn with_common_prompts(folder: &Path, mut sets: Vec<TranslatorSet>) -> Result<Self, TranslatorSetsError> {
        let ids = |set: &TranslatorSet| -> BTreeSet<PromptId> {
            set.dataset.rows.iter().map(|row| row.id.clone()).collect()
        };
        let all: BTreeSet<PromptId> = sets.iter().flat_map(ids).collect();
        let mut common = all.clone();
        for set in &sets {
            let own = ids(set);
            common.retain(|id| own.contains(id));
        }
        if common.is_empty() {
            return Err(TranslatorSetsError::NothingInCommon);
        }
        for set in &mut sets {
            set.dataset.rows.retain(|row| common.contains(&row.id));
        }
        Ok(Self {
            sets,
            all_prompts: all.len(),
            left_out: all.len() - common.len(),
            folder: folder.to_owned(),
        })
    }

    /// Writes the scores of the translations beside the runs, if the folder has any, so that a report of the runs finds them.
    ///
    /// # Errors
    /// [`TranslatorSetsError`].
    pub fn keep_scores(&self, out: &RunFolder) -> Result<(), TranslatorSetsError> {
        let path = self.folder.join("candidates.jsonl");
        let mut table = ScoreTable::new();
        if path.exists() {
            import::scores(&path, &mut table)?;
        }
        let rows = self.sets.iter().flat_map(|set| &set.dataset.rows);
        let ids: BTreeSet<&PromptId> = rows.map(|row| &row.id).collect();
        table.retain(|key, _| ids.contains(&key.id));
        if !table.is_empty() {
            out.write(RUN_SCORES, &import::write_scores(&table)?)?;
        }
        Ok(())
    }
}

/// Names of the translators whose sets are in a folder, sorted.
fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(".jsonl"));
        names.extend(name.map(str::to_owned));
    }
    names.sort();
    Ok(names)
}
