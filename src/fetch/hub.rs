//! Downloads a file from a Hugging Face hub over HTTP, and resumes interrupted downloads.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use ureq::http::{StatusCode, header};

use super::{artifact::Artifact, cache::Cache, error::SourceError, progress::Reporter, sources::Sources};

/// Most attempts in a row without new bytes.
const MAX_IDLE_ATTEMPTS: u32 = 3;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);
const SHORT_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const SHORT_RESPONSE_TIMEOUT: Duration = Duration::from_secs(4);
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How an attempt ended without the whole file.
enum Setback {
    /// Another attempt may succeed.
    Temporary(String),
    /// Another attempt would fail too.
    Final(SourceError),
}

/// Downloads to the cache's part file. When the network fails, that file is kept, and the next run resumes from it.
pub(super) fn fetch(
    artifact: &Artifact,
    sources: &Sources,
    cache: &Cache<'_>,
    reporter: &Reporter,
) -> Result<PathBuf, SourceError> {
    let download = Download {
        bytes: artifact.bytes,
        url: sources.hub_url(artifact),
        part: cache.part(),
        token: None,
        reporter,
    };
    download.run(sources.retry_pause)?;
    Ok(download.part)
}

/// How long a hub may take to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// What is asked for is needed.
    Usual,
    /// Nobody shall wait for a hub that does not answer, because it can be done without.
    Short,
}

/// An HTTP agent with this module's time limits. It does not send a token to another host after a redirect.
pub(super) fn agent(patience: Patience) -> ureq::Agent {
    let (connect, response) = match patience {
        Patience::Usual => (CONNECT_TIMEOUT, RESPONSE_TIMEOUT),
        Patience::Short => (SHORT_CONNECT_TIMEOUT, SHORT_RESPONSE_TIMEOUT),
    };
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_resolve(Some(connect))
        .timeout_connect(Some(connect))
        .timeout_recv_response(Some(response))
        .timeout_per_read(Some(READ_TIMEOUT))
        .user_agent(concat!("babelward/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// A file of a hub whose size is known.
pub(super) struct Download<'a> {
    pub(super) url: String,
    pub(super) bytes: u64,
    /// The file for its bytes, which may have some from an interrupted download.
    pub(super) part: PathBuf,
    pub(super) token: Option<&'a str>,
    pub(super) reporter: &'a Reporter,
}

impl Download<'_> {
    /// Downloads until the part file has all bytes, or too many attempts have brought nothing new.
    pub(super) fn run(&self, retry_pause: Duration) -> Result<(), SourceError> {
        self.reporter.note(&format!("fetching from {}", self.url));
        let agent = agent(Patience::Usual);
        let mut idle = 0;
        loop {
            let before = length(&self.part);
            match self.attempt(&agent, before) {
                Ok(()) => return Ok(()),
                Err(Setback::Final(error)) => return Err(error),
                Err(Setback::Temporary(why)) => {
                    idle = if length(&self.part) > before { 0 } else { idle + 1 };
                    if idle >= MAX_IDLE_ATTEMPTS {
                        return Err(self.error(why));
                    }
                    self.reporter.note(&format!("{why}; trying again"));
                    thread::sleep(retry_pause * (1 + idle));
                }
            }
        }
    }

    fn error(&self, why: impl Into<String>) -> SourceError {
        SourceError::Hub {
            url: self.url.clone(),
            why: why.into(),
        }
    }

    /// Requests the bytes after the first `have`. `Ok` means that the part file is complete.
    fn attempt(&self, agent: &ureq::Agent, have: u64) -> Result<(), Setback> {
        let total = self.bytes;
        if have == total {
            return Ok(());
        }
        if have > total {
            return Err(self.start_over("the part file is too long"));
        }
        let mut request = agent.get(&self.url);
        if let Some(token) = self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if have > 0 {
            request = request.header(header::RANGE, format!("bytes={have}-"));
        }
        let mut response = request
            .call()
            .map_err(|error| Setback::Temporary(error.to_string()))?;
        let status = response.status();
        let append = match status {
            StatusCode::OK => false,
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get(header::CONTENT_RANGE);
                let range = range.and_then(|value| value.to_str().ok()).unwrap_or_default();
                if !range.starts_with(&format!("bytes {have}-")) {
                    return Err(self.start_over("the hub sent another range"));
                }
                true
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(self.start_over("the hub's file is shorter than the part file"));
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                return Err(Setback::Temporary(status.to_string()));
            }
            _ if status.is_server_error() => return Err(Setback::Temporary(status.to_string())),
            _ => return Err(Setback::Final(self.error(refusal(status)))),
        };
        let file = self.open(append).map_err(|source| self.io(source))?;
        let body = response.body_mut().with_config().limit(u64::MAX).reader();
        self.copy(body, file, if append { have } else { 0 })
    }

    fn open(&self, append: bool) -> io::Result<File> {
        OpenOptions::new()
            .create(true)
            .write(true)
            .append(append)
            .truncate(!append)
            .open(&self.part)
    }

    fn copy(&self, mut body: impl io::Read, mut file: File, mut position: u64) -> Result<(), Setback> {
        let total = self.bytes;
        let mut buffer = vec![0; 64 << 10];
        loop {
            self.reporter.at(position, total);
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => return Err(Setback::Temporary(error.to_string())),
            };
            position += u64::try_from(read).unwrap_or(u64::MAX);
            if position > total {
                let _ = fs::remove_file(&self.part);
                let why = format!("the hub's file has more than the expected {total} bytes");
                return Err(Setback::Final(self.error(why)));
            }
            file.write_all(&buffer[..read])
                .map_err(|source| self.io(source))?;
        }
        if position < total {
            return Err(Setback::Temporary(format!(
                "the download ended after {position} of {total} bytes"
            )));
        }
        file.sync_all().map_err(|source| self.io(source))
    }

    fn io(&self, source: io::Error) -> Setback {
        Setback::Final(SourceError::Io {
            path: self.part.clone(),
            source,
        })
    }

    /// Removes the bytes that have arrived, because the download cannot be resumed.
    fn start_over(&self, why: &str) -> Setback {
        match fs::remove_file(&self.part) {
            Ok(()) => Setback::Temporary(why.to_owned()),
            Err(source) => self.io(source),
        }
    }
}

/// The message for a response without the file.
pub(super) fn refusal(status: StatusCode) -> String {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => format!(
            "the hub answered {status}: accept its terms on the hub, if it has any, and set HF_TOKEN to a token that \
             may read it"
        ),
        _ => format!("the hub answered {status}"),
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}
