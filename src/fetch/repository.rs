//! Fetches files of one commit of a repository on a Hugging Face hub, once.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use ureq::http::{StatusCode, header};

use super::{
    cache::{check, lock},
    error::SourceError,
    hub::{Download, Patience, agent, refusal},
    progress::Reporter,
    sources::Sources,
};
use crate::files;

/// What a repository has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RepositoryKind {
    Dataset,
    Model,
}

/// A repository of a hub at a revision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Repository<'a> {
    pub(super) kind: RepositoryKind,
    /// `OWNER/NAME`.
    pub(super) name: &'a str,
    pub(super) revision: &'a str,
}

/// A hub's description of a repository at a revision.
#[derive(Debug, Serialize, Deserialize)]
struct Listing {
    /// The commit.
    sha: String,
    siblings: Vec<Sibling>,
}

/// A file of a repository. The hub states sizes of all, and digests of large ones.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Sibling {
    pub(super) rfilename: String,
    #[serde(default)]
    pub(super) size: Option<u64>,
    #[serde(default)]
    pub(super) lfs: Option<Lfs>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Lfs {
    pub(super) sha256: String,
}

/// Whether a path stays in the folder that it is relative to, and can be used in a URL without escaping.
pub(super) fn is_inside(path: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '+' | '=');
    !path.is_empty()
        && path.chars().all(known)
        && Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
}

/// The files of a commit that are in the cache now.
pub(super) struct FetchedFiles {
    pub(super) commit: String,
    /// Their folder.
    pub(super) folder: PathBuf,
    /// Their paths, in the order in which they were chosen.
    pub(super) files: Vec<PathBuf>,
}

/// What a hub has of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Bytes of all its files.
    pub bytes: u64,
    /// Bytes of those that are not in the cache.
    pub missing_bytes: u64,
}

/// Fetches files of a repository.
pub(super) struct Fetch<'a> {
    pub(super) repository: Repository<'a>,
    /// Folder of the repository in the cache, with a folder for each commit.
    pub(super) home: PathBuf,
    pub(super) sources: &'a Sources,
    pub(super) reporter: &'a Reporter,
}

impl Fetch<'_> {
    /// Fetches the files that `choose` takes of the repository's, unless they are there.
    pub(super) fn run(
        &self,
        choose: impl FnOnce(&[Sibling]) -> Result<Vec<Sibling>, String>,
    ) -> Result<FetchedFiles, SourceError> {
        fs::create_dir_all(&self.home).map_err(|source| io(&self.home, source))?;
        let lock_path = self.home.join("lock");
        let _lock = lock(&lock_path, self.reporter).map_err(|source| io(&lock_path, source))?;
        let listing = self.listing(Patience::Usual)?;
        let chosen = choose(&listing.siblings).map_err(|why| self.error(self.repository.name, why))?;
        let folder = self.home.join(&listing.sha);
        let files = chosen
            .iter()
            .map(|sibling| self.file(&listing.sha, &folder, sibling));
        let files = files.collect::<Result<_, _>>();
        self.reporter.finish();
        Ok(FetchedFiles {
            commit: listing.sha,
            folder,
            files: files?,
        })
    }

    /// What [`Fetch::run`] would fetch now. Nothing is fetched, and a hub that does not answer is not waited for.
    pub(super) fn offer(
        &self,
        choose: impl FnOnce(&[Sibling]) -> Result<Vec<Sibling>, String>,
    ) -> Result<Offer, SourceError> {
        let listing = self.listing(Patience::Short)?;
        let chosen = choose(&listing.siblings).map_err(|why| self.error(self.repository.name, why))?;
        let folder = self.home.join(&listing.sha);
        let size = |sibling: &Sibling| sibling.size.unwrap_or_default();
        let missing = |sibling: &&Sibling| !folder.join(&sibling.rfilename).exists();
        Ok(Offer {
            bytes: chosen.iter().map(size).fold(0, u64::saturating_add),
            missing_bytes: chosen
                .iter()
                .filter(missing)
                .map(size)
                .fold(0, u64::saturating_add),
        })
    }

    fn error(&self, url: &str, why: impl Into<String>) -> SourceError {
        SourceError::Hub {
            url: url.to_owned(),
            why: why.into(),
        }
    }

    /// The files of the repository. A commit never changes, so one that was listed before needs no network.
    fn listing(&self, patience: Patience) -> Result<Listing, SourceError> {
        let Repository { kind, name, revision } = self.repository;
        let kept = self.home.join(revision).join("listing.json");
        if let Some(listing) = fs::read(&kept)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
        {
            return Ok(listing);
        }
        let (api, what) = match kind {
            RepositoryKind::Dataset => ("datasets", "set"),
            RepositoryKind::Model => ("models", "model"),
        };
        let url = format!(
            "{}/api/{api}/{name}/revision/{revision}?blobs=true",
            self.sources.hub
        );
        let mut request = agent(patience).get(&url);
        if let Some(token) = &self.sources.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let mut response = request
            .call()
            .map_err(|error| self.error(&url, error.to_string()))?;
        if !response.status().is_success() {
            let why = match response.status() {
                StatusCode::NOT_FOUND => {
                    format!("the hub has no such {what}, or a private one (set HF_TOKEN)")
                }
                status => refusal(status),
            };
            return Err(self.error(&url, why));
        }
        let text = response.body_mut().read_to_string();
        let text = text.map_err(|error| self.error(&url, error.to_string()))?;
        let listing: Listing = serde_json::from_str(&text).map_err(|error| {
            let what = match kind {
                RepositoryKind::Dataset => "data set",
                RepositoryKind::Model => "model",
            };
            self.error(
                &url,
                format!("this is not a hub's description of a {what}: {error}"),
            )
        })?;
        let commit = listing.sha.len() == 40 && listing.sha.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !commit {
            return Err(self.error(&url, format!("`{}` is not a commit", listing.sha)));
        }
        let folder = self.home.join(&listing.sha);
        let kept = folder.join("listing.json");
        let write = || fs::create_dir_all(&folder).and_then(|()| files::write_whole(&kept, text.as_bytes()));
        write().map_err(|source| io(&kept, source))?;
        Ok(listing)
    }

    /// Fetches one file of a commit, and checks it against the hub's digest if there is one.
    fn file(&self, commit: &str, folder: &Path, sibling: &Sibling) -> Result<PathBuf, SourceError> {
        let target = folder.join(&sibling.rfilename);
        if target.exists() {
            return Ok(target);
        }
        let Repository { kind, name, .. } = self.repository;
        let below = match kind {
            RepositoryKind::Dataset => "datasets/",
            RepositoryKind::Model => "",
        };
        let url = format!(
            "{}/{below}{name}/resolve/{commit}/{}",
            self.sources.hub, sibling.rfilename
        );
        let bytes = sibling
            .size
            .ok_or_else(|| self.error(&url, "the hub does not state its size"))?;
        let parent = target.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(|source| io(parent, source))?;
        let part = folder.join(format!("{}.part", sibling.rfilename));
        let download = Download {
            url,
            bytes,
            part,
            token: self.sources.token.as_deref(),
            reporter: self.reporter,
        };
        download.run(self.sources.retry_pause)?;
        if let Some(lfs) = &sibling.lfs {
            check(&download.part, &format!("sha256:{}", lfs.sha256))?;
        }
        fs::rename(&download.part, &target).map_err(|source| io(&target, source))?;
        self.reporter.note(&format!("kept as {}", target.display()));
        Ok(target)
    }
}

fn io(path: &Path, source: std::io::Error) -> SourceError {
    SourceError::Io {
        path: path.to_owned(),
        source,
    }
}
