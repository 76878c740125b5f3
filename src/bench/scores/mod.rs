//! Scores: counts of verdicts, safe percentages with their intervals, averages, agreement, and comparisons of these.

pub mod comparable;
pub mod compare;
pub mod gate;
pub mod guards;
pub mod jurisdictions;
pub mod models;
pub mod result_table;
pub(crate) mod run_names;
pub mod study;
pub mod study_run;
pub mod translation_effects;
pub mod tuning;
pub mod validation;
pub mod what_if;

pub(crate) mod agreement;
pub(crate) mod by_prompt;
pub(crate) mod consistency;
pub(crate) mod gaps;
pub(crate) mod score;

mod format;
mod language_pair;
mod refusal;

pub use self::{
    agreement::Agreement,
    consistency::{Exclusion, SeedConsistency, WithAndWithout},
    format::{format_change, format_p_value, format_percent},
    gaps::{LanguageGap, MacroGap, SIGNIFICANCE_LEVEL},
    language_pair::LanguagePair,
    score::{Band, MacroScore, Score, Tally},
};
