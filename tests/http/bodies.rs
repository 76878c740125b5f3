//! Bodies of requests: how large they may be, how many values they may have, and how much memory they share.

use babelward::rpc::{Limits, ServerOptions, TimeLimits};
use serde_json::json;

use crate::support::{BREAD, CLASSIFY, Client, RawStream, address, start, with};

fn limited(message_bytes: usize, request_bytes: usize) -> ServerOptions {
    ServerOptions {
        limits: Limits {
            message_bytes,
            request_bytes,
            ..Limits::default()
        },
        ..ServerOptions::default()
    }
}

/// A Classify whose text has so many bytes.
fn of_bytes(bytes: usize) -> String {
    json!({"conversation": {"messages": [{"role": "ROLE_USER", "content": "x".repeat(bytes)}]}}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_refused_announced_or_not() {
    let rig = with(limited(4 << 10, 1 << 20)).await;
    let mut client = Client::connect(address(&rig)).await;
    assert_eq!(
        client.post(CLASSIFY, &of_bytes(3 << 10)).await.status.as_u16(),
        200
    );
    let answer = client.post(CLASSIFY, &of_bytes(4 << 10)).await;
    assert_eq!(answer.reason(400), "MESSAGE_TOO_LARGE");
    // In pieces, without a length.
    let mut chunked = RawStream::connect(&rig).await;
    let head = format!(
        "POST {CLASSIFY} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    chunked.say(head.as_bytes()).await;
    for _ in 0..5 {
        chunked
            .say(format!("400\r\n{}\r\n", " ".repeat(1024)).as_bytes())
            .await;
    }
    let said = chunked.answer().await;
    assert!(said.contains("MESSAGE_TOO_LARGE"), "{said}");
    // One that has sent all of it may go on.
    chunked.say(b"0\r\n\r\n").await;
    chunked
        .say(b"POST /nowhere HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n")
        .await;
    assert!(chunked.answer().await.starts_with("HTTP/1.1 404"));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_counted_before_they_are_read() {
    let rig = with(limited(1 << 20, 4 << 20)).await;
    let mut client = Client::connect(address(&rig)).await;
    // A quarter of 4 MiB, in values of 64 bytes.
    let most = (4 << 20) / 4 / 64;
    let many = |count: usize| {
        format!(
            r#"{{"conversation":{{"messages":[{}]}}}}"#,
            vec!["{}"; count].join(",")
        )
    };
    let answer = client.post(CLASSIFY, &many(most)).await;
    assert_eq!(
        (answer.reason(400), answer.fields()),
        ("INVALID_FIELDS".to_owned(), vec!["body".to_owned()])
    );
    assert!(answer.json()["message"].as_str().unwrap().contains("values"));
    // Fewer are read, and the service has a limit of its own.
    let answer = client.post(CLASSIFY, &many(100)).await;
    assert_eq!(answer.reason(400), "INVALID_FIELDS");
    assert_eq!(answer.fields()[0], "conversation.messages");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_that_is_too_deep_is_refused() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    for deep in [
        "[".repeat(100_000),
        format!(r#"{{"conversation":{}"#, "[".repeat(100_000)),
        r#"{"conversation":"#.repeat(10_000),
    ] {
        let answer = client.post(CLASSIFY, &deep).await;
        assert_eq!(answer.reason(400), "INVALID_FIELDS");
    }
    assert_eq!(client.post(CLASSIFY, BREAD).await.status.as_u16(), 200);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_share_one_budget_with_the_requests_of_grpc() {
    let rig = with(limited(1 << 20, 4 << 20)).await;
    let mut held = Vec::new();
    // Large ones may take three quarters: four times 1,000,000 bytes do not fit.
    for _ in 0..4 {
        let mut stream = RawStream::connect(&rig).await;
        let head = format!(
            "POST {CLASSIFY} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000001\r\n\r\n"
        );
        stream.say(head.as_bytes()).await;
        stream.say(&vec![b' '; 1_000_000]).await;
        held.push(Box::pin(async move { stream.answer().await }));
    }
    let (said, _, held) = futures::future::select_all(held).await;
    assert!(
        said.starts_with("HTTP/1.1 429") && said.contains("REQUEST_MEMORY"),
        "{said}"
    );
    // Ordinary ones get in.
    let mut client = Client::connect(address(&rig)).await;
    assert_eq!(client.post(CLASSIFY, BREAD).await.status.as_u16(), 200);
    drop(held);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_early_leaves_nothing_behind() {
    let rig = with(ServerOptions {
        times: TimeLimits::default(),
        ..limited(1 << 20, 4 << 20)
    })
    .await;
    for _ in 0..20 {
        let mut stream = RawStream::connect(&rig).await;
        let head = format!(
            "POST {CLASSIFY} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000001\r\n\r\n"
        );
        stream.say(head.as_bytes()).await;
        stream.say(&vec![b' '; 1_000_000]).await;
    }
    // All of them together had five times the budget.
    let mut client = Client::connect(address(&rig)).await;
    let large = of_bytes(200 << 10);
    loop {
        let answer = client.post(CLASSIFY, &large).await;
        match answer.status.as_u16() {
            429 => assert_eq!(answer.reason(429), "REQUEST_MEMORY"),
            400 => {
                assert_eq!(answer.reason(400), "INPUT_TOO_LONG");
                break;
            }
            other => panic!("{other}: {answer:?}"),
        }
    }
    rig.stop().await;
}
