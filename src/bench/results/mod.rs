//! The results of a run, item by item, and the folder that keeps them. `docs/run-format.md` describes both.

mod folder;
mod group;
mod info;
mod json;
mod merkle;
mod names;
mod plan_info;
mod record;

pub use self::{
    folder::{FolderError, Records, RunFolder},
    group::{GroupRun, RunGroup},
    info::{
        FORMAT, ModelProvenance, Origin, RunInfo, RunMeasurements, RunProvenance, RunStatus, StoppedCell,
    },
    merkle::{ResultsTree, WrittenResults},
    names::folder_names,
    plan_info::PlanInfo,
    record::{
        Answer, AnswerTokens, Failure, FinishReason, GuardOutcome, GuardTokens, ItemRecord, Label, Outcome,
        SkipReason, Verdict,
    },
};
pub(crate) use self::{
    json::json_line,
    merkle::{RowHash, audit_path, root_from, row_hash},
};
