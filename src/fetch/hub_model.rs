//! Fetches guards from the repositories of their makers on a Hugging Face hub: those that everybody may download without agreeing
//! to a licence first.

use std::{fmt, path::PathBuf, str::FromStr};

use super::{
    error::{FetchError, SourceError},
    hub_fetch::{ModelFetch, Place},
    model_name::ModelName,
    progress::{Progress, Reporter},
    repository::Offer,
    sources::Sources,
};

/// A guard that can be fetched by its name. All are under Apache-2.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubModel {
    /// Qwen3Guard-Gen 0.6B.
    Qwen3GuardGen06B,
    /// Qwen3Guard-Gen 4B.
    Qwen3GuardGen4B,
    /// Qwen3Guard-Gen 8B.
    Qwen3GuardGen8B,
    /// Granite Guardian 3.1 2B.
    GraniteGuardian31,
}

impl HubModel {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Qwen3GuardGen06B,
        Self::Qwen3GuardGen4B,
        Self::Qwen3GuardGen8B,
        Self::GraniteGuardian31,
    ];

    /// The name by which it is asked for.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qwen3GuardGen06B => "qwen3guard-gen-0.6b",
            Self::Qwen3GuardGen4B => "qwen3guard-gen-4b",
            Self::Qwen3GuardGen8B => "qwen3guard-gen-8b",
            Self::GraniteGuardian31 => "granite-guardian-3.1-2b",
        }
    }

    /// The repository of its makers.
    pub fn repository(self) -> ModelName {
        ModelName::of_repository(match self {
            Self::Qwen3GuardGen06B => "Qwen/Qwen3Guard-Gen-0.6B",
            Self::Qwen3GuardGen4B => "Qwen/Qwen3Guard-Gen-4B",
            Self::Qwen3GuardGen8B => "Qwen/Qwen3Guard-Gen-8B",
            Self::GraniteGuardian31 => "ibm-granite/granite-guardian-3.1-2b",
        })
    }

    /// Its folder in the cache, which has the files of the repository's newest commit that are not there yet. The hub is asked which
    /// commit that is. Blocks; a second process waits for the first.
    ///
    /// # Errors
    /// [`FetchError::Model`], or [`FetchError::NoCacheFolder`].
    pub fn fetch(self, progress: Progress) -> Result<PathBuf, FetchError> {
        self.fetch_from(&Sources::of_process()?, progress)
    }

    /// The same from given sources.
    pub(super) fn fetch_from(self, sources: &Sources, progress: Progress) -> Result<PathBuf, FetchError> {
        let reporter = Reporter::new(progress, self.name());
        let fetched = ModelFetch::new(self.repository()).run_at(&place(sources), &reporter);
        Ok(fetched.map_err(|error| self.error(error))?.path)
    }

    /// What the hub has of it now. Nothing is fetched, and a hub that does not answer within seconds counts as one that is not there.
    ///
    /// # Errors
    /// [`FetchError::Model`], or [`FetchError::NoCacheFolder`].
    pub fn offer(self) -> Result<Offer, FetchError> {
        self.offer_of(&Sources::of_process()?)
    }

    /// The same of given sources.
    pub(super) fn offer_of(self, sources: &Sources) -> Result<Offer, FetchError> {
        let reporter = Reporter::new(Progress::Silent, self.name());
        let offer = ModelFetch::new(self.repository()).offer_at(&place(sources), &reporter);
        offer.map_err(|error| self.error(error))
    }

    fn error(self, error: SourceError) -> FetchError {
        FetchError::Model {
            name: self.name().to_owned(),
            error,
        }
    }
}

fn place(sources: &Sources) -> Place<'_> {
    Place {
        hub: &sources.hub,
        cache: Some(&sources.cache),
    }
}

impl fmt::Display for HubModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for HubModel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|model| model.name() == text);
        found.ok_or_else(|| {
            format!(
                "no guard of this name can be fetched; there are {}; another model is named by its repository, as OWNER/NAME",
                Self::ALL.map(Self::name).join(", ")
            )
        })
    }
}
