//! Imports verdicts that another program made, as runs: they are scored, compared and reported like those of `bench run`.
//! What the file does not say stays unknown.

mod collect;
mod file;
mod options;
mod problem;
mod row;
mod runs;

#[cfg(test)]
mod tests;

pub use self::{
    file::{Import, translators},
    options::ImportOptions,
    problem::{ImportError, MissingAnswer, MissingVerdicts, VerdictProblem, VerdictProblemKind},
    runs::{ImportedRuns, WriteRunsError, WrittenRun},
};
