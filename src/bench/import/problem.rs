//! What can be wrong with a file of verdicts.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::bench::{
    problem::{self, Kind, Severity, counted, list},
    table::TableError,
};

/// The kinds of problems of a file of verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictProblemKind {
    /// The row cannot be read.
    Unreadable,
    /// Bytes that are no UTF-8.
    NotUtf8,
    /// A column is missing or of the wrong type.
    Schema,
    /// A category that is none of ALERT's.
    UnknownCategory,
    /// A language that is none of the five.
    UnknownLanguage,
    /// A label that is none of the three.
    UnknownLabel,
    /// An unsafe score outside of 0 to 1.
    Score,
    /// The same answer has a verdict of the same guard already.
    Duplicate,
    /// Rows that speak of the same prompt or answer differ in what they say of it.
    Conflict,
    /// The file has no rows.
    NoRows,
    /// Other languages have this id with this seed, this one has not.
    Missing,
}

impl Kind for VerdictProblemKind {
    const UNREADABLE: Self = Self::Unreadable;
    const NOT_UTF8: Self = Self::NotUtf8;

    fn severity(self) -> Severity {
        match self {
            Self::Unreadable
            | Self::NotUtf8
            | Self::Schema
            | Self::UnknownCategory
            | Self::UnknownLanguage
            | Self::UnknownLabel
            | Self::Score
            | Self::Duplicate
            | Self::Conflict
            | Self::NoRows => Severity::Error,
            Self::Missing => Severity::Warning,
        }
    }

    fn fix(self) -> &'static str {
        match self {
            Self::Unreadable => "correct the row or remove it",
            Self::NotUtf8 => "save the file as UTF-8",
            Self::Schema => {
                "give every row id, language, category and label; model, guard and seed to all rows or to none"
            }
            Self::UnknownCategory => "spell the key as in ALERT, or write `unknown`",
            Self::UnknownLanguage => "use en, de, es, fr or it, or remove the row",
            Self::UnknownLabel => "write safe, unsafe or undetermined",
            Self::Score => "give p(unsafe) in 0 to 1, or leave it out",
            Self::Duplicate => "remove one of them, or tell them apart with the columns model, guard or seed",
            Self::Conflict => {
                "let all rows of a prompt, and all of an answer, say the same of it; of several translators make a run for each with --translators"
            }
            Self::NoRows => "name a file with verdicts",
            Self::Missing => {
                "add the verdict, as undetermined where there was none, or leave it out knowingly"
            }
        }
    }
}

/// One thing that is wrong with a file of verdicts.
pub type VerdictProblem = problem::Problem<VerdictProblemKind>;

/// Why verdicts cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Some rows are wrong; all of them are listed.
    #[error("{file} has {}:{}\n{}", counted(.problems.len()), list(.problems, "--format json lists all"), fixes(.problems))]
    Invalid {
        /// The file.
        file: String,
        /// In the order of the file, never empty.
        problems: Vec<VerdictProblem>,
    },
    /// `--model` names none of the file's.
    #[error("{file} has no verdicts of the model `{model}`; it has {known}")]
    NoSuchModel {
        /// The file.
        file: String,
        /// As asked.
        model: String,
        /// Those that it has.
        known: String,
    },
    /// `--translators` names one alone, one twice, or one that the file has not.
    #[error("--translators takes two or more of those that the file has: {}", if .known.is_empty() { "none" } else { .known })]
    Translators {
        /// Those that it has.
        known: String,
    },
}

/// What to do about each kind that occurs.
fn fixes(problems: &[VerdictProblem]) -> String {
    let kinds: BTreeSet<_> = problems.iter().map(|problem| problem.kind).collect();
    let lines = kinds.into_iter().map(|kind| format!("fix: {}", kind.fix()));
    lines.collect::<Vec<_>>().join("\n")
}
