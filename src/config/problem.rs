//! What is wrong with a configuration, and how to mend it.

use std::fmt;

use super::Origin;

/// A suggestion is made when the spelling is at least this close (Jaro-Winkler, 0..=1).
const SUGGESTION_LIKENESS: f64 = 0.8;

/// Least share of letters that stay when a key is edited into the one that was perhaps meant.
const EDITED_LIKENESS: f64 = 0.55;

/// Where to look for what is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProblemKind {
    /// A key or a value.
    Value,
    /// A file that a value names: it is missing, or not what it should be.
    File,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// Whether it is the value, or a file that it names.
    pub kind: ProblemKind,
    /// The key, as in the file: `engine.kv_memory`.
    pub key: String,
    /// Where the value came from, when one was given.
    pub origin: Option<Origin>,
    /// What is wrong.
    pub reason: String,
    /// What to do.
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

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// Whether nothing but files is wrong.
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
