//! HTTP/1.1 to an endpoint: requests with its key, and answers piece by piece, each within a bound and a time.

use std::{
    future::{Future, poll_fn},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER},
};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, Error},
    rt::{TokioExecutor, TokioTimer},
};
use serde::Deserialize;
use tokio::time::sleep_until;

use super::{
    answer::ErrorBody,
    connector::{ConnectFailure, Connector},
    error::{EndpointError, RemoteError, RemotePhase},
    json,
    options::EndpointOptions,
};
use crate::{
    errors::with_causes,
    files,
    secret::{Secret, warn_if_exposed},
};

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);

/// Most bytes of the body of an error.
const ERROR_BYTES: usize = 64 << 10;

/// Most bytes of a file with a key.
const KEY_BYTES: u64 = 16 << 10;

/// Most bytes that a connection buffers, headers of an answer included.
const BUFFER_BYTES: usize = 128 << 10;

/// Longest time to try again that an endpoint may name; a longer one counts as this.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The header in which callers of our HTTP port say how long they wait.
const TIMEOUT: &str = "x-request-timeout-ms";

/// How long a request may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowed {
    /// When nobody waits for its answer any more.
    pub(super) deadline: Option<Instant>,
    /// Longest time without a byte.
    pub(super) stall: Duration,
}

impl Allowed {
    /// Runs one wait for the endpoint, from which the last byte came at `heard`. A wait that is given up and begun anew is no
    /// longer for it.
    async fn limit<T>(
        self,
        phase: RemotePhase,
        heard: Instant,
        work: impl Future<Output = Result<T, RemoteError>>,
    ) -> Result<T, RemoteError> {
        tokio::select! {
            biased;
            done = work => done,
            () = passed(self.deadline) => Err(RemoteError::Deadline { phase }),
            () = passed(heard.checked_add(self.stall)) => Err(RemoteError::Stalled { limit: self.stall }),
        }
    }

    /// What is left until the deadline.
    pub(super) fn left(self) -> Option<Duration> {
        Some(self.deadline?.saturating_duration_since(now()))
    }
}

/// The moment, by the clock of the runtime.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Resolves at the deadline; without one, never.
pub(super) async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// A request.
pub(super) struct Sent {
    pub(super) method: Method,
    /// The whole address.
    pub(super) url: String,
    pub(super) body: String,
    pub(super) accept: &'static str,
}

/// Sends requests to one endpoint.
pub(super) struct Transport {
    client: Client<Connector, String>,
    key: Option<Key>,
}

/// The key that the endpoint wants.
struct Key {
    file: PathBuf,
    current: RwLock<Arc<Secret>>,
}

impl Key {
    fn open(file: PathBuf) -> Result<Self, EndpointError> {
        warn_if_exposed(&file);
        let current = RwLock::new(Arc::new(read_key(&file)?));
        Ok(Self { file, current })
    }

    fn current(&self) -> Arc<Secret> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the file again, and says whether the key is another one now than the one that was refused. Another request that was
    /// refused may have read it before.
    fn renew(&self, refused: &Secret) -> bool {
        let read = read_key(&self.file);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if let Ok(read) = read {
            *current = Arc::new(read);
        }
        **current != *refused
    }
}

fn read_key(file: &Path) -> Result<Secret, EndpointError> {
    let failed = |reason: String| EndpointError::Key {
        path: file.to_owned(),
        reason,
    };
    let text = Secret::new(files::read_text(file, KEY_BYTES).map_err(|error| failed(error.to_string()))?);
    let key = text.expose().trim();
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(failed("it has no key, or more than one line".to_owned()));
    }
    Ok(Secret::new(key.to_owned()))
}

impl Transport {
    pub(super) fn new(options: &EndpointOptions) -> Result<Self, EndpointError> {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(options.concurrency)
            .http1_max_buf_size(BUFFER_BYTES)
            .build(Connector::new(options)?);
        let key = options.key_file.clone().map(Key::open).transpose()?;
        Ok(Self { client, key })
    }

    /// Sends a request, and returns an answer with status 200 when its headers are there.
    pub(super) async fn send(
        &self,
        sent: &Sent,
        allowed: Allowed,
    ) -> Result<Response<Incoming>, RemoteError> {
        let used = self.key.as_ref().map(Key::current);
        let answer = self.send_once(sent, used.as_deref(), allowed).await?;
        // A key that was replaced is read again, so that nothing has to be restarted for it.
        let is_refused = answer.status() == StatusCode::UNAUTHORIZED;
        let answer = match (&self.key, &used) {
            (Some(key), Some(refused)) if is_refused && key.renew(refused) => {
                let renewed = key.current();
                self.send_once(sent, Some(renewed.as_ref()), allowed).await?
            }
            _ => answer,
        };
        match answer.status() {
            StatusCode::OK => Ok(answer),
            _ => Err(self.refusal(answer, allowed).await),
        }
    }

    async fn send_once(
        &self,
        sent: &Sent,
        key: Option<&Secret>,
        allowed: Allowed,
    ) -> Result<Response<Incoming>, RemoteError> {
        let mut request = Request::builder()
            .method(&sent.method)
            .uri(&sent.url)
            .header(ACCEPT, sent.accept);
        if sent.method == Method::POST {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(left) = allowed.left() {
            request = request.header(
                TIMEOUT,
                u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1),
            );
        }
        if let Some(key) = key {
            let bearer = format!("Bearer {}", key.expose());
            let mut value = HeaderValue::from_str(&bearer)
                .map_err(|_| RemoteError::malformed("the key cannot be sent in a header"))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let request = request
            .body(sent.body.clone())
            .map_err(|_| RemoteError::malformed("the request cannot be sent"))?;
        let answered = async {
            self.client
                .request(request)
                .await
                .map_err(|error| failure(&error))
        };
        allowed.limit(RemotePhase::Prefill, now(), answered).await
    }

    /// The error of an answer that is no success. Its body is read only for the name of the error.
    async fn refusal(&self, answer: Response<Incoming>, allowed: Allowed) -> RemoteError {
        #[derive(Deserialize)]
        struct Body {
            error: ErrorBody,
        }
        let code = answer.status().as_u16();
        let retry_after = answer.headers().get(RETRY_AFTER).and_then(retry_after);
        let mut body = AnswerBody::new(answer, ERROR_BYTES);
        let read = body.read_all(allowed, RemotePhase::Prefill).await;
        let kind = read
            .ok()
            .and_then(|body| json::read::<Body>(&body).ok()?.error.name());
        RemoteError::Status {
            code,
            kind,
            retry_after,
        }
    }
}

/// A number of seconds. Dates are ignored, because clocks differ.
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let seconds: u64 = value.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER))
}

fn failure(error: &Error) -> RemoteError {
    if !error.is_connect() {
        return RemoteError::Broken;
    }
    let cause = std::error::Error::source(error);
    match cause.and_then(|cause| cause.downcast_ref::<ConnectFailure>()) {
        Some(ConnectFailure::Tls(reason)) => RemoteError::Tls {
            reason: reason.clone(),
        },
        Some(ConnectFailure::Tcp(reason)) => RemoteError::Connect {
            reason: reason.clone(),
        },
        None => RemoteError::Connect {
            reason: cause.map_or_else(|| error.to_string(), with_causes),
        },
    }
}

/// The body of an answer. Dropping it before its end closes the connection, at which engines stop computing.
pub(super) struct AnswerBody {
    body: Incoming,
    left: usize,
    limit: usize,
    /// When the last byte came.
    heard: Instant,
}

impl AnswerBody {
    /// A body of at most `limit` bytes.
    pub(super) fn new(answer: Response<Incoming>, limit: usize) -> Self {
        Self {
            body: answer.into_body(),
            left: limit,
            limit,
            heard: now(),
        }
    }

    /// The next bytes; `None` at the end.
    pub(super) async fn next(
        &mut self,
        allowed: Allowed,
        phase: RemotePhase,
    ) -> Result<Option<Bytes>, RemoteError> {
        let frame = async {
            loop {
                let frame = poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await;
                match frame.transpose().map_err(|_| RemoteError::Broken)? {
                    None => return Ok(None),
                    // Trailers say nothing here.
                    Some(frame) => match frame.into_data() {
                        Ok(data) if !data.is_empty() => return Ok(Some(data)),
                        Ok(_) | Err(_) => {}
                    },
                }
            }
        };
        let Some(data) = allowed.limit(phase, self.heard, frame).await? else {
            return Ok(None);
        };
        self.heard = now();
        self.left = self.left.checked_sub(data.len()).ok_or(RemoteError::TooLarge {
            what: "the body of its answer",
            limit: self.limit,
        })?;
        Ok(Some(data))
    }

    /// All bytes.
    pub(super) async fn read_all(
        &mut self,
        allowed: Allowed,
        phase: RemotePhase,
    ) -> Result<Vec<u8>, RemoteError> {
        let mut all = Vec::new();
        while let Some(bytes) = self.next(allowed, phase).await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }
}
