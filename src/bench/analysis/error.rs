//! Why runs cannot be analysed.

use std::{io, path::PathBuf};

use crate::bench::{
    json_file::JsonFileError, labelling::LabelError, report::ReportError, results::FolderError,
    scores::models::DeclaredFactsError, translation::import::ImportError,
};

/// Why runs cannot be analysed.
#[derive(Debug, thiserror::Error)]
pub enum AnalysisError {
    /// A run's folder cannot be read, or is not what the run wrote.
    #[error(transparent)]
    Run(FolderError),
    /// The labels in a run's folder cannot be used.
    #[error(transparent)]
    Labels(#[from] LabelError),
    /// Quality scores of translations cannot be used.
    #[error(transparent)]
    Scores(#[from] ImportError),
    /// The file with facts about models cannot be read.
    #[error(transparent)]
    ModelsFile(#[from] JsonFileError),
    /// The facts about models do not fit the runs.
    #[error("{path} does not fit the runs")]
    Models {
        /// The file that says the facts.
        path: PathBuf,
        /// What does not fit.
        source: DeclaredFactsError,
    },
    /// A filter names a guard that the run does not have.
    #[error("--what-if guard={guard}: the run has {guards} {}", if *.guards == 1 { "guard" } else { "guards" })]
    NoSuchGuard {
        /// Number of the guard that was asked for, from 1.
        guard: usize,
        /// How many guards the run has.
        guards: usize,
    },
    /// A file of a run's folder cannot be written.
    #[error(transparent)]
    WriteRun(FolderError),
    /// A file of a study cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// Which file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A page cannot be made.
    #[error(transparent)]
    Page(#[from] ReportError),
    /// Figures cannot be written as JSON.
    #[error("the figures cannot be written as JSON")]
    Figures(#[from] serde_json::Error),
}
