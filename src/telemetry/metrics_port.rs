//! The port that Prometheus reads. It serves `/metrics` over HTTP/1, and nothing else.

use std::{collections::VecDeque, convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use ::http::{
    Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, task::AbortHandle, time::sleep};

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

/// The socket to serve on. For port 0, the system chooses a free one.
pub(super) fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Answers requests with the result of `render`, for as long as this future is polled.
pub(super) async fn serve(listener: TcpListener, render: impl Fn() -> String + Send + Sync + 'static) {
    let render = Arc::new(render);
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
        let render = Arc::clone(&render);
        let connection = async move {
            let answers = service_fn(|request: Request<Incoming>| {
                let answer = answer(&request, render.as_ref());
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

fn answer<B>(request: &Request<B>, render: impl Fn() -> String) -> Response<String> {
    let mut response = Response::new(String::new());
    if request.uri().path() != "/metrics" {
        *response.status_mut() = StatusCode::NOT_FOUND;
        "only /metrics is served here; health is reported over gRPC (grpc.health.v1)\n"
            .clone_into(response.body_mut());
    } else if ![Method::GET, Method::HEAD].contains(request.method()) {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    } else {
        response.headers_mut().insert(CONTENT_TYPE, TEXT_FORMAT);
        *response.body_mut() = render();
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    async fn started() -> SocketAddr {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, || "babelward_test 1\n".to_owned()));
        address
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
        for line in ["GET /", "GET /healthz", "GET /metrics/x", "POST /healthz"] {
            let answer = response(address, line).await;
            assert!(answer.starts_with("HTTP/1.1 404"), "{line}: {answer}");
        }
        let posted = response(address, "POST /metrics").await;
        assert!(posted.starts_with("HTTP/1.1 405"), "{posted}");
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
