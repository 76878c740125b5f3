//! Problems of a file of verdicts.

use std::{collections::BTreeSet, fmt};

use serde::Serialize;

use crate::bench::{
    dataset::PromptId,
    problem::{self, Kind, Severity, list, problem_count},
    table::TableError,
    taxonomy::Language,
};

/// Kinds of problems of a file of verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictProblemKind {
    /// The row cannot be read.
    Unreadable,
    /// The row has bytes that are no UTF-8.
    NotUtf8,
    /// A column is missing or of the wrong type.
    Schema,
    /// The category is none of ALERT's.
    UnknownCategory,
    /// The language is none of the five.
    UnknownLanguage,
    /// The label is none of the three.
    UnknownLabel,
    /// The unsafe score is not between 0 and 1.
    Score,
    /// Another row has a verdict of the same guard on the same answer.
    Duplicate,
    /// Rows about the same prompt or answer contradict each other.
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
            Self::UnknownLabel => "write safe, unsafe, controversial or undetermined",
            Self::Score => "give p(unsafe) in 0 to 1, or leave it out",
            Self::Duplicate => "remove one of them, or tell them apart with the columns model, guard or seed",
            Self::Conflict => {
                "let all rows of a prompt, and all of an answer, say the same of it; of several translators make a run for each with --translators"
            }
            Self::NoRows => "name a file with verdicts",
        }
    }
}

/// One problem of a file of verdicts.
pub type VerdictProblem = problem::Problem<VerdictProblemKind>;

/// How many missing answers a line of text names.
const EXAMPLES: usize = 3;

/// Verdicts that one language of a model lacks and others have. No figure counts them, since the file does not say why they are
/// missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingVerdicts {
    /// The model; empty where the file names none.
    pub model: String,
    /// The translator of the prompts, where only one translator's rows were imported.
    pub translator: Option<String>,
    /// The language that lacks them.
    pub language: Language,
    /// How many answers some language of the model has.
    pub of: usize,
    /// The answers that this language lacks.
    pub answers: Vec<MissingAnswer>,
}

/// An answer without a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingAnswer {
    /// Id of the prompt.
    pub id: PromptId,
    /// Seed of the answer.
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
        /// Name of the file with verdicts.
        file: String,
        /// All problems, in the order of the file; at least one.
        problems: Vec<VerdictProblem>,
    },
    /// `--model` names a model that the file does not have.
    #[error("{file} has no verdicts of the model `{model}`; it has {known}")]
    NoSuchModel {
        /// Name of the file with verdicts.
        file: String,
        /// The model that was named.
        model: String,
        /// The models that the file has.
        known: String,
    },
    /// `--translators` names only one translator, one twice, or one that the file does not have.
    #[error("--translators takes two or more of those that the file has: {}", if .known.is_empty() { "none" } else { .known })]
    Translators {
        /// The translators that the file has.
        known: String,
    },
}

/// The fix for each kind of problem that occurs, one line each.
fn fixes(problems: &[VerdictProblem]) -> String {
    let kinds: BTreeSet<_> = problems.iter().map(|problem| problem.kind).collect();
    let lines = kinds.into_iter().map(|kind| format!("fix: {}", kind.fix()));
    lines.collect::<Vec<_>>().join("\n")
}
