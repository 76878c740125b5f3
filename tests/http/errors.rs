//! What a caller is told when its request is not answered.

use std::time::Duration;

use babelward::rpc::{Limits, ServerOptions};
use serde_json::json;

use crate::{
    rig::eventually,
    support::{BREAD, CLASSIFY, Client, address, post, start, with, with_header},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_request_is_told_with_its_place() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    let cases = [
        // The body, the field that is named, and a part of what is said.
        ("", "body", "EOF while parsing"),
        ("{", "body", "EOF while parsing"),
        ("[]", "body", "invalid type"),
        ("{} {}", "body", "trailing characters"),
        (r#"{"model":"a""#, "body", "EOF while parsing"),
        (r#"{"modell":"a"}"#, "modell", "unrecognized field name"),
        (r#"{"model":7}"#, "model", "invalid type: integer"),
        (
            r#"{"conversation":{"messages":[{"role":"ROLE_KING"}]}}"#,
            "conversation.messages[0].role",
            "ROLE_KING",
        ),
        (
            r#"{"conversation":{"messages":[{"rol":"ROLE_USER"}]}}"#,
            "conversation.messages[0].rol",
            "unrecognized field name",
        ),
        (r#"{"windows":{"tokens":-1}}"#, "windows.tokens", "out of range"),
    ];
    for (body, field, says) in cases {
        let answer = client.post(CLASSIFY, body).await;
        assert_eq!(answer.reason(400), "INVALID_FIELDS", "{body}");
        assert_eq!(answer.fields(), [field], "{body}");
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(says), "{body}: {message}");
        assert_eq!(answer.json()["code"], "invalid_argument");
    }
    // No text of a caller is in an error.
    let answer = client.post(CLASSIFY, r#"{"conversation":"my secret"}"#).await;
    assert_eq!(answer.fields(), ["conversation"]);
    assert!(
        !String::from_utf8_lossy(&answer.body).contains("secret"),
        "{answer:?}"
    );
    // The connection is still good.
    assert_eq!(client.post(CLASSIFY, BREAD).await.status.as_u16(), 200);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_request_is_told_all_of_its_violations() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    let request = json!({
        "conversation": {"messages": [{"role": "ROLE_USER"}, {"content": "hi"}]},
        "language": "x".repeat(100),
    });
    let answer = client.post(CLASSIFY, &request.to_string()).await;
    assert_eq!(answer.reason(400), "INVALID_FIELDS");
    let fields = answer.fields();
    for field in [
        "conversation.messages[0].content",
        "conversation.messages[1].role",
        "language",
    ] {
        assert!(fields.iter().any(|named| named == field), "{field}: {fields:?}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_and_policies_that_do_not_exist_are_not_found() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    let mut request: serde_json::Value = serde_json::from_str(BREAD).unwrap();
    request["model"] = "tiny-wart".into();
    let answer = client.post(CLASSIFY, &request.to_string()).await;
    assert_eq!(answer.reason(404), "MODEL_NOT_FOUND");
    assert_eq!(
        answer.detail("google.rpc.ErrorInfo")["metadata"]["didYouMean"],
        "tiny-ward"
    );
    assert_eq!(
        answer.detail("google.rpc.ResourceInfo")["resourceName"],
        "tiny-wart"
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_port_does_not_support_is_told() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    for path in [
        "/",
        "/babelward.v1.SafetyService/Classifi",
        "/babelward.v1.SafetyService",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ] {
        let answer = client.post(path, BREAD).await;
        assert_eq!(answer.reason(404), "HTTP_UNSUPPORTED", "{path}");
        assert_eq!(answer.json()["code"], "unimplemented");
    }
    for kind in [
        "text/plain",
        "application/grpc",
        "application/connect+json",
        "application/x-www-form-urlencoded",
    ] {
        let request = with_header(post(CLASSIFY, BREAD), "content-type", kind);
        assert_eq!(
            client.send(request).await.reason(415),
            "HTTP_UNSUPPORTED",
            "{kind}"
        );
    }
    let compressed = with_header(post(CLASSIFY, BREAD), "content-encoding", "gzip");
    assert_eq!(client.send(compressed).await.reason(415), "HTTP_UNSUPPORTED");
    let plain = with_header(post(CLASSIFY, BREAD), "content-encoding", "identity");
    assert_eq!(client.send(plain).await.status.as_u16(), 200);
    let version = |text: &str| with_header(post(CLASSIFY, BREAD), "connect-protocol-version", text);
    assert_eq!(client.send(version("1")).await.status.as_u16(), 200);
    let refused = client.send(version("2")).await;
    assert_eq!(
        (refused.reason(400), refused.fields()),
        (
            "INVALID_FIELDS".to_owned(),
            vec!["connect-protocol-version".to_owned()]
        )
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_the_request_and_its_work() {
    let rig = start().await;
    rig.gate.close();
    let mut client = Client::connect(address(&rig)).await;
    for name in ["connect-timeout-ms", "x-request-timeout-ms"] {
        let late = client.send(with_header(post(CLASSIFY, BREAD), name, "50")).await;
        assert_eq!(late.reason(504), "DEADLINE", "{name}");
        assert_eq!(late.json()["code"], "deadline_exceeded");
        let wrong = client
            .send(with_header(post(CLASSIFY, BREAD), name, "soon"))
            .await;
        assert_eq!(
            (wrong.reason(400), wrong.fields()),
            ("INVALID_FIELDS".to_owned(), vec![name.to_owned()])
        );
    }
    rig.gate.open();
    rig.idle().await;
    let early = with_header(post(CLASSIFY, BREAD), "connect-timeout-ms", "60000");
    assert_eq!(client.send(early).await.status.as_u16(), 200);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_drains_finishes_what_is_open_and_refuses_the_rest() {
    let mut rig = start().await;
    rig.gate.close();
    let mut busy = Client::connect(address(&rig)).await;
    let open = tokio::spawn(async move { busy.post(CLASSIFY, BREAD).await });
    rig.blocked().await;
    let mut idle = Client::connect(address(&rig)).await;
    assert_eq!(
        idle.post("/grpc.health.v1.Health/Check", "{}")
            .await
            .status
            .as_u16(),
        200
    );
    let port = address(&rig);
    let server = rig.begin_stop();
    eventually("the drain begins", || rig.registry.is_draining()).await;
    let mut late = Client::connect(port).await;
    let answer = late.post(CLASSIFY, BREAD).await;
    assert_eq!(answer.reason(503), "SERVER_DRAINING");
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(
        late.post("/grpc.health.v1.Health/Check", "{}").await.json(),
        json!({"status": "NOT_SERVING"})
    );
    // A connection that was open before the drain is closed when it has no request.
    while idle.try_send(post(CLASSIFY, BREAD)).await.is_ok() {}
    rig.gate.open();
    let finished = open.await.unwrap();
    assert_eq!(finished.status.as_u16(), 200);
    assert_eq!(finished.header("connection"), "close");
    server.await.unwrap().unwrap();
    assert!(
        tokio::net::TcpStream::connect(port).await.is_err(),
        "the port is closed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_open_requests_are_told_when_to_come_back() {
    let options = ServerOptions {
        limits: Limits {
            calls: 1,
            ..Limits::default()
        },
        ..ServerOptions::default()
    };
    let rig = with(options).await;
    rig.gate.close();
    let mut first = Client::connect(address(&rig)).await;
    let open = tokio::spawn(async move { first.post(CLASSIFY, BREAD).await });
    rig.blocked().await;
    let mut second = Client::connect(address(&rig)).await;
    let answer = second.post(CLASSIFY, BREAD).await;
    assert_eq!(answer.reason(429), "TOO_MANY_CALLS");
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(answer.detail("google.rpc.RetryInfo")["retryDelay"], "1s");
    // A health check is answered all the same.
    assert_eq!(
        second
            .post("/grpc.health.v1.Health/Check", "{}")
            .await
            .status
            .as_u16(),
        200
    );
    rig.gate.open();
    assert_eq!(open.await.unwrap().status.as_u16(), 200);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_hangs_up_has_its_work_stopped() {
    let rig = start().await;
    let request = json!({
        "generate": {
            "conversation": {"messages": [{"role": "ROLE_USER", "content": "babble"}]},
            "stopping": {"maxNewTokens": 3500},
            "sampling": {"seed": "1"},
        },
    });
    let mut client = Client::connect(address(&rig)).await;
    let open = tokio::spawn(async move {
        client
            .post("/babelward.v1.ScoringService/Score", &request.to_string())
            .await
    });
    eventually("the answer is being written", || rig.gate.passes() > 3).await;
    open.abort();
    let passes = rig.gate.passes();
    rig.idle().await;
    assert!(rig.gate.passes() - passes < 3000, "the work went on");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_for_a_request_is_part_of_its_deadline() {
    let options = ServerOptions {
        times: babelward::rpc::TimeLimits {
            receive: Duration::from_millis(50),
            ..Default::default()
        },
        ..ServerOptions::default()
    };
    let rig = with(options).await;
    // The headers announce more than is sent.
    let head = |more: &str| {
        format!(
            "POST {CLASSIFY} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{more}content-length: 1000\r\n\r\n{{"
        )
    };
    for (more, reason) in [
        ("", "REQUEST_INCOMPLETE"),
        ("connect-timeout-ms: 10\r\n", "DEADLINE"),
    ] {
        let mut slow = crate::support::RawStream::connect(&rig).await;
        slow.say(head(more).as_bytes()).await;
        let said = slow.rest().await;
        assert!(said.starts_with("HTTP/1.1 504"), "{said}");
        assert!(said.contains(reason), "{said}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_sites_may_not_call_a_server_that_trusts_everybody() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    let from = |origin: &str| with_header(post(CLASSIFY, BREAD), "origin", origin);
    for page in ["https://example.com", "http://rebound.example:8080", "null"] {
        assert_eq!(client.send(from(page)).await.reason(403), "HTTP_ORIGIN", "{page}");
    }
    for page in ["http://127.0.0.1:8080", "http://localhost:8080"] {
        assert_eq!(client.send(from(page)).await.status.as_u16(), 200, "{page}");
    }
    rig.stop().await;
}
