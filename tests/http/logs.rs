//! The access log: one line for each request of the HTTP port, as for calls over gRPC, also where it becomes no call.

use std::{
    io,
    sync::{Mutex, OnceLock},
};

use babelward::rpc::ServerOptions;
use serde_json::{Value, json};

use crate::{
    credentials::{KeyFile, checked},
    rig::{GUARD, eventually},
    support::{BREAD, CLASSIFY, Client, address, post, protected, start, with_header},
};

/// What all tests of this process have logged, in the format that `--log-format json` writes.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs to [`LOG`] from now on.
fn listen() {
    static LISTENING: OnceLock<()> = OnceLock::new();
    LISTENING.get_or_init(|| {
        tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .with_env_filter("babelward=trace")
            .with_writer(|| Log)
            .init();
    });
}

fn logged() -> String {
    String::from_utf8(LOG.lock().unwrap().clone()).unwrap()
}

/// The lines of the access log for the request with this id.
fn lines(id: &str) -> Vec<Value> {
    let all = logged();
    let lines = all
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_request = |line: &Value| {
        line["span"]["id"] == id && line["target"] == "babelward::access" && line["level"] == "INFO"
    };
    lines.filter(of_request).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_has_a_line_with_its_door_and_nothing_of_its_text() {
    listen();
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    let wrong =
        r#"{"conversation":{"messages":[{"role":"ROLE_USER","content":"unlogged words"}]},"secret_field":1}"#;
    let right = BREAD.replace("bake bread", "mend unlogged words");
    for (id, body, code, reason) in [
        ("line-right", right.as_str(), "OK", Value::Null),
        ("line-wrong", wrong, "INVALID_ARGUMENT", "INVALID_FIELDS".into()),
    ] {
        client
            .send(with_header(post(CLASSIFY, body), "x-request-id", id))
            .await;
        eventually("the line is written", || !lines(id).is_empty()).await;
        let written = lines(id);
        assert_eq!(written.len(), 1, "{written:?}");
        assert_eq!(written[0]["code"], code);
        assert_eq!(written[0]["reason"], reason);
        assert_eq!(written[0]["door"], "connect");
        assert_eq!(
            written[0]["span"]["method"],
            "babelward.v1.SafetyService/Classify"
        );
        assert!(written[0]["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    }
    rig.stop().await;
    let log = logged();
    assert!(!log.contains("unlogged words") && !log.contains("secret_field"));
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_write_no_line_at_the_usual_level() {
    listen();
    let keys = KeyFile::new();
    let rig = protected(ServerOptions::default(), checked(&keys.open())).await;
    for (id, path, kind) in [
        ("stranger-classify", CLASSIFY, "application/json"),
        ("stranger-text", CLASSIFY, "text/plain"),
        ("stranger-chat", "/v1/chat/completions", "application/json"),
        (
            "stranger-form",
            "/v1/chat/completions",
            "application/x-www-form-urlencoded",
        ),
        (
            "stranger-documents",
            "/api/v1/text/context/doc",
            "application/json",
        ),
    ] {
        let request = with_header(post(path, "{}"), "content-type", kind);
        let mut client = Client::connect(address(&rig)).await;
        client.send(with_header(request, "x-request-id", id)).await;
        eventually("the refusal is logged at debug", || logged().contains(id)).await;
        assert_eq!(lines(id), Vec::<Value>::new());
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_becomes_no_call_has_one_line_as_well() {
    const GENERATE: &str = "babelward.v1.GenerationService/Generate";
    const CLASSIFY_METHOD: &str = "babelward.v1.SafetyService/Classify";
    listen();
    let rig = start().await;
    let of_json = "application/json";
    let chat = r#"{"messages":[{"role":"user","content":"[say Hello.]"}],"max_tokens":8}"#;
    let check = json!({
        "messages": [{"role": "user", "content": "How do I bake bread?"}],
        "guardrails": {"config_id": GUARD},
    })
    .to_string();
    let nothing = r#"{"input_type":"request","texts":[""]}"#;
    for (id, path, kind, body, wanted) in [
        (
            "chat",
            "/v1/chat/completions",
            of_json,
            chat,
            [GENERATE, "openai", "OK", ""],
        ),
        (
            "chat-broken",
            "/v1/chat/completions",
            of_json,
            r#"{"messages": unlogged chat"#,
            [GENERATE, "openai", "INVALID_ARGUMENT", "INVALID_FIELDS"],
        ),
        (
            "chat-text",
            "/v1/chat/completions",
            "text/plain",
            chat,
            [GENERATE, "openai", "UNIMPLEMENTED", "HTTP_UNSUPPORTED"],
        ),
        (
            "moderation-empty",
            "/v1/moderations",
            of_json,
            "{}",
            [
                "babelward.v1.SafetyService/BatchClassify",
                "openai",
                "INVALID_ARGUMENT",
                "INVALID_FIELDS",
            ],
        ),
        (
            "nemo",
            "/v1/guardrail/checks",
            of_json,
            check.as_str(),
            [CLASSIFY_METHOD, "nemo", "OK", ""],
        ),
        (
            "nemo-broken",
            "/v1/guardrail/checks",
            of_json,
            r#"{"messages": "unlogged check"}"#,
            [CLASSIFY_METHOD, "nemo", "INVALID_ARGUMENT", "INVALID_FIELDS"],
        ),
        (
            "litellm-nothing",
            "/beta/litellm_basic_guardrail_api",
            of_json,
            nothing,
            [CLASSIFY_METHOD, "litellm", "OK", ""],
        ),
        (
            "connect-text",
            CLASSIFY,
            "text/plain",
            BREAD,
            [CLASSIFY_METHOD, "connect", "UNIMPLEMENTED", "HTTP_UNSUPPORTED"],
        ),
    ] {
        let id = format!("no-call-{id}");
        let request = with_header(post(path, body), "content-type", kind);
        let mut client = Client::connect(address(&rig)).await;
        client.send(with_header(request, "x-request-id", &id)).await;
        eventually("the line is written", || !lines(&id).is_empty()).await;
        let written = lines(&id);
        assert_eq!(written.len(), 1, "{written:?}");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let line = &written[0];
        let told = [
            &line["span"]["method"],
            &line["door"],
            &line["code"],
            &line["reason"],
        ];
        assert_eq!(told.map(text), wanted, "{id}");
    }
    rig.stop().await;
    let log = logged();
    assert!(!log.contains("unlogged chat") && !log.contains("unlogged check"));
}
