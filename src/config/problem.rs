//! The problems of a configuration, and how to solve them.

use std::fmt;

use super::Origin;

/// Least similarity of a key that is suggested (Jaro-Winkler, from 0 to 1).
const SUGGESTION_LIKENESS: f64 = 0.8;

/// Least share of letters that are kept when a key is edited into the suggested one.
const EDITED_LIKENESS: f64 = 0.55;

/// Where a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProblemKind {
    /// The problem is in a key or a value.
    Value,
    /// The problem is in a file that a value names: it is missing, or its content is not valid.
    File,
}

/// One problem.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// Whether the problem is in the value or in a file that it names.
    pub kind: ProblemKind,
    /// The key, as in the file: `engine.kv_memory`.
    pub key: String,
    /// Where the value comes from, if there is one.
    pub origin: Option<Origin>,
    /// What is wrong.
    pub reason: String,
    /// How to solve it.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{} ({origin}): {}; {}", self.key, self.reason, self.fix),
            None => write!(f, "{}: {}; {}", self.key, self.reason, self.fix),
        }
    }
}

/// All problems of a configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigError {
    /// At least one problem.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// Whether all problems are in files.
    pub fn is_of_files(&self) -> bool {
        self.problems
            .iter()
            .all(|problem| problem.kind == ProblemKind::File)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [one] => write!(f, "the configuration is not valid: {one}"),
            many => {
                write!(f, "the configuration has {} problems:", many.len())?;
                for problem in many {
                    write!(f, "\n  {problem}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// The candidate that is spelled most like `given`, when one is close.
pub(super) fn closest<'a>(given: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::jaro_winkler(given, candidate), candidate))
        // The first favours equal beginnings, and keys of one table begin alike.
        .filter(|(likeness, candidate)| {
            *likeness >= SUGGESTION_LIKENESS
                && strsim::normalized_damerau_levenshtein(given, candidate) > EDITED_LIKENESS
        })
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}
