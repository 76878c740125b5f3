//! The M-ALERT benchmark (arXiv 2412.15035) as a client of the service. A target answers the same prompts in five
//! languages, a guard judges the answers, and the verdicts are compared category by category and language by language.
//!
//! The stages are `dataset` → `plan` → `run` → `results` (on disk) → `summary` → `report`. `analysis` makes the last two
//! from the results, at any time; `labelling` compares the guard with people, and `streaming` does so while answers are written.

pub mod analysis;
pub mod confidence;
pub mod dataset;
pub mod import;
pub mod journal;
pub mod json_file;
pub mod jurisdictions;
pub mod labelling;
pub mod merge;
pub mod paper;
pub mod plan;
pub mod problem;
pub mod progress;
pub mod report;
pub mod results;
pub mod row_proof;
pub mod run;
pub mod scores;
pub mod selection;
pub mod settings;
pub mod statistics;
pub mod streaming;
pub mod summary;
pub mod table;
pub mod taxonomy;
pub mod translation;

/// The bundled prompts: 64 rows in all five languages, two for each category, mild in wording, under CC0.
pub const DEMO_PROMPTS: &str = include_str!("../../data/demo_prompts.jsonl");
