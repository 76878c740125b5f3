//! Fetches guards from the repositories of their makers on a Hugging Face hub: those that everybody may download without agreeing
//! to a licence first.

use std::{fmt, path::PathBuf, str::FromStr};

use super::{
    error::{FetchError, SourceError},
    progress::{Progress, Reporter},
    repository::{Fetch, Offer, Repository, RepositoryKind, Sibling, is_inside},
    sources::Sources,
};

/// Files of a folder that a model is read from, beside its weights.
const SETTINGS: [&str; 11] = [
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
];

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

    /// The repository of its makers, as `OWNER/NAME`.
    pub(super) fn repository(self) -> &'static str {
        match self {
            Self::Qwen3GuardGen06B => "Qwen/Qwen3Guard-Gen-0.6B",
            Self::Qwen3GuardGen4B => "Qwen/Qwen3Guard-Gen-4B",
            Self::Qwen3GuardGen8B => "Qwen/Qwen3Guard-Gen-8B",
            Self::GraniteGuardian31 => "ibm-granite/granite-guardian-3.1-2b",
        }
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
        let fetched = self.files(sources, &Reporter::new(progress, self.name()));
        fetched.map_err(|error| FetchError::Model {
            name: self.name(),
            error,
        })
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
        let offer = self.repository_fetch(sources, &reporter).offer(choose);
        offer.map_err(|error| FetchError::Model {
            name: self.name(),
            error,
        })
    }

    fn files(self, sources: &Sources, reporter: &Reporter) -> Result<PathBuf, SourceError> {
        Ok(self.repository_fetch(sources, reporter).run(choose)?.folder)
    }

    fn repository_fetch<'a>(self, sources: &'a Sources, reporter: &'a Reporter) -> Fetch<'a> {
        let repository = self.repository();
        Fetch {
            repository: Repository {
                kind: RepositoryKind::Model,
                name: repository,
                revision: "main",
            },
            home: sources.cache.join(repository.replace('/', "--")),
            sources,
            reporter,
        }
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
                "no guard of this name can be fetched; there are {}",
                Self::ALL.map(Self::name).join(", ")
            )
        })
    }
}

/// Settings first, so that what is wrong with a repository is known before its weights have come. Weights without a digest are not
/// taken: nothing would tell whether they are the makers'.
fn choose(siblings: &[Sibling]) -> Result<Vec<Sibling>, String> {
    let is_weights = |name: &str| name.ends_with(".safetensors") && !name.contains('/');
    let (mut settings, mut weights) = (Vec::new(), Vec::new());
    for sibling in siblings.iter().filter(|sibling| is_inside(&sibling.rfilename)) {
        if SETTINGS.contains(&sibling.rfilename.as_str()) {
            settings.push(sibling.clone());
        } else if is_weights(&sibling.rfilename) {
            weights.push(sibling.clone());
        }
    }
    if !settings.iter().any(|sibling| sibling.rfilename == "config.json") || weights.is_empty() {
        return Err("the repository lacks a config.json or weights as safetensors".to_owned());
    }
    if let Some(unknown) = weights.iter().find(|sibling| sibling.lfs.is_none()) {
        return Err(format!("the hub states no digest of {}", unknown.rfilename));
    }
    settings.append(&mut weights);
    Ok(settings)
}
