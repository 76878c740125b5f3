//! Reads prompt sets in M-ALERT's schema: wide rows (`id`, `category` and a column per language) or long ones (`id`,
//! `language`, `category`, `prompt`), from JSON lines, JSON, CSV, TSV or Parquet.

mod assemble;
mod check;
mod files;
mod problem;
mod prompt;
mod set;
mod source;
mod text;
mod wrapper;
mod write;

#[cfg(test)]
mod tests;

pub use self::{
    check::{CategoryCount, CheckReport, Expect},
    problem::{DatasetError, Problem, ProblemKind},
    prompt::{PromptId, Row, Strata},
    set::Dataset,
    source::{ReadOptions, Source},
    text::{odd_length_ratio, sentences},
    wrapper::{Wrapper, WrapperUse, unwrapped},
    write::write_long,
};
