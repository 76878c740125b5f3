//! Connections of the HTTP port: how many, how long they may be silent or idle, and hostile input on them.

use std::time::Duration;

use babelward::{
    proto,
    rpc::{Limits, ServerOptions, TimeLimits},
};
use tokio::net::TcpStream;

use crate::{
    rig::Rig,
    support::{BREAD, CLASSIFY, Client, RawStream, address, start, with},
};

const SHORT: Duration = Duration::from_millis(50);

async fn rig(connections: usize, times: TimeLimits) -> Rig {
    with(ServerOptions {
        limits: Limits {
            connections,
            ..Limits::default()
        },
        times,
        ..ServerOptions::default()
    })
    .await
}

fn request(more: &str) -> String {
    format!(
        "POST {CLASSIFY} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{more}content-length: {}\r\n\r\n{BREAD}",
        BREAD.len()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_kept_for_many_requests() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    for _ in 0..50 {
        assert_eq!(client.post(CLASSIFY, BREAD).await.status.as_u16(), 200);
    }
    // Several at once on one connection are answered in their order, and the last one asks to close.
    let mut stream = RawStream::connect(&rig).await;
    let all = format!(
        "{}{}{}",
        request(""),
        request(""),
        request("connection: close\r\n")
    );
    stream.say(all.as_bytes()).await;
    let said = stream.rest().await;
    assert_eq!(said.matches("HTTP/1.1 200 OK").count(), 3, "{said}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_do_not_come_to_their_end_are_given_up() {
    let times = TimeLimits {
        handshake: SHORT,
        ..TimeLimits::default()
    };
    let rig = rig(100, times).await;
    for said in ["", "POST", "POST / HTTP/1.1\r\nhost: localhost\r\n"] {
        let mut stream = RawStream::connect(&rig).await;
        stream.say(said.as_bytes()).await;
        assert_eq!(stream.rest().await, "");
    }
    // So are those of a second request.
    let mut stream = RawStream::connect(&rig).await;
    stream.say(request("").as_bytes()).await;
    assert!(stream.answer().await.starts_with("HTTP/1.1 200"));
    stream.say(b"POST").await;
    assert_eq!(stream.rest().await, "");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_closed_in_time() {
    let times = TimeLimits {
        connection_idle: SHORT,
        ..TimeLimits::default()
    };
    let rig = rig(100, times).await;
    let mut stream = RawStream::connect(&rig).await;
    stream.say(request("").as_bytes()).await;
    let said = stream.rest().await;
    assert!(
        said.starts_with("HTTP/1.1 200") && !said.contains("connection: close"),
        "{said}"
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_connections_are_closed_after_their_request() {
    let times = TimeLimits {
        connection_age: Some(SHORT),
        ..TimeLimits::default()
    };
    let rig = rig(100, times).await;
    rig.gate.close();
    let mut stream = RawStream::connect(&rig).await;
    stream.say(request("").as_bytes()).await;
    rig.blocked().await;
    tokio::time::sleep(2 * SHORT).await;
    rig.gate.open();
    let said = stream.rest().await;
    assert!(
        said.starts_with("HTTP/1.1 200") && said.contains("connection: close"),
        "{said}"
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_sockets_do_not_keep_callers_out() {
    let rig = rig(16, TimeLimits::default()).await;
    rig.gate.close();
    let mut busy = Client::connect(address(&rig)).await;
    let open = tokio::spawn(async move { busy.post(CLASSIFY, BREAD).await });
    rig.blocked().await;
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(TcpStream::connect(address(&rig)).await.unwrap());
    }
    let mut client = Client::connect(address(&rig)).await;
    let models = client.post("/babelward.v1.ModelService/ListModels", "{}").await;
    assert_eq!(models.status.as_u16(), 200);
    // Both ports have one limit: callers of gRPC get in as well.
    let listed = rig
        .models()
        .await
        .list_models(proto::ListModelsRequest::default())
        .await;
    listed.unwrap();
    rig.gate.open();
    assert_eq!(
        open.await.unwrap().status.as_u16(),
        200,
        "one that has a request is not the one that goes"
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_with_requests_are_kept_and_more_are_refused() {
    let rig = rig(2, TimeLimits::default()).await;
    rig.gate.close();
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(address(&rig)).await;
        open.push(tokio::spawn(async move { client.post(CLASSIFY, BREAD).await }));
    }
    crate::rig::eventually("both are with the engine", || {
        let stats = rig.stats();
        stats.queued + stats.running >= 2
    })
    .await;
    let mut third = RawStream::connect(&rig).await;
    assert_eq!(third.rest().await, "");
    rig.gate.open();
    for answer in open {
        assert_eq!(answer.await.unwrap().status.as_u16(), 200);
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_is_closed() {
    let rig = start().await;
    // These would be answered but for what is wrong with them.
    let large = request(&format!("x: {}\r\n", "x".repeat(64 << 10)));
    let many = request(&"x: y\r\n".repeat(1000));
    let two_lengths = request("content-length: 1\r\n");
    let with_length = |length: &str| {
        format!(
            "POST {CLASSIFY} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{length}\r\n\r\n{BREAD}"
        )
    };
    let negative = with_length("content-length: -1");
    let no_chunk = with_length("transfer-encoding: chunked");
    for said in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}",
        "GET\r\n\r\n",
        "POST / HTTP/9.9\r\n\r\n",
        &large,
        &many,
        &two_lengths,
        &negative,
        &no_chunk,
    ] {
        let mut stream = RawStream::connect(&rig).await;
        // The server may close before it has read all.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream.0, said.as_bytes()).await;
        let answer = stream.rest().await;
        assert!(!answer.contains("HTTP/1.1 2"), "{said:?}: {answer}");
    }
    let mut client = Client::connect(address(&rig)).await;
    assert_eq!(client.post(CLASSIFY, BREAD).await.status.as_u16(), 200);
    rig.stop().await;
}
