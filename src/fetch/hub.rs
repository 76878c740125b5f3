//! Downloads a file from a Hugging Face hub over HTTP, and resumes interrupted downloads.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use ureq::{
    Body, RequestBuilder,
    config::RedirectAuthHeaders,
    http::{Response, StatusCode, header},
    typestate::WithoutBody,
};

use super::{
    artifact::Artifact,
    cache::Cache,
    error::SourceError,
    progress::Reporter,
    sources::{Authorisation, Sources},
};

/// Most attempts in a row without new bytes.
const MAX_IDLE_ATTEMPTS: u32 = 3;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);
const SHORT_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const SHORT_RESPONSE_TIMEOUT: Duration = Duration::from_secs(4);
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest that is waited because a hub asks for it (`Retry-After`).
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

/// How an attempt ended without the whole file.
enum Setback {
    /// Another attempt may succeed, after the time that the hub asks for.
    Temporary { why: String, wait: Duration },
    /// Another attempt would fail too.
    Final(SourceError),
}

impl Setback {
    fn temporary(why: impl Into<String>) -> Self {
        Self::Temporary {
            why: why.into(),
            wait: Duration::ZERO,
        }
    }
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
        authorisation: Authorisation::Nobody,
        page: None,
        reporter,
    };
    download.run(sources.hub.retry_pause)?;
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

/// An HTTP agent for `url`, with this module's time limits. A token goes with redirects within its host, and not to another one:
/// hubs keep large files elsewhere. What was asked for by HTTPS is not taken without it.
pub(super) fn agent(patience: Patience, url: &str) -> ureq::Agent {
    let (connect, response) = match patience {
        Patience::Usual => (CONNECT_TIMEOUT, RESPONSE_TIMEOUT),
        Patience::Short => (SHORT_CONNECT_TIMEOUT, SHORT_RESPONSE_TIMEOUT),
    };
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .redirect_auth_headers(RedirectAuthHeaders::SameHost)
        .https_only(is_of_tls(url))
        .timeout_resolve(Some(connect))
        .timeout_connect(Some(connect))
        .timeout_recv_response(Some(response))
        .timeout_per_read(Some(READ_TIMEOUT))
        .user_agent(concat!("babelward/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// Whether an address is one by HTTPS, in whatever case that is written.
fn is_of_tls(url: &str) -> bool {
    url.split_once("://")
        .is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("https"))
}

/// A request for `url` that says who makes it.
pub(super) fn get(
    agent: &ureq::Agent,
    url: &str,
    authorisation: Authorisation<'_>,
) -> RequestBuilder<WithoutBody> {
    let request = agent.get(url);
    match authorisation {
        Authorisation::Token(token) => {
            request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()))
        }
        Authorisation::Nobody | Authorisation::Withheld => request,
    }
}

/// A file of a hub whose size is known.
pub(super) struct Download<'a> {
    pub(super) url: String,
    pub(super) bytes: u64,
    /// The file for its bytes, which may have some from an interrupted download.
    pub(super) part: PathBuf,
    pub(super) authorisation: Authorisation<'a>,
    /// Address of the repository's page on the hub, for messages.
    pub(super) page: Option<&'a str>,
    pub(super) reporter: &'a Reporter,
}

impl Download<'_> {
    /// Downloads until the part file has all bytes, or too many attempts have brought nothing new.
    pub(super) fn run(&self, retry_pause: Duration) -> Result<(), SourceError> {
        self.reporter.note(&format!("fetching from {}", self.url));
        let agent = agent(Patience::Usual, &self.url);
        let mut idle = 0;
        loop {
            let before = length(&self.part);
            match self.attempt(&agent, before) {
                Ok(()) => return Ok(()),
                Err(Setback::Final(error)) => return Err(error),
                Err(Setback::Temporary { why, wait }) => {
                    idle = if length(&self.part) > before { 0 } else { idle + 1 };
                    if idle >= MAX_IDLE_ATTEMPTS {
                        return Err(self.error(why));
                    }
                    self.reporter.note(&format!("{why}; trying again"));
                    thread::sleep(wait.max(retry_pause * (1 + idle)));
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

    /// The error where the hub says no, which the network has no part in.
    fn refused(&self, why: String) -> SourceError {
        SourceError::Refused {
            url: self.url.clone(),
            why,
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
        let mut request = get(agent, &self.url, self.authorisation);
        if have > 0 {
            request = request.header(header::RANGE, format!("bytes={have}-"));
        }
        let mut response = request
            .call()
            .map_err(|error| Setback::temporary(error.to_string()))?;
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
            _ if is_temporary(status) => {
                return Err(Setback::Temporary {
                    why: status.to_string(),
                    wait: retry_after(&response),
                });
            }
            _ => {
                let why = refusal(&response, self.page, self.authorisation);
                return Err(Setback::Final(self.refused(why)));
            }
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
                Err(error) => return Err(Setback::temporary(error.to_string())),
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
            return Err(Setback::temporary(format!(
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
            Ok(()) => Setback::temporary(why),
            Err(source) => self.io(source),
        }
    }
}

/// Whether the same request may be answered later.
pub(super) fn is_temporary(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
    ) || status.is_server_error()
}

/// How long the hub asks to wait, within limits; zero where it does not say.
pub(super) fn retry_after(response: &Response<Body>) -> Duration {
    let seconds = header_text(response, header::RETRY_AFTER.as_str()).parse();
    seconds
        .map_or(Duration::ZERO, Duration::from_secs)
        .min(MAX_RETRY_AFTER)
}

fn header_text<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    let value = response.headers().get(name);
    value.and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The message for a response without what was asked for: what the hub's status and its `X-Error-Code` mean, and what to do.
/// `page` is the address of the repository's page.
pub(super) fn refusal(
    response: &Response<Body>,
    page: Option<&str>,
    authorisation: Authorisation<'_>,
) -> String {
    let status = response.status();
    let code = header_text(response, "x-error-code");
    let answered = format!("the hub answered {status}");
    let page = page.unwrap_or("its page on the hub");
    let why = match (status, code, authorisation) {
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, "GatedRepo", Authorisation::Token(_)) => format!(
            "{answered}: its makers give it to those who have agreed to its terms, and the token's account has no access \
             yet: agree at {page}, wait for their answer if they look at each request, and see that the token may read \
             gated repositories"
        ),
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, "GatedRepo", _) => format!(
            "{answered}: its makers give it to those who have agreed to its terms: agree at {page} with an account of the \
             hub, and set HF_TOKEN to a token of that account, or name a file with one by --token-file"
        ),
        (StatusCode::UNAUTHORIZED, _, Authorisation::Token(_)) => format!(
            "{answered}: it has no such repository, or the token of HF_TOKEN or --token-file is wrong or may not read it"
        ),
        (StatusCode::UNAUTHORIZED, _, _) => format!(
            "{answered}: it has no such repository, or a private one: correct the name, or set HF_TOKEN to a token that \
             may read it"
        ),
        (StatusCode::FORBIDDEN, _, _) => format!(
            "{answered}: agree to its terms at {page}, if it has any, and set HF_TOKEN to a token that may read it"
        ),
        (StatusCode::NOT_FOUND, "RevisionNotFound", _) => {
            format!("{answered}: the repository has no such revision")
        }
        (StatusCode::NOT_FOUND, "RepoNotFound", _) => {
            format!("{answered}: it has no such repository, or a private one (set HF_TOKEN)")
        }
        (StatusCode::TOO_MANY_REQUESTS, _, _) => format!(
            "{answered}: wait some minutes; it allows more to those whom it knows by a token (HF_TOKEN)"
        ),
        _ => answered,
    };
    match authorisation {
        Authorisation::Withheld => {
            format!(
                "{why}; the token was not sent, because the hub's address has no TLS: name it by https://"
            )
        }
        Authorisation::Nobody | Authorisation::Token(_) => why,
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}
