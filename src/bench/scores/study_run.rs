//! One run of a study.

use super::{models::ModelFacts, result_table::ResultTable};

/// One run of a study.
#[derive(Debug, Clone)]
pub struct StudyRun {
    /// The run's name, which no other run of the study has.
    pub name: String,
    /// The target's name, which other runs may have as well.
    pub model: String,
    /// What is known of the target.
    pub facts: ModelFacts,
    /// The run's results.
    pub table: ResultTable,
}
