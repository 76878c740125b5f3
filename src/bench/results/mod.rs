//! What became of each item, and the folder that keeps it. `docs/run-format.md` describes both.

mod folder;
mod group;
mod info;
mod names;
mod record;

pub use self::{
    folder::{FolderError, Records, RunFolder},
    group::{GroupRun, RunGroup},
    info::{
        FORMAT, Measured, ModelProvenance, Origin, PlanInfo, RunInfo, RunProvenance, RunStatus, StoppedCell,
    },
    names::folder_names,
    record::{
        Answer, AnswerTokens, Failure, FinishReason, GuardOutcome, GuardTokens, ItemRecord, Label, Outcome,
        Skip, Verdict,
    },
};

/// One line of JSON. Our own types have text keys only, which is all that can fail.
pub(super) fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Indented JSON with a final line break.
pub(super) fn pretty<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}
