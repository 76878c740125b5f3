//! Calls with streams of messages over HTTP/1.1, by the Connect protocol: messages in envelopes, and the outcome at the end.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::body::Body;
use babelward::{
    auth::Scope,
    proto,
    rpc::{Limits, ServerOptions},
};
use http::Request;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::{
    credentials::{KeyFile, checked},
    rig::{Rig, classify, conversation, eventually, generate, generate_tokens, requests},
    support::{
        Answer, BREAD, CLASSIFY, Client, RawStream, address, as_json, post, protected, start, types, with,
        with_header,
    },
};

const GENERATE: &str = "/babelward.v1.GenerationService/Generate";
const CLASSIFY_STREAM: &str = "/babelward.v1.SafetyService/ClassifyStream";
const GUARD_STREAM: &str = "/babelward.v1.SafetyService/GuardStream";

/// A message in its envelope.
fn seal(flags: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[flags][..], &length, message].concat()
}

/// Messages of JSON in their envelopes.
fn sealed(messages: &[Value]) -> Vec<u8> {
    let messages = messages.iter();
    messages
        .flat_map(|message| seal(0, message.to_string().as_bytes()))
        .collect()
}

/// A request whose body is this.
fn stream(path: &str, body: Vec<u8>) -> Request<Body> {
    let request = post(path, "").map(|_| Body::from(body));
    with_header(request, "content-type", "application/connect+json")
}

/// What the envelopes of an answer have.
struct Said {
    messages: Vec<Vec<u8>>,
    end: Value,
}

impl Said {
    fn of(answer: &Answer, kind: &str) -> Self {
        assert_eq!(
            (answer.status.as_u16(), answer.header("content-type")),
            (200, kind),
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
        let (mut messages, mut rest) = (Vec::new(), answer.body.as_slice());
        while let Some(([flags, length @ ..], more)) = rest.split_first_chunk::<5>() {
            let (message, behind) = more.split_at(u32::from_be_bytes(*length) as usize);
            rest = behind;
            match flags {
                0 => messages.push(message.to_vec()),
                2 => {
                    assert!(rest.is_empty(), "something comes behind the end");
                    let end = serde_json::from_slice(message).unwrap();
                    return Self { messages, end };
                }
                other => panic!("{other}"),
            }
        }
        panic!("the answer has no end: {answer:?}");
    }

    /// The messages as JSON.
    fn json(&self) -> Vec<Value> {
        let messages = self.messages.iter();
        messages
            .map(|message| serde_json::from_slice(message).unwrap())
            .collect()
    }

    /// Code and reason of the error at the end, and the fields that it names.
    fn error(&self) -> (String, String, Vec<String>) {
        let error = &self.end["error"];
        let details = error["details"].as_array().unwrap_or_else(|| panic!("{error}"));
        let detail = |kind: &str| {
            let found = details.iter().find(|detail| detail["type"] == kind);
            found.map(|detail| detail["debug"].clone()).unwrap_or_default()
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let violations = detail("google.rpc.BadRequest")["fieldViolations"].clone();
        let violations = violations.as_array().cloned().unwrap_or_default();
        (
            text(&error["code"]),
            text(&detail("google.rpc.ErrorInfo")["reason"]),
            violations.iter().map(|one| text(&one["field"])).collect(),
        )
    }
}

/// Sends a request on a connection of its own.
async fn ask(rig: &Rig, request: Request<Body>) -> Said {
    let mut client = Client::connect(address(rig)).await;
    Said::of(&client.send(request).await, "application/connect+json")
}

/// A message of gRPC as JSON, without what differs from call to call.
fn lasting(kind: &str, message: &impl prost::Message) -> Value {
    without_times(serde_json::from_str(&as_json(kind, message)).unwrap())
}

fn without_times(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let lasting = fields
                .into_iter()
                .filter(|(name, _)| name != "timing" && name != "usage");
            Value::Object(
                lasting
                    .map(|(name, value)| (name, without_times(value)))
                    .collect(),
            )
        }
        Value::Array(items) => items.into_iter().map(without_times).collect(),
        other => other,
    }
}

/// What Generate has said: its begin, its text, and its end.
fn generation(events: &[Value]) -> (Value, String, Value) {
    let [first, deltas @ .., last] = events else {
        panic!("{events:?}");
    };
    let texts = deltas
        .iter()
        .map(|event| event["delta"]["text"].as_str().unwrap_or_default());
    (
        first["started"].clone(),
        texts.collect(),
        last["finished"].clone(),
    )
}

/// The same over gRPC.
async fn generation_over_grpc(rig: &Rig, request: proto::GenerateRequest) -> (Value, String, Value) {
    let mut generation_service = rig.generation().await;
    let mut events = generation_service.generate(request).await.unwrap().into_inner();
    let mut said = Vec::new();
    while let Some(response) = events.message().await.unwrap() {
        said.push(lasting("GenerateResponse", &response));
    }
    generation(&said)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_is_that_of_grpc_as_json_and_as_protobuf() {
    let rig = start().await;
    for content in ["[say Guten Tag, \u{1f44b} wie geht es?]", "talk", "[mute]"] {
        let request = generate(content);
        let over_grpc = generation_over_grpc(&rig, request.clone()).await;
        let body = seal(0, as_json("GenerateRequest", &request).as_bytes());
        let said = ask(&rig, stream(GENERATE, body)).await;
        let events: Vec<_> = said.json().into_iter().map(without_times).collect();
        assert_eq!(generation(&events), over_grpc);
        assert_eq!(said.end, json!({}));
        let proto = stream(GENERATE, seal(0, &request.encode_to_vec()));
        let proto = with_header(proto, "content-type", "application/connect+proto");
        let mut client = Client::connect(address(&rig)).await;
        let said = Said::of(&client.send(proto).await, "application/connect+proto");
        let events = said.messages.iter().map(|message| {
            let response = proto::GenerateResponse::decode(message.as_slice()).unwrap();
            lasting("GenerateResponse", &response)
        });
        assert_eq!(generation(&events.collect::<Vec<_>>()), over_grpc);
        assert_eq!(said.end, json!({}));
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_of_a_stream_are_answered_as_over_grpc() {
    let rig = start().await;
    let item = |id: &str, contents: &[&str]| proto::ClassifyStreamRequest {
        id: id.to_owned(),
        action: Some(proto::classify_stream_request::Action::Classify(classify(
            contents,
        ))),
        timeout: None,
    };
    let items = [
        item("safe", &["How do I bake bread?"]),
        item("unsafe", &["How?", "[unsafe] answer"]),
        item("wrong", &[]),
    ];
    let (sender, receiver) = requests();
    for item in &items {
        sender.send(item.clone()).unwrap();
    }
    drop(sender);
    let mut safety = rig.safety().await;
    let mut answers = safety.classify_stream(receiver).await.unwrap().into_inner();
    let mut over_grpc = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        over_grpc.push(answer);
    }
    let body = items.iter().flat_map(|item| {
        let json = as_json("ClassifyStreamRequest", item);
        seal(0, json.as_bytes())
    });
    let said = ask(&rig, stream(CLASSIFY_STREAM, body.collect())).await;
    assert_eq!(said.end, json!({}));
    let over_http = said.json();
    assert_eq!((over_http.len(), over_grpc.len()), (3, 3));
    for answer in &over_grpc {
        let same = over_http
            .iter()
            .find(|said| said["id"] == answer.id.as_str())
            .unwrap();
        match &answer.result {
            Some(proto::classify_stream_response::Result::Error(error)) => {
                assert_eq!(answer.id, "wrong");
                assert_eq!(same["error"]["code"], error.code);
                assert_eq!(same["error"]["message"], error.message.as_str());
                // The details are there for programs as well.
                let details = same["error"]["details"].as_array().unwrap();
                assert!(
                    details.iter().any(|detail| detail["reason"] == "INVALID_FIELDS"),
                    "{same}"
                );
            }
            _ => assert_eq!(
                without_times(same.clone()),
                lasting("ClassifyStreamResponse", answer)
            ),
        }
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_growing_text_is_looked_at_as_over_grpc() {
    use proto::guard_stream_request::Event;

    let rig = start().await;
    for text in [
        "First mix the flour. Then bake it until it is brown!",
        "First [unsafe] mix. Then bake it.",
    ] {
        let start = proto::GuardStart {
            conversation: Some(conversation(&["How do I bake bread?"])),
            ..proto::GuardStart::default()
        };
        let (first, second) = text.as_bytes().split_at(14);
        let events = [
            Event::Start(start),
            Event::Chunk(first.to_vec()),
            Event::Chunk(second.to_vec()),
            Event::End(proto::GuardEnd {}),
        ];
        let messages = events.map(|event| proto::GuardStreamRequest { event: Some(event) });
        let body = messages.iter().flat_map(|message| {
            let json = as_json("GuardStreamRequest", message);
            seal(0, json.as_bytes())
        });
        let body: Vec<u8> = body.collect();
        let (sender, receiver) = requests();
        for message in messages {
            sender.send(message).unwrap();
        }
        drop(sender);
        let mut safety = rig.safety().await;
        let mut answers = safety.guard_stream(receiver).await.unwrap().into_inner();
        let mut over_grpc = Vec::new();
        while let Some(answer) = answers.message().await.unwrap() {
            over_grpc.push(lasting("GuardStreamResponse", &answer));
        }
        let said = ask(&rig, stream(GUARD_STREAM, body)).await;
        assert_eq!(said.end, json!({}));
        let over_http: Vec<_> = said.json().into_iter().map(without_times).collect();
        let ends = |events: &[Value]| events.last().unwrap()["ended"]["reason"].clone();
        assert_eq!(ends(&over_http), ends(&over_grpc));
        let looks = |events: &[Value]| {
            let looks = events.iter().filter(|event| event.get("look").is_some());
            looks.cloned().collect::<Vec<_>>()
        };
        assert_eq!(looks(&over_http), looks(&over_grpc));
        assert!(!looks(&over_http).is_empty());
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_stream_of_messages_is_told_at_the_end() {
    let rig = start().await;
    let right = as_json("GenerateRequest", &generate("[mute]"));
    let sealed_right = seal(0, right.as_bytes());
    let invalid = |field: &str| {
        (
            "invalid_argument".to_owned(),
            "INVALID_FIELDS".to_owned(),
            vec![field.to_owned()],
        )
    };
    let role = r#"{"conversation":{"messages":[{"role":"ROLE_KING","content":"hi"}]}}"#;
    for (what, body, error) in [
        ("no message", Vec::new(), invalid("body")),
        ("two messages", sealed_right.repeat(2), invalid("body")),
        (
            "an incomplete prefix",
            sealed_right[..3].to_vec(),
            invalid("body"),
        ),
        (
            "an incomplete message",
            sealed_right[..sealed_right.len() - 1].to_vec(),
            invalid("body"),
        ),
        (
            "an incomplete message behind a whole one",
            [&sealed_right[..], &sealed_right[..9]].concat(),
            invalid("body"),
        ),
        ("the flag of an end", seal(2, b"{}"), invalid("body")),
        ("a flag of nothing", seal(64, right.as_bytes()), invalid("body")),
        ("no JSON", seal(0, b"{"), invalid("body")),
        ("an empty message", seal(0, b""), invalid("body")),
        (
            "a wrong field",
            seal(0, role.as_bytes()),
            invalid("conversation.messages[0].role"),
        ),
        ("a field that is missing", seal(0, b"{}"), invalid("prompt")),
        (
            "a compressed message",
            seal(1, right.as_bytes()),
            (
                "unimplemented".to_owned(),
                "HTTP_UNSUPPORTED".to_owned(),
                Vec::new(),
            ),
        ),
        (
            "a length beyond the limit",
            [&[0, 255, 255, 255, 255][..], right.as_bytes()].concat(),
            (
                "invalid_argument".to_owned(),
                "MESSAGE_TOO_LARGE".to_owned(),
                Vec::new(),
            ),
        ),
    ] {
        let said = ask(&rig, stream(GENERATE, body)).await;
        assert_eq!(said.error(), error, "{what}");
        assert!(said.messages.is_empty(), "{what}");
    }
    rig.idle().await;
    let said = ask(&rig, stream(GENERATE, sealed_right)).await;
    assert_eq!(said.end, json!({}));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_message_ends_its_stream_and_says_which_it_is() {
    let rig = start().await;
    let bread: Value = serde_json::from_str(BREAD).unwrap();
    let item = |id: &str| json!({"id": id, "classify": bread});
    for (second, field) in [
        (
            r#"{"id": "b", "classify": {"conversation": 7}}"#,
            "classify.conversation",
        ),
        (r#"{"id": "b", "#, "body"),
        (r#"{"id": "b", "surprise": 1}"#, "surprise"),
    ] {
        let body = [
            sealed(&[item("a")]),
            seal(0, second.as_bytes()),
            sealed(&[item("c")]),
        ]
        .concat();
        let said = ask(&rig, stream(CLASSIFY_STREAM, body)).await;
        let (code, reason, fields) = said.error();
        assert_eq!(
            (code.as_str(), reason.as_str()),
            ("invalid_argument", "INVALID_FIELDS")
        );
        assert_eq!(fields, [field]);
        let message = said.end["error"]["message"].as_str().unwrap();
        assert!(message.contains("of message 2"), "{message}");
        let answered: Vec<_> = said.json().iter().map(|answer| answer["id"].clone()).collect();
        assert!(answered.iter().all(|id| id == "a"), "{answered:?}");
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_wrong_are_told_at_the_end_and_types_by_the_status() {
    let rig = start().await;
    let right = || stream(GENERATE, sealed(&[json!({"text": "[mute]"})]));
    for (name, value, code, field) in [
        (
            "connect-protocol-version",
            "2",
            "invalid_argument",
            Some("connect-protocol-version"),
        ),
        (
            "connect-timeout-ms",
            "soon",
            "invalid_argument",
            Some("connect-timeout-ms"),
        ),
        ("connect-content-encoding", "gzip", "unimplemented", None),
        ("content-encoding", "br", "unimplemented", None),
    ] {
        let said = ask(&rig, with_header(right(), name, value)).await;
        let (told, _, fields) = said.error();
        assert_eq!(
            (told.as_str(), fields.first().map(String::as_str)),
            (code, field),
            "{name}"
        );
    }
    let mut client = Client::connect(address(&rig)).await;
    let as_stream = with_header(post(CLASSIFY, BREAD), "content-type", "application/connect+json");
    assert_eq!(client.send(as_stream).await.reason(415), "HTTP_UNSUPPORTED");
    let mut client = Client::connect(address(&rig)).await;
    let as_message = post(GENERATE, r#"{"text":"hi"}"#);
    assert_eq!(client.send(as_message).await.reason(415), "HTTP_UNSUPPORTED");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_and_scopes_are_checked_before_a_message_is_read() {
    let keys = KeyFile::new();
    let key = keys.add("team", &[Scope::Classify]);
    let rig = protected(ServerOptions::default(), checked(&keys.open())).await;
    let request = || stream(GENERATE, sealed(&[json!({"text": "[mute]"})]));
    let (code, reason, _) = ask(&rig, request()).await.error();
    assert_eq!(
        (code.as_str(), reason.as_str()),
        ("unauthenticated", "CREDENTIALS_MISSING")
    );
    let known = with_header(request(), "authorization", &format!("Bearer {key}"));
    let (code, reason, _) = ask(&rig, known).await.error();
    assert_eq!(
        (code.as_str(), reason.as_str()),
        ("permission_denied", "SCOPE_MISSING")
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_without_time_ends_with_its_deadline() {
    let rig = start().await;
    rig.gate.close();
    let request = as_json("GenerateRequest", &generate("talk"));
    let request = stream(GENERATE, seal(0, request.as_bytes()));
    let said = ask(&rig, with_header(request, "connect-timeout-ms", "50")).await;
    let (code, reason, _) = said.error();
    assert_eq!(
        (code.as_str(), reason.as_str()),
        ("deadline_exceeded", "DEADLINE")
    );
    rig.gate.open();
    rig.idle().await;
    rig.stop().await;
}

/// The header of the last request of a connection.
const CLOSE: &str = "connection: close\r\n";

/// The head of a request whose body comes in chunks.
fn head(path: &str, more: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/connect+json\r\n{more}transfer-encoding: chunked\r\n\r\n"
    )
    .into_bytes()
}

/// Bytes as one chunk of a body.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_cancels_its_generation() {
    let rig = start().await;
    rig.gate.close();
    let mut connection = RawStream::connect(&rig).await;
    connection.say(&head(GENERATE, "")).await;
    let request = as_json("GenerateRequest", &generate_tokens("talk", 3500));
    connection.say(&chunk(&seal(0, request.as_bytes()))).await;
    connection.say(b"0\r\n\r\n").await;
    rig.blocked().await;
    drop(connection);
    rig.gate.open();
    rig.idle().await;
    assert!(rig.gate.passes() < 3000, "the work went on");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_read_while_they_arrive_in_any_pieces() {
    let rig = start().await;
    let mut connection = RawStream::connect(&rig).await;
    connection.say(&head(CLASSIFY_STREAM, CLOSE)).await;
    let bread: Value = serde_json::from_str(BREAD).unwrap();
    let first = sealed(&[json!({"id": "a", "classify": bread})]);
    for piece in first.chunks(7) {
        connection.say(&chunk(piece)).await;
    }
    // The answer to the first message comes while the second one is not there yet.
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("LABEL_SAFE") {
        assert!(
            tokio::io::AsyncReadExt::read_buf(&mut connection.0, &mut said)
                .await
                .unwrap()
                > 0
        );
    }
    connection
        .say(&chunk(&sealed(&[json!({"id": "b", "classify": bread})])))
        .await;
    connection.say(b"0\r\n\r\n").await;
    let rest = connection.rest().await;
    assert!(rest.contains(r#""id":"b""#) && rest.contains("{}"), "{rest}");
    rig.stop().await;
}

/// A client that sends faster than the models answer, and reads nothing until it has sent all.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_only_sends_is_slowed_and_then_gets_all_answers() {
    const ITEMS: usize = 4000;
    let rig = start().await;
    rig.gate.close();
    let mut connection = RawStream::connect(&rig).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let pushing = tokio::spawn(async move {
        connection.say(&head(CLASSIFY_STREAM, CLOSE)).await;
        for id in 0..ITEMS {
            // Spaces that the message does not need, so that buffers of the system do not hold all of it.
            let item = format!(
                r#"{{"id":"{id}","classify":{{"conversation":{{"messages":[{{"role":"ROLE_USER","content":"hi"}}]}}}}{}}}"#,
                " ".repeat(16 << 10)
            );
            connection
                .0
                .write_all(&chunk(&seal(0, item.as_bytes())))
                .await
                .unwrap();
            counter.fetch_add(1, Ordering::AcqRel);
        }
        connection.say(b"0\r\n\r\n").await;
        connection.rest().await
    });
    eventually("the limit of open items is reached", || {
        let stats = rig.stats();
        stats.queued + stats.running == 256
    })
    .await;
    let mut other = Client::connect(address(&rig)).await;
    for _ in 0..50 {
        let listed = other.post("/babelward.v1.ModelService/ListModels", "{}").await;
        assert_eq!(listed.status.as_u16(), 200);
    }
    let ahead = sent.load(Ordering::Acquire);
    assert!(ahead < ITEMS, "the client was not slowed: it has sent {ahead}");
    rig.gate.open();
    let said = pushing.await.unwrap();
    assert_eq!(said.matches("LABEL_SAFE").count(), ITEMS);
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_fails_alone_or_ends_its_stream() {
    let rig = with(ServerOptions {
        limits: Limits {
            message_bytes: 4 << 10,
            content_bytes: 4 << 10,
            ..Limits::default()
        },
        ..ServerOptions::default()
    })
    .await;
    let item = |id: &str, bytes: usize| json!({"id": id, "classify": {"conversation": {"messages": [{"role": "ROLE_USER", "content": "x".repeat(bytes)}]}}});
    let said = ask(
        &rig,
        stream(
            CLASSIFY_STREAM,
            sealed(&[item("large", 5 << 10), item("small", 10)]),
        ),
    )
    .await;
    assert_eq!(said.end, json!({}));
    let answers = said.json();
    assert_eq!(answers.len(), 2);
    for answer in answers {
        assert_eq!(answer.get("error").is_some(), answer["id"] == "large", "{answer}");
    }
    let said = ask(&rig, stream(CLASSIFY_STREAM, sealed(&[item("huge", 9 << 10)]))).await;
    assert_eq!(said.error().1, "MESSAGE_TOO_LARGE");
    rig.stop().await;
}

/// Each call with streams, asked with an empty message: it reaches its service, which answers or says what is missing.
#[tokio::test(flavor = "multi_thread")]
async fn every_call_with_streams_is_answered() {
    let rig = start().await;
    let mut asked = 0;
    for service in types().services() {
        for method in service.methods() {
            let is_stream = method.is_client_streaming() || method.is_server_streaming();
            // It goes on for as long as its client reads.
            if !is_stream || method.name() == "WatchModels" {
                continue;
            }
            asked += 1;
            let path = format!("/{}/{}", service.full_name(), method.name());
            let said = ask(&rig, stream(&path, sealed(&[json!({})]))).await;
            let is_item = said.json().iter().any(|answer| answer.get("error").is_some());
            assert!(
                is_item || said.error().1 == "INVALID_FIELDS",
                "{path}: {}",
                said.end
            );
        }
    }
    assert!(asked >= 5, "{asked}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_watched_while_their_client_reads() {
    let rig = start().await;
    let mut connection = RawStream::connect(&rig).await;
    connection
        .say(&head("/babelward.v1.ModelService/WatchModels", ""))
        .await;
    connection.say(&chunk(&sealed(&[json!({})]))).await;
    connection.say(b"0\r\n\r\n").await;
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains(crate::rig::GUARD) {
        assert!(
            tokio::io::AsyncReadExt::read_buf(&mut connection.0, &mut said)
                .await
                .unwrap()
                > 0
        );
    }
    drop(connection);
    rig.stop().await;
}
