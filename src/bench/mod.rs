//! The M-ALERT benchmark (arXiv 2412.15035) as a client of the service: the same prompts in five languages,
//! answered by a target, judged by a guard, compared category by category and language by language.
//!
//! `dataset` → `plan` → `run` → `results` (on disk) → `summary` → `report`. `analysis` makes the last two from the results, at
//! any time; `labelling` holds the guard against people.

pub mod analysis;
pub mod confidence;
pub mod dataset;
pub mod import;
pub mod journal;
pub mod json_file;
pub mod labelling;
pub mod merge;
pub mod paper;
pub mod plan;
pub mod policies;
pub mod problem;
pub mod progress;
pub mod report;
pub mod results;
pub mod run;
pub mod scores;
pub mod selection;
pub mod settings;
pub mod statistics;
pub mod summary;
pub mod table;
pub mod taxonomy;
pub mod translation;

/// The bundled prompts: 64 parallel rows, two for each category, mild in wording, CC0.
pub const DEMO_PROMPTS: &str = include_str!("../../data/demo_prompts.jsonl");
