//! From prompts in one language to a prompt set in several, as M-ALERT was made: candidates of several translators,
//! their quality scores, the best candidate of each prompt if it is good enough, and a record of every choice.
//!
//! `translate` goes through these steps. `served` and `import` give candidates; `import` and `estimate` give scores; `journal`
//! keeps what models answered. `flags` looks at each candidate, `select` chooses, `folder` writes, `summary` counts. `sets`
//! reads the prompts of several translators again, to run them beside each other.

mod candidate;
pub mod chrf;
mod error;
mod estimate;
pub mod estimated;
mod failures;
pub mod flags;
pub mod folder;
pub mod import;
mod imported;
pub mod journal;
mod progress;
pub mod select;
pub mod served;
pub mod sets;
pub mod summary;
mod translate;
mod translator;

pub use self::{
    candidate::{BackTranslation, Candidate, CandidateKey, Metric, ScoreTable, Scores},
    error::TranslateError,
    failures::Failures,
    imported::Imported,
    progress::{IgnoredRows, TranslationProgress},
    translate::{Gathered, TranslateOptions, Translated, Translation},
    translator::{
        CandidateFile, NameError, ServedTranslator, TranslatorChoice, TranslatorError, TranslatorName,
    },
};
