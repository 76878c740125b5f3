//! The registry: which models are configured, in which roles, which of them are in memory, and within which memory
//! budget. It owns an engine for each device.
//!
//! [`Registry`] (`catalog.rs`) finds models by id. `residency.rs` loads, evicts and unloads them by the accounts in
//! `accounts.rs`, which are one ledger (`budget.rs`) for the host's memory and one for each device (`device.rs`) that has
//! memory of its own; `locate.rs` and `placement.rs` decide which device a model is on; `loader.rs` reads models from
//! files; `assemble.rs` gives them to the engine of their device. `remote.rs` has the models that engines on other machines compute.

mod accounts;
mod assemble;
mod budget;
#[cfg(test)]
mod budget_tests;
mod catalog;
mod declare;
mod device;
mod device_options;
mod error;
mod grouping;
#[cfg(test)]
mod grouping_tests;
mod loader;
mod locate;
mod model;
mod operations;
mod options;
mod placement;
mod remote;
mod residency;
mod start;
mod state;
mod stats;
mod survey;

pub(crate) use self::loader::weights_digest;
pub use self::{
    budget::{KvSize, MemoryNeed, MemoryUse, automatic_budget},
    catalog::Registry,
    device_options::{DeviceOptions, MemoryOptions, MemoryOwner, MemoryPlace},
    error::{
        DeviceLoss, LoadFailure, LoadRefusal, LookupError, MemoryShortage, RegistryError, UnknownPolicy,
        passed_over_text,
    },
    loader::{ModelGroup, ModelLoader, OpenedModel},
    model::{
        Declared, DeclaredAdapter, ModelEntry, ModelRole, ModelSpec, RemoteModel, RemoteSpec, Resident,
        ResidentAdapter,
    },
    operations::{Feasibility, LoadAssessment},
    options::{RegistryOptions, StartOptions},
    placement::{PassReason, PassedOver},
    remote::ModelAccess,
    residency::Lease,
    start::StartProgress,
    state::{ModelState, StateChange, StateWatch},
    stats::ResidentStats,
    survey::{SurveyedModel, survey},
};
pub use crate::config::{DeterminismPolicy, LoadPolicy};
