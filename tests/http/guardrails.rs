//! The doors of guardrail callers: what passes, what is blocked, and what happens without a verdict.

use std::process::Command;

use axum::body::Body;
use babelward::{
    auth::Scope,
    config::{DoorSettings, OnFailure},
    rpc::Listeners,
};
use http::Request;
use serde_json::{Value, json};

use crate::{
    credentials::{KeyFile, checked},
    rig::{GUARD, Rig, Setup},
    support::{Answer, Client, address, listeners_with, post, with_header},
};

const LITELLM: &str = "/beta/litellm_basic_guardrail_api";
const CONTENTS: &str = "/api/v1/text/contents";
const CHAT: &str = "/api/v1/text/chat";
const GENERATION: &str = "/api/v1/text/generation";
const REQUEST: &str = "/request";
const RESPONSE: &str = "/response";
const NEMO: &str = "/v1/guardrail/checks";

/// A request to each door about this text, which the guard judges as a user's.
fn about(text: &str) -> [(&'static str, Value); 5] {
    let messages =
        json!([{"role": "system", "content": "You are a cook."}, {"role": "user", "content": text}]);
    [
        (
            LITELLM,
            json!({"input_type": "request", "texts": [text], "structured_messages": messages}),
        ),
        (CONTENTS, json!({"contents": [text]})),
        (CHAT, json!({"messages": messages})),
        (REQUEST, json!({"body": {"messages": messages}})),
        (NEMO, json!({"model": "any", "messages": messages})),
    ]
}

/// The guard of the tests, and what is done without a verdict.
fn settings(on_failure: OnFailure) -> DoorSettings {
    DoorSettings {
        guard: Some(GUARD.to_owned()),
        on_failure,
        ..DoorSettings::default()
    }
}

async fn start(settings: DoorSettings) -> Rig {
    Rig::on(Setup::default(), listeners_with(settings).await).await
}

async fn ask(rig: &Rig, path: &str, body: &Value) -> Answer {
    let mut client = Client::connect(address(rig)).await;
    client.post(path, &body.to_string()).await
}

/// What an answer does to the text.
#[derive(Debug, PartialEq)]
enum Outcome {
    Passed,
    /// With what is said about it.
    Blocked(String),
    /// With the status.
    Failed(u16),
}

/// What the caller of this door takes an answer for.
fn outcome(path: &str, answer: &Answer) -> Outcome {
    let status = answer.status.as_u16();
    if status != 200 {
        // Nothing that a caller could take for an answer.
        assert!(answer.json().get("action").is_none(), "{answer:?}");
        return Outcome::Failed(status);
    }
    let body = answer.json();
    let said = |value: &Value| value.as_str().unwrap().to_owned();
    match path {
        LITELLM if body["action"] == "BLOCKED" => Outcome::Blocked(said(&body["blocked_reason"])),
        LITELLM => {
            assert_eq!(body["action"], "NONE");
            Outcome::Passed
        }
        NEMO if body["status"] == "blocked" => {
            Outcome::Blocked(said(&body["guardrails_data"]["output_data"]["reason"]))
        }
        NEMO => {
            assert_eq!(body["status"], "success");
            Outcome::Passed
        }
        REQUEST | RESPONSE if body["action"].get("status_code").is_some() => {
            Outcome::Blocked(said(&body["action"]["body"]))
        }
        REQUEST | RESPONSE => {
            assert!(body["action"].get("body").is_none(), "{body}");
            Outcome::Passed
        }
        _ => {
            let detections = body.as_array().unwrap();
            let mut flat = detections
                .iter()
                .flat_map(|one| one.as_array().map_or(vec![one], |all| all.iter().collect()));
            flat.next().map_or(Outcome::Passed, |one| {
                Outcome::Blocked(said(&one["metadata"]["reason"]))
            })
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_guard_calls_safe_passes_every_door() {
    let rig = start(settings(OnFailure::Closed)).await;
    for (path, body) in about("How do I bake bread?") {
        let answer = ask(&rig, path, &body).await;
        assert_eq!(outcome(path, &answer), Outcome::Passed, "{path}: {answer:?}");
        for told in ["passed-without-verdict", "not-judged", "messages-left-out"] {
            assert_eq!(answer.header(&format!("x-babelward-{told}")), "", "{path}");
        }
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_guard_calls_unsafe_is_blocked_at_every_door_without_repeating_the_text() {
    let rig = start(settings(OnFailure::Closed)).await;
    for (path, body) in about("[unsafe] tell me a secret") {
        let answer = ask(&rig, path, &body).await;
        let Outcome::Blocked(reason) = outcome(path, &answer) else {
            panic!("{path}: {answer:?}");
        };
        assert!(
            reason.starts_with(&format!("guard {GUARD} says unsafe (S1 Violent Crimes, S9 ")),
            "{path}: {reason}"
        );
        assert!(!reason.contains("secret"), "{path}: {reason}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_judged_as_answers_with_what_they_answer_where_it_is_sent() {
    let rig = start(settings(OnFailure::Closed)).await;
    let exchange =
        |answer: &str| json!([{"role": "user", "content": "How?"}, {"role": "assistant", "content": answer}]);
    for (answer, blocked) in [("Like this.", false), ("[unsafe] Like this.", true)] {
        for (path, body) in [
            (
                LITELLM,
                json!({"input_type": "response", "texts": ["First", answer]}),
            ),
            (
                RESPONSE,
                json!({"body": {"choices": [{"message": {"role": "assistant", "content": answer}}]}}),
            ),
            (GENERATION, json!({"prompt": "How?", "generated_text": answer})),
            (CHAT, json!({"messages": exchange(answer)})),
            (NEMO, json!({"messages": exchange(answer)})),
        ] {
            let answer = ask(&rig, path, &body).await;
            let is_blocked = matches!(outcome(path, &answer), Outcome::Blocked(_));
            assert_eq!(is_blocked, blocked, "{path}: {answer:?}");
        }
    }
    // NeMo's rails look at both sides of an exchange.
    // What goes to a model is judged also where its caller has written the beginning of the answer.
    let begun = json!([{"role": "user", "content": "[unsafe]"}, {"role": "assistant", "content": "No."}]);
    for (path, body) in [
        (NEMO, json!({"messages": begun})),
        (
            LITELLM,
            json!({"input_type": "request", "structured_messages": begun}),
        ),
        (REQUEST, json!({"body": {"messages": begun}})),
    ] {
        let answer = ask(&rig, path, &body).await;
        assert!(
            matches!(outcome(path, &answer), Outcome::Blocked(_)),
            "{path}: {answer:?}"
        );
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_without_a_verdict_never_passes_and_is_not_called_unsafe() {
    let rig = start(settings(OnFailure::Closed)).await;
    for (path, body) in about("[odd]") {
        let answer = ask(&rig, path, &body).await;
        match outcome(path, &answer) {
            Outcome::Blocked(reason) => {
                assert!(
                    reason.starts_with("there is no verdict on this text (VERDICT_UNDETERMINED)"),
                    "{path}: {reason}"
                );
                assert!(!reason.contains("unsafe"), "{path}: {reason}");
            }
            Outcome::Failed(status) => assert_eq!(
                (path.starts_with("/api/v1/text"), status),
                (true, 500),
                "{answer:?}"
            ),
            Outcome::Passed => panic!("{path}: {answer:?}"),
        }
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_open_passes_it_and_says_so() {
    let rig = start(settings(OnFailure::Open)).await;
    for (path, body) in about("[odd]") {
        let answer = ask(&rig, path, &body).await;
        assert_eq!(outcome(path, &answer), Outcome::Passed, "{path}: {answer:?}");
        assert_eq!(
            answer.header("x-babelward-passed-without-verdict"),
            "VERDICT_UNDETERMINED",
            "{path}"
        );
        if !path.starts_with("/api/v1/text") {
            let body = answer.json().to_string();
            assert!(
                body.contains("passed without a verdict (VERDICT_UNDETERMINED)"),
                "{path}: {body}"
            );
        }
    }
    // What is unsafe, and what is wrong, passes no more than before.
    for (path, body) in about("[unsafe]") {
        let answer = ask(&rig, path, &body).await;
        assert!(
            matches!(outcome(path, &answer), Outcome::Blocked(_)),
            "{path}: {answer:?}"
        );
        let answer = ask(
            &rig,
            path,
            &json!({"messages": 7, "input_type": 7, "body": 7, "contents": 7}),
        )
        .await;
        assert!(
            matches!(outcome(path, &answer), Outcome::Failed(400 | 422)),
            "{path}: {answer:?}"
        );
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_guard_and_a_missing_one_leave_no_verdict() {
    for (on_failure, absent) in [OnFailure::Closed, OnFailure::Open]
        .into_iter()
        .flat_map(|one| [(one, false), (one, true)])
    {
        let mut settings = settings(on_failure);
        if absent {
            settings.guard = None;
        }
        let rig = start(settings).await;
        for (path, body) in about(if absent { "Hello" } else { "[nan]" }) {
            let answer = ask(&rig, path, &body).await;
            let reason = if absent {
                "NO_DEFAULT_MODEL"
            } else {
                "NUMERIC_FAULT"
            };
            match (on_failure, outcome(path, &answer)) {
                (OnFailure::Closed, Outcome::Failed(status)) => {
                    assert_eq!(status, if absent { 503 } else { 500 }, "{path}");
                    assert_eq!(answer.json()["reason"], reason, "{path}");
                }
                (OnFailure::Open, Outcome::Passed) => {
                    assert_eq!(
                        answer.header("x-babelward-passed-without-verdict"),
                        reason,
                        "{path}"
                    );
                }
                (_, other) => panic!("{path}: {other:?}"),
            }
        }
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_leaves_no_verdict() {
    let rig = start(settings(OnFailure::Closed)).await;
    rig.gate.close();
    let mut client = Client::connect(address(&rig)).await;
    for (path, body) in about("Hello") {
        let hurried = with_header(post(path, &body.to_string()), "x-request-timeout-ms", "1");
        let answer = client.send(hurried).await;
        assert_eq!(outcome(path, &answer), Outcome::Failed(504), "{path}: {answer:?}");
    }
    rig.gate.open();
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_errors_in_the_protocols_shape_with_the_field() {
    let rig = start(settings(OnFailure::Open)).await;
    let robot = json!([{"role": "user", "content": "Hello"}, {"role": "robot", "content": "Hello"}]);
    let long = "a".repeat(300_000);
    let cases = [
        (LITELLM, 400, json!({"texts": ["Hello"]}), "input_type"),
        (LITELLM, 400, json!({"input_type": "request"}), "texts"),
        (
            LITELLM,
            400,
            json!({"input_type": "request", "structured_messages": robot}),
            "structured_messages[1].role",
        ),
        (
            LITELLM,
            400,
            json!({"input_type": "response", "texts": ["", long]}),
            "texts[1]",
        ),
        (CONTENTS, 422, json!({"contents": ["a", 7]}), "contents[1]"),
        (CONTENTS, 422, json!({"contents": ["a", long]}), "contents[1]"),
        (
            CONTENTS,
            422,
            json!({"contents": ["a"], "detector_params": {"threshold": 2}}),
            "detector_params.threshold",
        ),
        (
            CONTENTS,
            422,
            json!({"contents": ["a"], "detector_params": {"policy": ""}}),
            "detector_params.policy",
        ),
        (CONTENTS, 422, json!({"contents": vec!["a"; 300]}), "contents"),
        (CONTENTS, 422, json!({"contents": vec!["a"; 5000]}), "contents"),
        (CHAT, 422, json!({"messages": robot}), "messages[1].role"),
        (CHAT, 422, json!({"messages": []}), "messages"),
        (GENERATION, 422, json!({"prompt": "a"}), "generated_text"),
        (
            REQUEST,
            422,
            json!({"body": {"messages": robot}}),
            "body.messages[1].role",
        ),
        (
            RESPONSE,
            422,
            json!({"body": {"choices": [{"message": {}}]}}),
            "body.choices[0].message",
        ),
        (NEMO, 422, json!({"messages": robot}), "messages[1].role"),
        (
            NEMO,
            422,
            json!({"messages": [{"role": "user", "content": "a"}], "guardrails": {"config": {}}}),
            "guardrails.config",
        ),
    ];
    for (path, status, body, field) in cases {
        let answer = ask(&rig, path, &body).await;
        assert_eq!(
            outcome(path, &answer),
            Outcome::Failed(status),
            "{path} {field}: {answer:?}"
        );
        let error = answer.json();
        let message = match path.starts_with("/api/v1/text") {
            true => {
                assert_eq!(error["code"], status, "{error}");
                error["message"].clone()
            }
            false => error["detail"].clone(),
        };
        assert!(
            message.as_str().unwrap().contains(field),
            "{path} {field}: {error}"
        );
        assert!(!error["reason"].as_str().unwrap().is_empty(), "{error}");
    }
    let unknown = json!({"contents": ["a"], "detector_params": {"policy": "nobodys"}});
    let answer = ask(&rig, CONTENTS, &unknown).await;
    assert_eq!(outcome(CONTENTS, &answer), Outcome::Failed(404));
    assert_eq!(answer.json()["reason"], "POLICY_NOT_FOUND");
    let answer = ask(&rig, "/api/v1/text/context/doc", &json!({})).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["code"]),
        (404, &json!(404))
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_the_caller_names_must_be_there() {
    let rig = start(settings(OnFailure::Open)).await;
    let mut client = Client::connect(address(&rig)).await;
    let named = |guard: &'static str| -> [(&'static str, Request<Body>); 4] {
        let [litellm, contents, _, request, nemo] = about("Hello");
        let mut checked = nemo.1;
        checked["guardrails"] = json!({"config_id": guard});
        [
            (
                LITELLM,
                with_header(post(LITELLM, &litellm.1.to_string()), "x-babelward-guard", guard),
            ),
            (
                CONTENTS,
                with_header(post(CONTENTS, &contents.1.to_string()), "detector-id", guard),
            ),
            (
                REQUEST,
                with_header(post(REQUEST, &request.1.to_string()), "x-babelward-guard", guard),
            ),
            (NEMO, post(NEMO, &checked.to_string())),
        ]
    };
    for (path, request) in named(GUARD) {
        let answer = client.send(request).await;
        assert_eq!(outcome(path, &answer), Outcome::Passed, "{path}: {answer:?}");
    }
    for (path, request) in named("nobody") {
        let answer = client.send(request).await;
        assert_eq!(outcome(path, &answer), Outcome::Failed(404), "{path}: {answer:?}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_never_passes_and_litellms_header_for_keys_does() {
    let keys = KeyFile::new();
    let key = keys.add("gateway", &[Scope::Classify]);
    let listeners = Listeners {
        security: checked(&keys.open()),
        ..listeners_with(settings(OnFailure::Open)).await
    };
    let rig = Rig::on(Setup::default(), listeners).await;
    let mut client = Client::connect(address(&rig)).await;
    for (path, body) in about("Hello") {
        let body = body.to_string();
        for request in [
            post(path, &body),
            with_header(post(path, &body), "x-api-key", "bw_wrong"),
        ] {
            let answer = client.send(request).await;
            assert_eq!(outcome(path, &answer), Outcome::Failed(401), "{path}: {answer:?}");
        }
        let answer = client
            .send(with_header(post(path, &body), "x-api-key", &key))
            .await;
        assert_eq!(outcome(path, &answer), Outcome::Passed, "{path}: {answer:?}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_block_unless_the_server_fails_open_which_then_says_what_was_not_judged() {
    let messages = json!([{"role": "user", "content": [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    ]}]);
    let disguised = json!([{"role": "user", "content": [
        {"type": "image_url", "text": "What is this?", "image_url": {"url": "data:image/png;base64,AA=="}},
    ]}]);
    let conversation = json!({"input_type": "request", "structured_messages": messages, "images": ["data:image/png;base64,AA=="]});
    let bare = json!({"input_type": "request", "texts": ["What is this?"], "images": ["data:image/png;base64,AA=="]});
    let rig = start(settings(OnFailure::Closed)).await;
    for (path, body, field) in [
        (
            LITELLM,
            &conversation,
            "structured_messages[0].content[1] (image)",
        ),
        (LITELLM, &bare, "images"),
        (
            NEMO,
            &json!({"messages": messages}),
            "messages[0].content[1] (image)",
        ),
        (
            REQUEST,
            &json!({"body": {"messages": disguised}}),
            "body.messages[0].content[0] (image)",
        ),
    ] {
        let answer = ask(&rig, path, body).await;
        let Outcome::Blocked(reason) = outcome(path, &answer) else {
            panic!("{answer:?}");
        };
        assert!(
            reason.contains(&format!("no guard here can judge {field}")),
            "{reason}"
        );
    }
    rig.stop().await;

    let rig = start(settings(OnFailure::Open)).await;
    for (body, field) in [
        (&conversation, "structured_messages[0].content[1] (image)"),
        (&bare, "images"),
    ] {
        let answer = ask(&rig, LITELLM, body).await;
        assert_eq!(outcome(LITELLM, &answer), Outcome::Passed);
        assert_eq!(answer.header("x-babelward-not-judged"), field);
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_conversations_are_judged_at_their_end_and_say_what_was_left_out() {
    let rig = start(settings(OnFailure::Closed)).await;
    let talk = |last: &str| {
        let turn = |index| json!({"role": if index % 2 == 0 { "user" } else { "assistant" }, "content": format!("turn {index}")});
        let mut messages: Vec<Value> = (0..70).map(turn).collect();
        messages.push(json!({"role": "user", "content": last}));
        json!({"input_type": "request", "structured_messages": messages})
    };
    let answer = ask(&rig, LITELLM, &talk("And then?")).await;
    assert_eq!(outcome(LITELLM, &answer), Outcome::Passed);
    assert_eq!(answer.header("x-babelward-messages-left-out"), "7");
    let answer = ask(&rig, LITELLM, &talk("[unsafe]")).await;
    assert!(
        matches!(outcome(LITELLM, &answer), Outcome::Blocked(_)),
        "{answer:?}"
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_counts_in_place_of_the_label() {
    let rig = start(DoorSettings {
        unsafe_score: Some(0.99),
        ..settings(OnFailure::Closed)
    })
    .await;
    // The scripted guard's score of an unsafe text is 1 / (1 + exp(-2)), about 0.88.
    for (path, body) in about("[unsafe]") {
        let answer = ask(&rig, path, &body).await;
        assert_eq!(outcome(path, &answer), Outcome::Passed, "{path}: {answer:?}");
    }
    let lower = json!({"contents": ["[unsafe]", "Hello"], "detector_params": {"threshold": 0.5}});
    let answer = ask(&rig, CONTENTS, &lower).await;
    let detected = answer.json();
    assert_eq!(detected[0][0]["detection"], "unsafe");
    assert!((detected[0][0]["score"].as_f64().unwrap() - 1.0 / (1.0 + (-2.0_f64).exp())).abs() < 1e-3);
    assert_eq!(
        (&detected[0][0]["start"], &detected[0][0]["end"]),
        (&json!(0), &json!(8))
    );
    assert_eq!(detected[1], json!([]));
    rig.stop().await;
}

/// The scripts with LiteLLM's proxy: `LITELLM_PYTHON` is a Python that has the package `litellm[proxy]`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Python with litellm[proxy], which is 750 MB, in LITELLM_PYTHON"]
async fn litellms_proxy_passes_and_blocks_as_the_guard_says() {
    let python = std::env::var("LITELLM_PYTHON").expect("LITELLM_PYTHON is a Python with litellm[proxy]");
    let keys = KeyFile::new();
    let key = keys.add("litellm", &[Scope::Classify]);
    let listeners = Listeners {
        security: checked(&keys.open()),
        ..listeners_with(settings(OnFailure::Closed)).await
    };
    let rig = Rig::on(Setup::default(), listeners).await;
    let url = format!("http://{}", address(&rig));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/call_litellm.py");
    let run = move || Command::new(python).args([script, &url, &key]).status();
    let ended = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
    assert!(
        ended.success(),
        "tests/clients/call_litellm.py failed: its message is above"
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_of_nemos_library_judge_what_their_rails_are_for() {
    const CHECKS: &str = "/v1/checks";
    let rig = start(settings(OnFailure::Closed)).await;
    let check = |question: &str, answer: &str, rails: Value| {
        json!({
            "model": "any",
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
            "guardrails": {"rail_types": rails},
        })
    };
    let (bread, flour) = ("How do I bake bread?", "Mix flour and water.");
    for (body, text) in [
        (check(bread, flour, Value::Null), flour),
        (check(bread, flour, json!(["output"])), flour),
        // Of what the other rails are for, nothing is judged.
        (check(bread, "[unsafe] secret", json!(["input"])), bread),
    ] {
        let answer = ask(&rig, CHECKS, &body).await;
        assert_eq!(answer.status.as_u16(), 200, "{answer:?}");
        assert_eq!(
            answer.json(),
            json!({"status": "passed", "content": text}),
            "{body}"
        );
    }
    for body in [
        check(bread, "[unsafe] secret", Value::Null),
        check(bread, "[unsafe] secret", json!(["output"])),
        check("[unsafe] secret", flour, json!(["input"])),
        check("[unsafe] secret", flour, json!(["input", "output"])),
    ] {
        let said = ask(&rig, CHECKS, &body).await.json();
        assert_eq!(
            (&said["status"], &said["rail"]),
            (&json!("blocked"), &json!(GUARD)),
            "{body}"
        );
        let reason = said["content"].as_str().unwrap();
        assert!(
            reason.starts_with(&format!("guard {GUARD} says unsafe")),
            "{reason}"
        );
        assert!(!reason.contains("secret"), "{reason}");
    }
    // Neither is a pass: no verdict, and nothing to check.
    let odd = ask(&rig, CHECKS, &check(bread, "[odd]", json!(["output"]))).await;
    assert_eq!(odd.json()["status"], "blocked");
    let nothing = ask(&rig, CHECKS, &check(bread, flour, json!([]))).await;
    assert_eq!(nothing.status.as_u16(), 422);
    assert!(
        nothing.json()["detail"]
            .as_str()
            .unwrap()
            .contains("guardrails.rail_types")
    );
    let unknown = ask(&rig, CHECKS, &check(bread, flour, json!(["dialog"]))).await;
    assert_eq!(unknown.status.as_u16(), 422);
    rig.stop().await;
}
