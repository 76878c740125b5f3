//! One endpoint: requests to it, their retries, and what it says of itself.

use std::{
    fmt,
    future::Future,
    time::{Duration, Instant},
};

use http::{Method, header::CONTENT_TYPE};
use tokio::time::sleep;

use super::{
    answer_stream::{AnswerStream, RemoteTimes},
    body,
    describe::{self, Described, EndpointDescription},
    error::{EndpointError, RemoteError, RemotePhase},
    gate::{EndpointLoad, Gate, Pass},
    logprobs::{self, LogprobsAnswer},
    options::EndpointOptions,
    request::{LogprobsRequest, RemoteRequest},
    transport::{Allowed, AnswerBody, Sent, Transport, now, passed},
};

/// How often a request is sent at most.
const ATTEMPTS: u32 = 4;

/// The pause before the second attempt; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Most bytes of a stream for each token of its answer, and for all that is said besides.
const BYTES_PER_TOKEN: usize = 16 << 10;
const BYTES_BESIDE: usize = 1 << 20;

/// Most bytes of an answer with log-probabilities.
const LOGPROBS_BYTES: usize = 4 << 20;

/// Asks one endpoint. Requests share its connections, and wait here for their turn.
pub struct RemoteEndpoint {
    options: EndpointOptions,
    transport: Transport,
    gate: Gate,
    described: Described,
}

impl fmt::Debug for RemoteEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RemoteEndpoint").field(&self.options).finish()
    }
}

impl RemoteEndpoint {
    /// Reads key and authorities. The endpoint is not asked for anything.
    ///
    /// # Errors
    /// When a file cannot be used.
    pub fn new(options: EndpointOptions) -> Result<Self, EndpointError> {
        Ok(Self {
            transport: Transport::new(&options)?,
            gate: Gate::new(&options.id, options.concurrency, options.queue),
            described: Described::default(),
            options,
        })
    }

    /// Where it is and how it is asked.
    pub fn options(&self) -> &EndpointOptions {
        &self.options
    }

    /// How many requests it has.
    pub fn load(&self) -> EndpointLoad {
        self.gate.load()
    }

    /// What it says of itself; asked anew once a minute at most. What it does not answer within seconds is absent.
    pub async fn description(&self) -> EndpointDescription {
        self.described.get(&self.transport, &self.options).await
    }

    /// What it said of itself when it was last asked, which may be nothing.
    pub fn known_description(&self) -> EndpointDescription {
        self.described.known()
    }

    /// Asks it what it is.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn describe(&self) -> Result<EndpointDescription, RemoteError> {
        describe::read(&self.transport, &self.options).await
    }

    /// Asks for an answer, and returns it when its first piece is there. Tries again where that may help, until the deadline.
    /// Dropping the future or the answer closes the connection.
    ///
    /// # Errors
    /// Every error of [`RemoteError`] but [`RemoteError::NoLogprobs`].
    pub async fn answer(
        &self,
        request: &RemoteRequest,
        deadline: Option<Instant>,
    ) -> Result<AnswerStream, RemoteError> {
        let began = now();
        let allowed = self.allowed(deadline);
        let pass = self.enter(deadline).await?;
        let entered = now();
        let sent = self.sent(
            body::path(&request.prompt),
            body::of_answer(&self.options.model, request)?,
            "text/event-stream",
        );
        let limit = request
            .max_tokens
            .saturating_mul(BYTES_PER_TOKEN)
            .saturating_add(BYTES_BESIDE);
        let stream = self.retried(allowed, || async {
            let answer = self.transport.send(&sent, allowed).await?;
            let kind = answer.headers().get(CONTENT_TYPE);
            let is_stream = kind
                .and_then(|kind| kind.to_str().ok())
                .is_some_and(|kind| kind.starts_with("text/event-stream"));
            if !is_stream {
                return Err(RemoteError::malformed("it is no stream of events"));
            }
            AnswerStream::open(AnswerBody::new(answer, limit), request.max_tokens, allowed).await
        });
        let stream = stream.await?;
        let times = RemoteTimes {
            queue: entered.saturating_duration_since(began),
            prefill: now().saturating_duration_since(entered),
        };
        Ok(stream.admitted(pass, times))
    }

    /// Asks for an answer with the log-probabilities of its tokens. Tries again as for an answer.
    ///
    /// # Errors
    /// [`RemoteError::NoLogprobs`] where it gives none, and every other.
    pub async fn logprobs(
        &self,
        request: &LogprobsRequest,
        deadline: Option<Instant>,
    ) -> Result<LogprobsAnswer, RemoteError> {
        let began = now();
        let allowed = self.allowed(deadline);
        let _pass = self.enter(deadline).await?;
        let entered = now();
        let sent = self.sent(
            body::path(&request.prompt),
            body::of_logprobs(&self.options.model, request)?,
            "application/json",
        );
        let body = self.retried(allowed, || async {
            let answer = self.transport.send(&sent, allowed).await?;
            let mut body = AnswerBody::new(answer, LOGPROBS_BYTES);
            body.read_all(allowed, RemotePhase::Prefill).await
        });
        let body = body.await?;
        let times = RemoteTimes {
            queue: entered.saturating_duration_since(began),
            prefill: now().saturating_duration_since(entered),
        };
        logprobs::read(&body, request.max_tokens, times)
    }

    fn allowed(&self, deadline: Option<Instant>) -> Allowed {
        Allowed {
            deadline,
            stall: self.options.stall,
        }
    }

    fn sent(&self, path: &str, body: String, accept: &'static str) -> Sent {
        Sent {
            method: Method::POST,
            url: self.options.url.below(path),
            body,
            accept,
        }
    }

    async fn enter(&self, deadline: Option<Instant>) -> Result<Pass, RemoteError> {
        tokio::select! {
            biased;
            pass = self.gate.enter() => pass,
            () = passed(deadline) => Err(RemoteError::Deadline { phase: RemotePhase::Queue }),
        }
    }

    /// Makes attempts until one succeeds, one fails in a way that another would too, or there is no time for another: the endpoint
    /// may ask for no longer pause than it may be silent. The place among the open requests is kept meanwhile, so that an endpoint
    /// which is busy gets no more requests.
    async fn retried<T, F>(&self, allowed: Allowed, mut attempt: impl FnMut() -> F) -> Result<T, RemoteError>
    where
        F: Future<Output = Result<T, RemoteError>>,
    {
        let mut pause = FIRST_PAUSE;
        for number in 1.. {
            let error = match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let wait = match &error {
                RemoteError::Status {
                    retry_after: Some(wait),
                    ..
                } => pause.max(*wait),
                _ => pause,
            };
            let has_time = wait <= allowed.stall && allowed.left().is_none_or(|left| wait < left);
            if number >= ATTEMPTS || !error.is_retryable() || !has_time {
                return Err(error);
            }
            tracing::debug!(
                model = self.options.id.as_str(),
                error = %error,
                attempt = number,
                "an endpoint is asked again"
            );
            sleep(wait).await;
            pause *= 2;
        }
        // There are not that many numbers.
        Err(RemoteError::Broken)
    }
}
