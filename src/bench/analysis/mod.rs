//! From the folders of runs to what is said of them: the summary and report of one run, the comparison of two, the study of
//! several.

mod compare;
mod error;
mod load;
mod run;
mod study;

pub use self::{
    compare::{RunComparison, compare_runs},
    error::AnalysisError,
    load::{ComparableRun, LoadedRun, runs_in},
    run::{RunReport, TextsInReport, report_run, write_default_report},
    study::{KnownModels, StudySources, study_group, write_study},
};
