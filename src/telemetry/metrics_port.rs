//! The port that Prometheus and probes read. It serves three paths over HTTP/1, with TLS or without: `/metrics`, `/healthz`,
//! which says what gRPC health says of the server as a whole, and `/livez`, which answers while the process runs.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::SocketAddr,
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

use crate::{
    auth::{Authenticator, Scope},
    tls::ServerTls,
};

/// Most open connections. A reading takes milliseconds, so the oldest connection is closed for a new one.
const CONNECTIONS: usize = 32;

/// How long a peer may take to send a request, the first time and between two requests.
const REQUEST_TIME: Duration = Duration::from_secs(10);

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
    /// Whether the server as a whole is SERVING.
    pub serving: watch::Receiver<bool>,
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
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "no connection can be accepted on the metrics port");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        open.retain(|connection| !connection.is_finished());
        while open.len() >= CONNECTIONS {
            if let Some(oldest) = open.pop_front() {
                oldest.abort();
            }
        }
        let (render, options) = (Arc::clone(&render), Arc::clone(&options));
        let connection = async move {
            let Ok(Some(stream)) = timeout(REQUEST_TIME, secured(stream, options.tls.as_deref())).await
            else {
                return;
            };
            let answers = service_fn(|request: Request<Incoming>| {
                let answer = answer(&request, &options, render.as_ref());
                std::future::ready(Ok::<_, Infallible>(answer))
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIME)
                .max_buf_size(REQUEST_BYTES)
                .serve_connection(TokioIo::new(stream), answers);
            if let Err(error) = served.await {
                tracing::debug!(%error, "a connection of the metrics port failed");
            }
        };
        open.push_back(tokio::spawn(connection).abort_handle());
    }
}

/// The stream as it is read: the decrypted one, if the port speaks TLS. `None` if the peer does not.
async fn secured(
    stream: TcpStream,
    tls: Option<&ServerTls>,
) -> Option<Either<TcpStream, Box<TlsStream<TcpStream>>>> {
    let Some(tls) = tls else {
        return Some(Either::Left(stream));
    };
    match tls.metrics().accept(stream).await {
        Ok(stream) => Some(Either::Right(Box::new(stream))),
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
        Page::Health if *options.serving.borrow() => text(StatusCode::OK, "SERVING\n"),
        Page::Health => text(StatusCode::SERVICE_UNAVAILABLE, "NOT_SERVING\n"),
        Page::Metrics => match refusal(request.headers(), options) {
            Some(refusal) => refusal,
            None => {
                let mut response = Response::new(render());
                response.headers_mut().insert(CONTENT_TYPE, TEXT_FORMAT);
                response
            }
        },
    }
}

/// Why a caller may not read the metrics; `None` if it may.
fn refusal(headers: &HeaderMap, options: &MetricsOptions) -> Option<Response<String>> {
    let readers = options.readers.as_ref()?;
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().filter(|_| values.next().is_none());
    let found = readers.identify(value.map(HeaderValue::as_bytes), None, SystemTime::now());
    match found {
        Ok(principal) if principal.scopes.has_any(&[Scope::Metrics]) => None,
        Ok(_) => Some(text(
            StatusCode::FORBIDDEN,
            "the credential does not have the scope metrics\n",
        )),
        Err(_) => {
            let says = "send `authorization: Bearer KEY` with a key or token that has the scope metrics\n";
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
mod tests {
    use super::*;
    use crate::{
        auth::{CredentialFiles, NewKey, append_key, generate_key},
        engine::Tenant,
    };
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn started() -> SocketAddr {
        started_with(None).await.0
    }

    /// A port, and the other end of its health.
    async fn started_with(readers: Option<Authenticator>) -> (SocketAddr, watch::Sender<bool>) {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (health, serving) = watch::channel(true);
        let options = MetricsOptions {
            tls: None,
            readers: readers.map(Arc::new),
            serving,
            refresh: Refresh::default(),
        };
        tokio::spawn(serve(listener, options, || "babelward_test 1\n".to_owned()));
        (address, health)
    }

    /// Sends a request line and reads until the server closes.
    async fn response(address: SocketAddr, line: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{line} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn only_metrics_are_there() {
        let address = started().await;
        let found = response(address, "GET /metrics").await;
        assert!(found.starts_with("HTTP/1.1 200"), "{found}");
        assert!(found.ends_with("\r\n\r\nbabelward_test 1\n"), "{found}");
        assert!(
            found.contains("content-type: text/plain; version=0.0.4"),
            "{found}"
        );
        let head = response(address, "HEAD /metrics").await;
        assert!(
            head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"),
            "{head}"
        );
        for line in [
            "GET /",
            "GET /health",
            "GET /metrics/x",
            "GET /healthz/",
            "POST /metric",
        ] {
            let answer = response(address, line).await;
            assert!(answer.starts_with("HTTP/1.1 404"), "{line}: {answer}");
        }
        for line in ["POST /metrics", "POST /healthz", "PUT /livez"] {
            let answer = response(address, line).await;
            assert!(answer.starts_with("HTTP/1.1 405"), "{line}: {answer}");
        }
    }

    #[tokio::test]
    async fn health_is_what_grpc_health_says() {
        let (address, health) = started_with(None).await;
        for (serving, says) in [
            (true, "HTTP/1.1 200"),
            (false, "HTTP/1.1 503"),
            (true, "HTTP/1.1 200"),
        ] {
            health.send_replace(serving);
            let answer = response(address, "GET /healthz").await;
            assert!(answer.starts_with(says), "{answer}");
            let alive = response(address, "GET /livez").await;
            assert!(alive.starts_with("HTTP/1.1 200"), "{alive}");
        }
    }

    #[tokio::test]
    async fn metrics_need_the_scope_metrics_where_callers_need_credentials() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let key = |name: &str, scope: Scope| {
            let key = generate_key().unwrap();
            let entry = NewKey {
                id: name.to_owned(),
                tenant: Tenant::named(name).unwrap(),
                scopes: [scope].into_iter().collect(),
                expires: None,
            };
            append_key(&path, &key, &entry).unwrap();
            key.expose().to_owned()
        };
        let (reader, other) = (key("prometheus", Scope::Metrics), key("other", Scope::Admin));
        let credentials = CredentialFiles {
            keys: Some(path.clone()),
            tokens: None,
        };
        let (address, _health) = started_with(Some(Authenticator::open(credentials).unwrap())).await;
        let cases = [
            ("/metrics", format!("Bearer {reader}"), "200"),
            ("/metrics", format!("Bearer {other}"), "403"),
            ("/metrics", format!("Bearer {reader}x"), "401"),
            ("/metrics", String::new(), "401"),
            ("/healthz", String::new(), "200"),
            ("/livez", String::new(), "200"),
        ];
        for (path, authorization, status) in cases {
            let header = match authorization.as_str() {
                "" => String::new(),
                value => format!("authorization: {value}\r\n"),
            };
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n{header}connection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{path}: {answer}"
            );
            assert_eq!(
                answer.contains("babelward_test 1"),
                path == "/metrics" && status == "200"
            );
        }
    }

    #[tokio::test]
    async fn silent_connections_are_closed_for_new_ones() {
        let address = started().await;
        let mut silent = Vec::new();
        for _ in 0..3 * CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        assert!(
            response(address, "GET /metrics")
                .await
                .starts_with("HTTP/1.1 200")
        );
        // The first ones have been closed: nothing was ever sent, and reading ends.
        let mut rest = Vec::new();
        assert!(!matches!(silent[0].read_to_end(&mut rest).await, Ok(1..)));
    }

    #[tokio::test(start_paused = true)]
    async fn connections_without_a_request_in_time_are_closed() {
        let address = started().await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET /metr").await.unwrap();
        let mut rest = Vec::new();
        assert!(!matches!(slow.read_to_end(&mut rest).await, Ok(1..)), "{rest:?}");
    }
}
