//! The registry: which models are configured, in which roles, which of them are in memory, and within which memory
//! budget. It owns an engine for each device.
//!
//! [`Registry`] (`catalog.rs`) finds models by id. `residency.rs` loads, evicts and unloads them by the accounts in
//! `accounts.rs`, which are one ledger (`budget.rs`) for each device (`device.rs`); `loader.rs` reads models from files;
//! `assemble.rs` gives them to the engine of their device.

mod accounts;
mod assemble;
mod budget;
#[cfg(test)]
mod budget_tests;
mod catalog;
mod declare;
mod device;
mod error;
mod loader;
mod model;
mod operations;
mod options;
mod residency;
mod start;
mod state;
mod stats;
mod survey;

pub use self::{
    budget::{KvSize, MemoryNeed, MemoryUse, automatic_budget},
    catalog::Registry,
    error::{
        DeviceLoss, LoadFailure, LoadRefusal, LookupError, MemoryShortage, RegistryError, UnknownPolicy,
    },
    loader::{ModelGroup, ModelLoader, OpenedModel},
    model::{Declared, DeclaredAdapter, ModelEntry, ModelRole, ModelSpec, Resident, ResidentAdapter},
    operations::{Feasibility, LoadAssessment},
    options::{DeviceOptions, MemoryOptions, RegistryOptions, StartOptions},
    residency::Lease,
    start::StartProgress,
    state::{ModelState, StateChange, StateWatch},
    survey::{SurveyedModel, survey},
};
pub use crate::config::LoadPolicy;
