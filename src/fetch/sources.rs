//! Where files are fetched from, and where they are kept.

use std::{env, ffi::OsString, path::PathBuf, time::Duration};

use super::{artifact::Artifact, error::FetchError};

/// The Python that pip is run with.
pub(crate) const PYTHON: &str = "python3";

/// Where files are fetched from, and where they are kept.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    /// Folder of fetched models.
    pub(super) cache: PathBuf,
    /// Folder of fetched prompt sets.
    pub(super) datasets: PathBuf,
    /// `HF_TOKEN`, for files that a hub does not give to everybody.
    pub(super) token: Option<String>,
    /// The Python whose pip is used.
    pub(super) python: OsString,
    /// The hub's address, without a slash at the end.
    pub(super) hub: String,
    /// Whether the hub is tried before pip.
    pub(super) hub_first: bool,
    /// How long to wait after a failure before the hub is tried again.
    pub(super) retry_pause: Duration,
}

/// A Hugging Face hub.
#[derive(Debug, Clone)]
pub(super) struct NamedHub {
    /// Its address, without a slash at the end.
    pub(super) address: String,
    /// `HF_TOKEN`, for files that it does not give to everybody.
    pub(super) token: Option<String>,
    /// How long to wait after a failure before it is asked again.
    pub(super) retry_pause: Duration,
}

impl NamedHub {
    /// The hub that the environment names: `HF_ENDPOINT` and `HF_TOKEN`.
    pub(super) fn of_process() -> Self {
        let named = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            address: named("HF_ENDPOINT")
                .unwrap_or_else(|| "https://huggingface.co".to_owned())
                .trim_end_matches('/')
                .to_owned(),
            token: named("HF_TOKEN").map(|token| token.trim().to_owned()),
            retry_pause: Duration::from_secs(1),
        }
    }
}

impl Sources {
    /// The sources that the environment names: `BABELWARD_CACHE`, `HF_ENDPOINT` and `HF_TOKEN`.
    pub(super) fn of_process() -> Result<Self, FetchError> {
        let named = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let (cache, datasets) = match named("BABELWARD_CACHE").map(PathBuf::from) {
            Some(folder) => (folder.clone(), folder.join("datasets")),
            None => {
                let folder = dirs::cache_dir()
                    .ok_or(FetchError::NoCacheFolder)?
                    .join("babelward");
                (folder.join("models"), folder.join("datasets"))
            }
        };
        let hub = NamedHub::of_process();
        Ok(Self {
            cache: std::path::absolute(&cache).unwrap_or(cache),
            datasets: std::path::absolute(&datasets).unwrap_or(datasets),
            token: hub.token,
            python: OsString::from(PYTHON),
            hub_first: named("HF_ENDPOINT").is_some(),
            hub: hub.address,
            retry_pause: hub.retry_pause,
        })
    }

    /// The address of a file on the hub.
    pub(super) fn hub_url(&self, artifact: &Artifact) -> String {
        format!(
            "{}/{}/resolve/main/{}",
            self.hub, artifact.hub_repository, artifact.file
        )
    }
}
