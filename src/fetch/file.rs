//! Fetches a file from an address to a place of the user's, and checks it by its digest: the models of a cluster's servers.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    cache::{check, lock},
    error::{FetchError, SourceError},
    hub::{Download, Patience, agent, get, refusal},
    progress::{Progress, Reporter},
    sources::{Authorisation, NamedHub},
};
use crate::digest;

/// A file by its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedFile {
    /// Where it is to be.
    pub path: PathBuf,
    /// Its digest, as [`crate::digest::of_file`] writes it.
    pub sha256: String,
    /// Where it can be had from. Without it the file has to be there already.
    pub url: Option<String>,
}

/// Parses a SHA-256 digest: 64 hexadecimal digits, with or without `sha256:` before them.
///
/// # Errors
/// Describes what a digest looks like.
pub fn parse_digest(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    if digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Ok(format!("sha256:{}", digits.to_ascii_lowercase()));
    }
    Err(
        "write the 64 hexadecimal digits that sha256sum prints, with or without `sha256:` before them"
            .to_owned(),
    )
}

impl WantedFile {
    /// Makes sure that the file is there with its content; fetches it if it is not. It appears at its place complete and
    /// checked, or not at all. Blocks; a second process waits for the first.
    ///
    /// # Errors
    /// [`FetchError::File`], [`FetchError::NotThere`], [`FetchError::Cache`].
    pub fn ensure(&self, progress: Progress) -> Result<(), FetchError> {
        self.ensure_from(&NamedHub::of_process(), progress)
    }

    pub(super) fn ensure_from(&self, hub: &NamedHub, progress: Progress) -> Result<(), FetchError> {
        // Most calls end here, without a lock and without a write, because the volume may be read-only.
        let Some(problem) = self.problem() else {
            return Ok(());
        };
        let Some(url) = &self.url else {
            return Err(FetchError::NotThere {
                path: self.path.clone(),
                reason: problem,
            });
        };
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let reporter = Reporter::new(progress, &name);
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let unusable = |path: &Path, reason| FetchError::Cache {
            path: path.to_owned(),
            reason,
        };
        fs::create_dir_all(folder).map_err(|reason| unusable(folder, reason))?;
        let guard = self.beside("lock");
        let _lock = lock(&guard, &reporter).map_err(|reason| unusable(&guard, reason))?;
        let Some(problem) = self.problem() else {
            return Ok(());
        };
        reporter.note(&problem);
        let fetched = self.fetch(url, hub, &reporter);
        reporter.finish();
        fetched.map_err(|error| FetchError::File {
            path: self.path.clone(),
            error,
        })
    }

    /// Why the file at the place is not the wanted one; `None` if it is.
    fn problem(&self) -> Option<String> {
        match digest::of_file(&self.path) {
            Ok(found) if found == self.sha256 => None,
            Ok(found) => Some(format!(
                "the file has the digest {found}, expected {}",
                self.sha256
            )),
            Err(error) => Some(error.to_string()),
        }
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(".");
        path.push(ending);
        path.into()
    }

    fn fetch(&self, url: &str, hub: &NamedHub, reporter: &Reporter) -> Result<(), SourceError> {
        let authorisation = hub.authorisation(url);
        let part = self.beside("part");
        Download {
            bytes: length(url, authorisation)?,
            url: url.to_owned(),
            part: part.clone(),
            authorisation,
            page: None,
            reporter,
        }
        .run(hub.retry_pause)?;
        check(&part, &self.sha256)?;
        fs::rename(&part, &self.path).map_err(|source| SourceError::Io {
            path: self.path.clone(),
            source,
        })
    }
}

/// How many bytes an address has, by the headers of its answer.
fn length(url: &str, authorisation: Authorisation<'_>) -> Result<u64, SourceError> {
    let wrong = |why: String| SourceError::Hub {
        url: url.to_owned(),
        why,
    };
    let response = get(&agent(Patience::Usual, url), url, authorisation).call();
    let response = response.map_err(|error| wrong(error.to_string()))?;
    if !response.status().is_success() {
        return Err(wrong(refusal(&response, None, authorisation)));
    }
    response
        .body()
        .content_length()
        .ok_or_else(|| wrong("the answer does not say how long the file is (Content-Length)".to_owned()))
}
