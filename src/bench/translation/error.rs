//! Why prompts cannot be translated.

use std::{io, path::PathBuf};

use super::{Metric, import::ImportError, served::TemplateError, translator::NameError};
use crate::{bench::dataset::PromptId, client::ClientError};

/// Why prompts cannot be translated.
#[derive(Debug, thiserror::Error)]
pub enum TranslateError {
    /// The prompt set does not have the language to translate from.
    #[error("the set has no prompts in {from}; it has {known}")]
    NoSourceLanguage {
        /// Name of the language.
        from: &'static str,
        /// Codes of the languages that it has.
        known: String,
    },
    /// A file of candidates or scores cannot be used.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A file of candidates names a translator by what cannot be a name.
    #[error("{path}: {reason}")]
    BadName {
        /// Which file.
        path: PathBuf,
        /// What a name may be.
        reason: NameError,
    },
    /// Two rows translate the same prompt by the same translator into the same language.
    #[error("{path}: {translator} has translated {id} before")]
    TranslatedTwice {
        /// The file with the second row.
        path: PathBuf,
        /// Name of the translator in both rows.
        translator: String,
        /// The prompt.
        id: PromptId,
    },
    /// Two served translators have the same name.
    #[error("--with: the translator `{0}` is there twice")]
    ServedTwice(String),
    /// A served translator has the name of one whose candidates come from a file.
    #[error("the translator `{0}` is a served one and a file's")]
    ServedAndImported(String),
    /// The template for prompts cannot be filled in.
    #[error("--prompt: {0}")]
    Prompt(TemplateError),
    /// The server does not give a model that is to translate.
    #[error("model `{name}`")]
    Model {
        /// Id of the model.
        name: String,
        /// What the server says.
        source: Box<ClientError>,
    },
    /// The server does not give a model that is to score.
    #[error("--quality {name}")]
    Estimator {
        /// Id of the model.
        name: String,
        /// What the server says.
        source: Box<ClientError>,
    },
    /// A model that is to score cannot.
    #[error("--quality {0}: that model is no quality estimator")]
    NotAnEstimator(String),
    /// Candidates would have two scores of the same metric.
    #[error(
        "--quality {name}: candidates have {} scores already, of --scores or of another --quality; scores of two origins \
         cannot be compared", .metric.title()
    )]
    ScoredTwice {
        /// Id of the estimator.
        name: String,
        /// What the scores measure.
        metric: Metric,
    },
    /// A file or the folder cannot be read or written.
    #[error("cannot read or write {path}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The summary cannot be written as JSON.
    #[error("the summary cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}
