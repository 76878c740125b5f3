//! Why answers cannot be drawn or labelled, or labels cannot be used.

use std::{io, net::SocketAddr, path::PathBuf};

use crate::{
    bench::{json_file::JsonFileError, results::FolderError},
    calibrator::FitError,
};

/// Why answers cannot be drawn or labelled, or labels cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    /// The run's folder cannot be read, or is not what the run wrote.
    #[error(transparent)]
    Run(FolderError),
    /// No answer of the run has a verdict that a label could be compared with.
    #[error("the run has no answer that was judged safe or unsafe")]
    NothingToDraw,
    /// The folder for the sample is not empty, or cannot be made.
    #[error(transparent)]
    Out(FolderError),
    /// The sample's folder does not hold a sample.
    #[error("cannot read {path}; a sample is made by `babelward validate sample`")]
    NoSample {
        /// The file that is missing.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A line of the sample is not what was written.
    #[error("{path}, line {line} is no answer of a sample")]
    SampleLine {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// There is nothing to label.
    #[error("the sample is empty")]
    EmptySample,
    /// `key.json` or `labels.json` cannot be used.
    #[error(transparent)]
    File(#[from] JsonFileError),
    /// A sheet, a person's CSV file, cannot be used.
    #[error("{path}: {problem}")]
    Sheet {
        /// Which sheet.
        path: PathBuf,
        /// What is wrong with it.
        problem: SheetProblem,
    },
    /// A sheet labels an answer that was not drawn.
    #[error("{sheet}: {item} is not in the sample of {key}")]
    NotSampled {
        /// Name of the answer.
        item: String,
        /// The sheet that labels it.
        sheet: PathBuf,
        /// The sample's `key.json`.
        key: PathBuf,
    },
    /// All sheets are without labels.
    #[error("nobody has labelled anything yet")]
    NobodyLabelled,
    /// The sample names an answer that is not the run's.
    #[error("the run has no item {0}")]
    NoSuchItem(String),
    /// The stored labels contradict themselves.
    #[error("labels.json: {item} has no stratum {stratum}")]
    NoSuchStratum {
        /// Name of the answer.
        item: String,
        /// The stratum that it is said to be in.
        stratum: usize,
    },
    /// The run's folder has no labels.
    #[error("{0} has no labels.json: `babelward validate score` puts the labels of people there")]
    NotLabelled(PathBuf),
    /// The run does not say exactly which guard judged, so that no calibrator can be held against one.
    #[error(
        "the run does not name one guard by the digests of its weights, tokenizer and template, so that a calibrator could not \
         be refused for another one: judge the answers with `babelward bench rescore`"
    )]
    UnknownGuard,
    /// No calibrator can be fitted to the labels.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// A file cannot be read or written.
    #[error("cannot read or write {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The labels cannot be written into the run's folder.
    #[error(transparent)]
    WriteRun(FolderError),
    /// A file's content cannot be written as JSON.
    #[error("the sample cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// The page has no port.
    #[error("cannot listen on {address}; choose another --port")]
    Listen {
        /// Where the page was to be.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The page's server failed.
    #[error("the page's server failed")]
    Serve(#[source] io::Error),
}

/// What is wrong with a sheet.
#[derive(Debug, thiserror::Error)]
pub enum SheetProblem {
    /// It is no CSV file.
    #[error("{0}")]
    Csv(csv::Error),
    /// A column is missing.
    #[error("there is no column `{0}`")]
    NoColumn(&'static str),
    /// A label is none of those that there are.
    #[error("line {line}: label `{label}` is none of safe, unsafe and unsure")]
    UnknownLabel {
        /// From 1; the header is a line, too.
        line: u64,
        /// As it is written.
        label: String,
    },
}
