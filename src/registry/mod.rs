//! The registry: which models are configured, in which roles, which of them are in memory, and within which memory
//! budget. It owns the engine.
//!
//! [`Registry`] (`catalog.rs`) finds models by id. `residency.rs` loads, evicts and unloads them by the account in
//! `budget.rs`; `loader.rs` reads them from files; `assemble.rs` gives them to the engine.

mod assemble;
mod budget;
#[cfg(test)]
mod budget_tests;
mod catalog;
mod declare;
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
    budget::{KvSize, MemoryNeed, automatic_budget},
    catalog::Registry,
    error::{LoadFailure, LoadRefusal, LookupError, MemoryShortage, RegistryError, UnknownPolicy},
    loader::{ModelGroup, ModelLoader, OpenedModel},
    model::{Declared, DeclaredAdapter, ModelEntry, ModelRole, ModelSpec, Resident, ResidentAdapter},
    operations::{Feasibility, LoadAssessment},
    options::{MemoryOptions, RegistryOptions, StartOptions},
    residency::{Lease, MemoryUse},
    start::StartProgress,
    state::{ModelState, StateChange, StateWatch},
    survey::{SurveyedModel, survey},
};
pub use crate::config::LoadPolicy;
