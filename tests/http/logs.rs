//! The access log: one line for each request of the HTTP port that becomes a call, as for calls over gRPC.

use std::{
    io,
    sync::{Mutex, OnceLock},
};

use serde_json::Value;

use crate::{
    rig::eventually,
    support::{BREAD, CLASSIFY, Client, address, post, start, with_header},
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
