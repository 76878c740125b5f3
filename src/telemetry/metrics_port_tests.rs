//! The metrics port, asked over sockets.

use super::{super::metrics_connections::PEER_CONNECTIONS, *};
use crate::{
    auth::{CredentialFiles, NewKey, append_key, generate_key},
    engine::Tenant,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn started() -> SocketAddr {
    started_with(None).await.0
}

/// A port, and the other end of its health.
async fn started_with(readers: Option<Authenticator>) -> (SocketAddr, watch::Sender<ServiceHealth>) {
    let (listener, options, health) = ready(readers);
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, options, || "babelward_test 1\n".to_owned()));
    (address, health)
}

fn ready(readers: Option<Authenticator>) -> (TcpListener, MetricsOptions, watch::Sender<ServiceHealth>) {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (sender, health) = watch::channel(ServiceHealth::from_iter([("", true)]));
    let options = MetricsOptions {
        tls: None,
        readers: readers.map(Arc::new),
        health,
        refresh: Refresh::default(),
    };
    (listener, options, sender)
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
        // Another service says the opposite.
        health.send_replace(ServiceHealth::from_iter([("", serving), ("a.B", !serving)]));
        for line in ["GET /healthz", "GET /healthz?service="] {
            let answer = response(address, line).await;
            assert!(answer.starts_with(says), "{answer}");
        }
        let answer = response(address, "GET /healthz?service=a.B").await;
        assert!(!answer.starts_with(says), "{answer}");
        let alive = response(address, "GET /livez").await;
        assert!(alive.starts_with("HTTP/1.1 200"), "{alive}");
    }
}

#[tokio::test]
async fn health_is_told_of_services_that_are_there() {
    let (address, health) = started_with(None).await;
    for (path, status) in [
        ("/healthz?service=a.B", "404"),
        ("/healthz?name=", "400"),
        ("/healthz?service=&service=", "404"),
    ] {
        let answer = response(address, &format!("GET {path}")).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{path}: {answer}"
        );
    }
    // Before the server has begun, it does not know its services.
    health.send_replace(ServiceHealth::default());
    let answer = response(address, "GET /healthz?service=a.B").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
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
    for _ in 0..3 * PEER_CONNECTIONS {
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

/// The socket of a peer with this address of this machine.
async fn connected_from(peer: [u8; 4], address: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((peer, 0).into()).unwrap();
    socket.connect(address).await.unwrap()
}

#[tokio::test]
async fn a_peer_with_many_connections_does_not_close_those_of_others() {
    let address = started().await;
    let mut probe = connected_from([127, 0, 0, 2], address).await;
    probe.write_all(b"GET /livez HTTP/1.1\r\nhost: te").await.unwrap();
    let mut many = Vec::new();
    for _ in 0..3 * PEER_CONNECTIONS {
        many.push(TcpStream::connect(address).await.unwrap());
    }
    // All of them have been accepted once the last one is answered.
    assert!(
        response(address, "GET /metrics")
            .await
            .starts_with("HTTP/1.1 200")
    );
    probe.write_all(b"st\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    probe.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_its_answer_is_closed_in_time() {
    const LONG: usize = 32 << 20;
    let (listener, options, _health) = ready(None);
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, options, || "x".repeat(LONG)));
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET /metrics HTTP/1.1\r\nhost: test\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 8];
    slow.read_exact(&mut first).await.unwrap();
    // The clock goes on by itself when nobody can do anything.
    sleep(CONNECTION_TIME + 2 * REQUEST_TIME).await;
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest).await;
    assert!(rest.len() < LONG, "{}", rest.len());
}

#[tokio::test]
async fn a_request_with_too_many_headers_is_refused() {
    let address = started().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /metrics HTTP/1.1\r\nhost: test\r\nx: {}\r\n\r\n",
        "x".repeat(4 * REQUEST_BYTES)
    );
    // The server may have closed before all of it is sent.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
}
