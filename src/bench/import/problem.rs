//! What can be wrong with a file of verdicts.

use std::{collections::BTreeSet, fmt};

use serde::Serialize;

use crate::bench::{
    dataset::PromptId,
    problem::{self, Kind, Severity, list, problem_count},
    table::TableError,
    taxonomy::Language,
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
}

impl Kind for VerdictProblemKind {
    const UNREADABLE: Self = Self::Unreadable;
    const NOT_UTF8: Self = Self::NotUtf8;

    fn severity(self) -> Severity {
        Severity::Error
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
        }
    }
}

/// One thing that is wrong with a file of verdicts.
pub type VerdictProblem = problem::Problem<VerdictProblemKind>;

/// Missing answers that a line of text names.
const EXAMPLES: usize = 3;

/// Verdicts that one language of a model lacks and others have. They are in no figure, since nobody can tell why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingVerdicts {
    /// The model; empty where the file names none.
    pub model: String,
    /// Whose prompts were taken from the file, where only one translator's were.
    pub translator: Option<String>,
    /// The language that lacks them.
    pub language: Language,
    /// Answers that some language of the model has.
    pub of: usize,
    /// Those that this one lacks, by id and seed.
    pub answers: Vec<MissingAnswer>,
}

/// An answer without a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingAnswer {
    /// To which prompt.
    pub id: PromptId,
    /// With which seed.
    pub seed: u64,
}

/// `org/one, prompts by opus: Italian lacks 4 of 96 (id 3, id 7, id 12 and 1 more)`.
impl fmt::Display for MissingVerdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.model.as_str() {
            "" => "the unnamed model",
            model => model,
        })?;
        if let Some(translator) = &self.translator {
            write!(f, ", prompts by {translator}")?;
        }
        let name = |answer: &MissingAnswer| match answer.seed {
            0 => format!("id {}", answer.id),
            seed => format!("id {} with seed {seed}", answer.id),
        };
        let shown: Vec<String> = self.answers.iter().take(EXAMPLES).map(name).collect();
        let more = match self.answers.len().saturating_sub(EXAMPLES) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        write!(
            f,
            ": {} lacks {} of {} ({}{more})",
            self.language.name(),
            self.answers.len(),
            self.of,
            shown.join(", ")
        )
    }
}

/// Why verdicts cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Some rows are wrong; all of them are listed.
    #[error("{file} has {}:{}\n{}", problem_count(.problems.len()), list(.problems, "--format json lists all"), fixes(.problems))]
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
