//! The summary of a run: everything that the report shows, as numbers. It is written to `summary.json`.

mod compute;
mod figures;
mod text;

pub use self::{
    compute::{Options, PLURAL},
    figures::{CategoryScore, CurvePoint, FailureCount, LanguageScore, Refusals, Summary},
    text::text_table,
};
