//! The port that Prometheus and probes read. It serves three paths over HTTP/1, with TLS or without: `/metrics`, `/healthz`,
//! which says what gRPC health says of the server as a whole, or of one service (`/healthz?service=NAME`), and `/livez`,
//! which answers while the process runs.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use ::http::{
    Method, Request, Response, StatusCode,
    header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
    time::{sleep, timeout},
};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::{ServiceHealth, metrics_connections::OpenConnections};
use crate::{
    auth::{Authenticator, Scope, count_refusal},
    tls::{PeerCertificate, ServerTls},
};

/// How long a peer may take to send a request, the first time and between two requests.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// How long a connection may be open before its current request is its last one. That one may take [`REQUEST_TIME`] more, so
/// that a peer that does not read its answer does not keep it in memory.
const CONNECTION_TIME: Duration = Duration::from_secs(60);

/// Most bytes of a request.
const REQUEST_BYTES: usize = 16 << 10;

/// How long to wait after the system could not accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The content type of Prometheus's text format.
const TEXT_FORMAT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// How the port is protected, and what it says of the server's health.
#[derive(Clone)]
pub struct MetricsOptions {
    /// TLS, if the port speaks it.
    pub tls: Option<Arc<ServerTls>>,
    /// Says who may read the metrics; everybody may if absent. Health is told to everybody.
    pub readers: Option<Arc<Authenticator>>,
    /// Which services serve.
    pub health: watch::Receiver<ServiceHealth>,
    /// Sets the gauges that are only looked up when somebody reads them.
    pub refresh: Refresh,
}

/// Sets gauges before they are read. What sets them is known only after the port is open.
#[derive(Clone, Default)]
pub struct Refresh(Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>);

impl Refresh {
    /// Gauges are set by `set` from now on. The first one counts.
    pub fn by(&self, set: impl Fn() + Send + Sync + 'static) {
        let _already_there = self.0.set(Box::new(set));
    }

    /// Sets the gauges.
    pub(super) fn call(&self) {
        if let Some(set) = self.0.get() {
            set();
        }
    }
}

/// The socket to serve on. For port 0, the system chooses a free one.
pub(super) fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Answers requests with the result of `render`, for as long as this future is polled.
pub(super) async fn serve(
    listener: TcpListener,
    options: MetricsOptions,
    render: impl Fn() -> String + Send + Sync + 'static,
) {
    let (render, options) = (Arc::new(render), Arc::new(options));
    let mut open: OpenConnections<AbortHandle> = OpenConnections::new();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok((stream, peer)) => (stream, peer.ip()),
            Err(error) => {
                tracing::debug!(%error, "no connection can be accepted on the metrics port");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        open.retain(|connection| !connection.is_finished());
        if let Some(closed) = open.make_room(peer) {
            closed.abort();
        }
        let (render, options) = (Arc::clone(&render), Arc::clone(&options));
        let connection = async move {
            let secured = timeout(REQUEST_TIME, secured(stream, options.tls.as_deref()));
            let Ok(Some((stream, certificate))) = secured.await else {
                return;
            };
            let answers = service_fn(|request: Request<Incoming>| {
                let answer = answer(&request, certificate.as_ref(), &options, render.as_ref());
                std::future::ready(Ok::<_, Infallible>(answer))
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIME)
                .max_buf_size(REQUEST_BYTES)
                .serve_connection(TokioIo::new(stream), answers);
            let mut served = pin!(served);
            let ended = tokio::select! {
                ended = served.as_mut() => ended,
                () = sleep(CONNECTION_TIME) => {
                    served.as_mut().graceful_shutdown();
                    timeout(REQUEST_TIME, served).await.unwrap_or(Ok(()))
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection of the metrics port failed");
            }
        };
        open.push(peer, tokio::spawn(connection).abort_handle());
    }
}

/// A stream as it is read: the decrypted one, if the port speaks TLS.
type Secured = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// The stream as it is read, and the certificate that the peer has shown. `None` if the port speaks TLS and the peer does not.
async fn secured(stream: TcpStream, tls: Option<&ServerTls>) -> Option<(Secured, Option<PeerCertificate>)> {
    let Some(tls) = tls else {
        return Some((Either::Left(stream), None));
    };
    match tls.metrics().accept(stream).await {
        Ok(stream) => {
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let certificate = shown.and_then(PeerCertificate::read);
            Some((Either::Right(Box::new(stream)), certificate))
        }
        Err(error) => {
            tracing::debug!(%error, "a connection of the metrics port failed");
            None
        }
    }
}

/// What is served.
#[derive(Debug, Clone, Copy)]
enum Page {
    Metrics,
    Health,
    Life,
}

impl Page {
    fn of_path(path: &str) -> Option<Self> {
        match path {
            "/metrics" => Some(Self::Metrics),
            "/healthz" => Some(Self::Health),
            "/livez" => Some(Self::Life),
            _ => None,
        }
    }
}

fn answer<B>(
    request: &Request<B>,
    certificate: Option<&PeerCertificate>,
    options: &MetricsOptions,
    render: impl Fn() -> String,
) -> Response<String> {
    let Some(page) = Page::of_path(request.uri().path()) else {
        return text(
            StatusCode::NOT_FOUND,
            "only /metrics, /healthz and /livez are served here\n",
        );
    };
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "");
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match page {
        Page::Life => text(StatusCode::OK, "ALIVE\n"),
        Page::Health => health(request.uri().query(), &options.health.borrow()),
        Page::Metrics => match refusal(request.headers(), certificate, options) {
            Some(refusal) => refusal,
            None => {
                if let Some(tls) = &options.tls {
                    metrics::gauge!("babelward_tls_certificate_seconds_left")
                        .set(tls.seconds_left(SystemTime::now()));
                }
                let mut response = Response::new(render());
                response.headers_mut().insert(CONTENT_TYPE, TEXT_FORMAT);
                response
            }
        },
    }
}

/// Says whether the service serves that the query names, or the server as a whole.
fn health(query: Option<&str>, health: &ServiceHealth) -> Response<String> {
    let service = match query {
        None | Some("") => "",
        Some(query) => match query.strip_prefix("service=") {
            Some(service) => service,
            None => {
                return text(
                    StatusCode::BAD_REQUEST,
                    "ask for /healthz or /healthz?service=NAME\n",
                );
            }
        },
    };
    match health.serves(service) {
        Some(true) => text(StatusCode::OK, "SERVING\n"),
        Some(false) => text(StatusCode::SERVICE_UNAVAILABLE, "NOT_SERVING\n"),
        None => text(StatusCode::NOT_FOUND, "the server has no such service\n"),
    }
}

/// Why a caller may not read the metrics; `None` if it may.
fn refusal(
    headers: &HeaderMap,
    certificate: Option<&PeerCertificate>,
    options: &MetricsOptions,
) -> Option<Response<String>> {
    let readers = options.readers.as_ref()?;
    let values = headers.get_all(AUTHORIZATION).iter();
    match readers.identify(values.map(HeaderValue::as_bytes), certificate, SystemTime::now()) {
        Ok(principal) if principal.scopes.has_any(&[Scope::Metrics]) => None,
        Ok(_) => {
            count_refusal("scope");
            let says = "the credential does not have the scope metrics\n";
            Some(text(StatusCode::FORBIDDEN, says))
        }
        Err(rejection) => {
            count_refusal(rejection.name());
            let says = "send `authorization: Bearer KEY` with a key or token that has the scope metrics, or show a \
                        certificate that has it\n";
            let mut response = text(StatusCode::UNAUTHORIZED, says);
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
            Some(response)
        }
    }
}

fn text(status: StatusCode, body: &str) -> Response<String> {
    let mut response = Response::new(body.to_owned());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
#[path = "metrics_port_tests.rs"]
mod tests;
