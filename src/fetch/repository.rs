//! Fetches files of one commit of a repository on a Hugging Face hub, once.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use ureq::http::StatusCode;

use super::{
    cache::{compare, lock},
    error::SourceError,
    hub::{Download, Patience, agent, get, is_temporary, refusal, retry_after},
    listing::{Listing, Sibling, StatedDigest, is_commit, printable},
    progress::Reporter,
    sources::NamedHub,
};
use crate::files;

/// Most bytes of a hub's description of a repository. Large repositories have some 200 bytes for each file.
const MAX_LISTING_BYTES: u64 = 32 << 20;

/// How often a hub is asked that asks for patience.
const MAX_LISTING_ATTEMPTS: u32 = 3;

/// The folder of a repository's home that says which commit each revision was.
const REVISIONS: &str = "revisions";

/// What a repository has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RepositoryKind {
    Dataset,
    Model,
}

impl RepositoryKind {
    /// What a repository's address on the hub begins with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Dataset => "datasets/",
            Self::Model => "",
        }
    }
}

/// A repository of a hub at a revision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Repository<'a> {
    pub(super) kind: RepositoryKind,
    /// `OWNER/NAME`.
    pub(super) name: &'a str,
    pub(super) revision: &'a str,
}

/// The files of a commit that are in the cache now.
pub(super) struct FetchedFiles {
    pub(super) commit: String,
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

/// Why there is no listing.
enum NoListing {
    /// The hub does not answer, or has no time.
    Unreachable(SourceError),
    /// Its answer is no.
    Final(SourceError),
}

impl NoListing {
    fn error(self) -> SourceError {
        let (Self::Unreachable(error) | Self::Final(error)) = self;
        error
    }
}

/// Fetches files of a repository.
pub(super) struct Fetch<'a> {
    pub(super) repository: Repository<'a>,
    /// Folder of what is known of the repository, with a folder for each commit.
    pub(super) home: PathBuf,
    /// Where the files are to be; in the folder of the commit if absent.
    pub(super) to: Option<&'a Path>,
    pub(super) hub: &'a NamedHub,
    pub(super) reporter: &'a Reporter,
}

/// A commit of a repository, while no other process fetches of it.
pub(super) struct Commit<'a> {
    fetch: &'a Fetch<'a>,
    pub(super) listing: Listing,
    /// Where its files are, or are to be.
    pub(super) folder: PathBuf,
    _lock: File,
}

impl<'a> Fetch<'a> {
    /// Fetches the files that `choose` takes of the repository's, unless they are there.
    pub(super) fn run(
        &self,
        choose: impl FnOnce(&[Sibling]) -> Result<Vec<Sibling>, String>,
    ) -> Result<FetchedFiles, SourceError> {
        let commit = self.open()?;
        let chosen = choose(&commit.listing.siblings).map_err(|why| self.refused(why))?;
        Ok(FetchedFiles {
            files: commit.get(&chosen)?,
            commit: commit.listing.sha,
        })
    }

    /// Finds out which commit the revision is. A hub that cannot be reached does no harm to what is there already.
    pub(super) fn open(&'a self) -> Result<Commit<'a>, SourceError> {
        fs::create_dir_all(&self.home).map_err(|source| io_error(&self.home, source))?;
        let lock_path = self.home.join("lock");
        let lock = lock(&lock_path, self.reporter).map_err(|source| io_error(&lock_path, source))?;
        let listing = match self.listing(Patience::Usual) {
            Ok(listing) => listing,
            Err(NoListing::Final(error)) => return Err(error),
            Err(NoListing::Unreachable(error)) => match self.known_listing() {
                Some(listing) => {
                    self.reporter.note(&format!(
                        "{error}; {} was commit {} when it was last asked for",
                        self.repository.revision, listing.sha
                    ));
                    listing
                }
                None => return Err(error),
            },
        };
        let folder = match self.to {
            Some(folder) => folder.to_owned(),
            None => self.home.join(&listing.sha),
        };
        Ok(Commit {
            fetch: self,
            listing,
            folder,
            _lock: lock,
        })
    }

    /// What [`Fetch::run`] would fetch now. Nothing is fetched, and a hub that does not answer is not waited for.
    pub(super) fn offer(
        &self,
        choose: impl FnOnce(&[Sibling]) -> Result<Vec<Sibling>, String>,
    ) -> Result<Offer, SourceError> {
        let listing = self.listing(Patience::Short).map_err(NoListing::error)?;
        let chosen = choose(&listing.siblings).map_err(|why| self.refused(why))?;
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

    /// The error where the repository does not have what was asked for.
    pub(super) fn refused(&self, why: impl Into<String>) -> SourceError {
        SourceError::Refused {
            url: self.repository.name.to_owned(),
            why: why.into(),
        }
    }

    fn error(&self, url: &str, why: impl Into<String>) -> SourceError {
        SourceError::Hub {
            url: url.to_owned(),
            why: why.into(),
        }
    }

    /// Address of the repository's page.
    pub(super) fn page(&self) -> String {
        let Repository { kind, name, .. } = self.repository;
        format!("{}/{}{name}", self.hub.address, kind.prefix())
    }

    /// What was listed of a commit before.
    fn kept_listing(&self, commit: &str) -> Option<Listing> {
        let text = files::read(&self.home.join(commit).join("listing.json"), MAX_LISTING_BYTES).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// What was listed when the revision was last asked for.
    fn known_listing(&self) -> Option<Listing> {
        let path = self.home.join(REVISIONS).join(self.repository.revision);
        let commit = files::read_text(&path, 100).ok()?;
        self.kept_listing(Some(commit.trim()).filter(|commit| is_commit(commit))?)
    }

    /// The files of the repository. A commit never changes, so one that was listed before needs no network.
    fn listing(&self, patience: Patience) -> Result<Listing, NoListing> {
        let Repository { kind, revision, .. } = self.repository;
        if let Some(listing) = self.kept_listing(revision) {
            return Ok(listing);
        }
        let url = self.listing_url();
        let text = self.listing_text(&url, patience)?;
        let wrong = |why: String| NoListing::Final(self.error(&url, why));
        let listing: Listing = serde_json::from_str(&text).map_err(|error| {
            let what = match kind {
                RepositoryKind::Dataset => "data set",
                RepositoryKind::Model => "model",
            };
            wrong(format!("this is not a hub's description of a {what}: {error}"))
        })?;
        if !is_commit(&listing.sha) {
            return Err(wrong(format!("`{}` is not a commit", printable(&listing.sha))));
        }
        if is_commit(revision) && !listing.sha.eq_ignore_ascii_case(revision) {
            return Err(wrong(format!(
                "the hub answers with commit {} instead",
                listing.sha
            )));
        }
        self.keep(&listing.sha, &text).map_err(NoListing::Final)?;
        Ok(listing)
    }

    fn listing_url(&self) -> String {
        let Repository { kind, name, revision } = self.repository;
        let api = match kind {
            RepositoryKind::Dataset => "datasets",
            RepositoryKind::Model => "models",
        };
        // Revisions such as refs/pr/1 are one part of the address.
        let revision = revision.replace('/', "%2F");
        format!(
            "{}/api/{api}/{name}/revision/{revision}?blobs=true",
            self.hub.address
        )
    }

    /// The hub's description of the repository.
    fn listing_text(&self, url: &str, patience: Patience) -> Result<String, NoListing> {
        let authorisation = self.hub.authorisation(url);
        let agent = agent(patience, url);
        let mut attempt = 1;
        let mut response = loop {
            let response = get(&agent, url, authorisation).call();
            let response =
                response.map_err(|error| NoListing::Unreachable(self.error(url, error.to_string())))?;
            let status = response.status();
            if status.is_success() {
                break response;
            }
            let page = self.page();
            if is_temporary(status) {
                if attempt < MAX_LISTING_ATTEMPTS && patience == Patience::Usual {
                    self.reporter.note(&format!("{url}: {status}; trying again"));
                    std::thread::sleep(retry_after(&response).max(self.hub.retry_pause * attempt));
                    attempt += 1;
                    continue;
                }
                let why = refusal(&response, Some(&page), authorisation);
                return Err(NoListing::Unreachable(self.error(url, why)));
            }
            let why = match status {
                StatusCode::NOT_FOUND if !response.headers().contains_key("x-error-code") => {
                    let what = match self.repository.kind {
                        RepositoryKind::Dataset => "set",
                        RepositoryKind::Model => "model",
                    };
                    format!("the hub has no such {what}, or a private one (set HF_TOKEN)")
                }
                _ => refusal(&response, Some(&page), authorisation),
            };
            return Err(NoListing::Final(SourceError::Refused {
                url: url.to_owned(),
                why,
            }));
        };
        let body = response.body_mut().with_config().limit(MAX_LISTING_BYTES);
        body.read_to_string()
            .map_err(|error| NoListing::Final(self.error(url, error.to_string())))
    }

    /// Keeps what was listed of a commit, and that the revision is this commit now.
    fn keep(&self, commit: &str, listing: &str) -> Result<(), SourceError> {
        let write = |path: PathBuf, text: &str| {
            let folder = path.parent().unwrap_or(&self.home);
            fs::create_dir_all(folder)
                .and_then(|()| files::write_whole(&path, text.as_bytes()))
                .map_err(|source| io_error(&path, source))
        };
        write(self.home.join(commit).join("listing.json"), listing)?;
        let revision = self.repository.revision;
        match is_commit(revision) {
            true => Ok(()),
            false => write(self.home.join(REVISIONS).join(revision), commit),
        }
    }
}

impl Commit<'_> {
    /// Its name: 40 hexadecimal digits.
    pub(super) fn name(&self) -> &str {
        &self.listing.sha
    }

    /// Fetches those of these files that are not there; their paths. Before the first byte, it looks whether there is room.
    pub(super) fn get(&self, chosen: &[Sibling]) -> Result<Vec<PathBuf>, SourceError> {
        let mut missing = Vec::new();
        for sibling in chosen {
            if !self.has(sibling)? {
                missing.push(sibling);
            }
        }
        if !missing.is_empty() {
            fs::create_dir_all(&self.folder).map_err(|source| io_error(&self.folder, source))?;
            self.check_room(&missing)?;
        }
        let fetched = missing.iter().try_for_each(|sibling| self.fetch_file(sibling));
        self.fetch.reporter.finish();
        fetched?;
        Ok(chosen
            .iter()
            .map(|sibling| self.folder.join(&sibling.rfilename))
            .collect())
    }

    /// Whether a file is there. In the cache, a file has its name only once it was checked, so its length tells. In a folder of
    /// the user's it is read, and one with another content is left alone.
    fn has(&self, sibling: &Sibling) -> Result<bool, SourceError> {
        let target = self.folder.join(&sibling.rfilename);
        let found = match fs::metadata(&target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(io_error(&target, source)),
            Ok(found) => found,
        };
        let has_length = sibling.size.is_none_or(|bytes| bytes == found.len());
        if self.fetch.to.is_none() {
            if has_length {
                return Ok(true);
            }
            let reporter = self.fetch.reporter;
            reporter.note(&format!("{} is damaged and is fetched again", target.display()));
            fs::remove_file(&target).map_err(|source| io_error(&target, source))?;
            return Ok(false);
        }
        let stated = self.stated(sibling)?;
        let is_same = match stated.filter(|_| has_length) {
            Some(stated) => {
                let found = stated.of(&target);
                found.map_err(|source| io_error(&target, source))? == stated.text()
            }
            None => has_length,
        };
        match is_same {
            true => Ok(true),
            false => Err(SourceError::Occupied { path: target }),
        }
    }

    fn stated(&self, sibling: &Sibling) -> Result<Option<StatedDigest>, SourceError> {
        let stated = sibling.stated();
        stated.map_err(|why| self.fetch.refused(format!("{}: {why}", sibling.rfilename)))
    }

    /// Whether the disk has room for what is still to come of these files.
    fn check_room(&self, missing: &[&Sibling]) -> Result<(), SourceError> {
        let rest = |sibling: &&Sibling| {
            let come = fs::metadata(self.part(sibling)).map_or(0, |part| part.len());
            sibling.size.unwrap_or_default().saturating_sub(come)
        };
        let needed = missing.iter().map(rest).fold(0, u64::saturating_add);
        let disk = rustix::fs::statvfs(&self.folder);
        let disk = disk.map_err(|error| io_error(&self.folder, error.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if needed <= free {
            return Ok(());
        }
        Err(SourceError::NoRoom {
            path: self.folder.clone(),
            free,
            needed,
        })
    }

    /// The file for the bytes of a download that have come. It is beside the commit's listing also where the file is for a folder of
    /// the user's: neither the bytes of another commit nor a file of theirs is gone on with.
    fn part(&self, sibling: &Sibling) -> PathBuf {
        let folder = self.fetch.home.join(&self.listing.sha);
        folder.join(format!("{}.part", sibling.rfilename))
    }

    /// Fetches one file, and compares it with the digest that the hub states if it states one.
    fn fetch_file(&self, sibling: &Sibling) -> Result<(), SourceError> {
        let Fetch {
            repository,
            hub,
            reporter,
            ..
        } = self.fetch;
        let target = self.folder.join(&sibling.rfilename);
        let url = format!(
            "{}/{}{}/resolve/{}/{}",
            hub.address,
            repository.kind.prefix(),
            repository.name,
            self.listing.sha,
            sibling.rfilename
        );
        let bytes = sibling
            .size
            .ok_or_else(|| self.fetch.error(&url, "the hub does not state its size"))?;
        let stated = self.stated(sibling)?;
        let part = self.part(sibling);
        for path in [&target, &part] {
            let parent = path.parent().unwrap_or(&self.folder);
            fs::create_dir_all(parent).map_err(|source| io_error(parent, source))?;
        }
        let page = self.fetch.page();
        let download = Download {
            authorisation: hub.authorisation(&url),
            url,
            bytes,
            part,
            page: Some(&page),
            reporter,
        };
        download.run(hub.retry_pause)?;
        reporter.finish();
        if let Some(stated) = stated {
            compare(&download.part, stated.of(&download.part), stated.text())?;
        }
        // Somebody may have put one there meanwhile.
        if self.fetch.to.is_some() && target.exists() {
            return Err(SourceError::Occupied { path: target });
        }
        fs::rename(&download.part, &target).map_err(|source| io_error(&target, source))?;
        reporter.note(&format!("kept as {}", target.display()));
        Ok(())
    }
}

fn io_error(path: &Path, source: io::Error) -> SourceError {
    SourceError::Io {
        path: path.to_owned(),
        source,
    }
}
