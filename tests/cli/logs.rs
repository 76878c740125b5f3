//! What a server logs of the calls it gets: a line for each, in both formats, as much as was asked for, and never a
//! caller's text.

use std::path::Path;

use babelward::proto::{
    self, BatchClassifyItem, BatchClassifyRequest, ClassifyRequest, ClassifyStreamRequest, Conversation,
    CountTokensRequest, GenerateRequest, GetModelRequest, JudgeOptions, Message, Policy, PolicyCategory,
    Role, ScoreRequest, StoppingParams, classify_request::PolicySource, classify_stream_request::Action,
    generate_request::Prompt, generation_service_client::GenerationServiceClient,
    model_service_client::ModelServiceClient, safety_service_client::SafetyServiceClient,
    scoring_service_client::ScoringServiceClient,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{Request, transport::Channel};

use crate::{
    serve::serve,
    support::{Server, command, run},
};

/// Occurs in what callers write only.
const CANARY: &str = "xylophone";

fn says(role: Role, content: &str) -> Message {
    Message {
        role: role.into(),
        content: format!("{CANARY} {content}"),
        ..Message::default()
    }
}

fn asked() -> Conversation {
    Conversation {
        messages: vec![says(Role::User, "how do I bake bread?")],
    }
}

fn policy() -> Policy {
    Policy {
        name: format!("{CANARY}-rules"),
        categories: vec![PolicyCategory {
            code: "S1".to_owned(),
            name: format!("{CANARY} sales"),
            description: format!("Offers of a {CANARY}."),
        }],
    }
}

fn generate() -> GenerateRequest {
    GenerateRequest {
        prompt: Some(Prompt::Conversation(Conversation {
            messages: vec![says(Role::System, "be kind"), says(Role::User, "hello")],
        })),
        stopping: Some(StoppingParams {
            max_new_tokens: 4,
            stop_sequences: vec![CANARY.to_owned()],
        }),
        ..Default::default()
    }
}

fn classify(policy_source: Option<PolicySource>) -> ClassifyRequest {
    ClassifyRequest {
        conversation: Some(asked()),
        policy_source,
        ..Default::default()
    }
}

/// With text in a header of the caller's own, and one in a header that would be an id were it printable.
fn marked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("x-note", CANARY.parse().unwrap());
    metadata.insert("x-request-id", format!("the {CANARY}").parse().unwrap());
    metadata.insert("authorization", format!("Bearer {CANARY}").parse().unwrap());
    metadata.insert("traceparent", format!("00-{CANARY}").parse().unwrap());
    metadata.insert("tracestate", format!("{CANARY}=1").parse().unwrap());
    metadata.insert("x-babelward-tenant", format!("{CANARY}/s").parse().unwrap());
    request
}

/// Calls with text wherever a request takes some; whether they are answered or refused does not matter. How many
/// there were.
async fn call_with_text_everywhere(channel: &Channel) -> usize {
    let mut safety = SafetyServiceClient::new(channel.clone());
    let mut generation = GenerationServiceClient::new(channel.clone());
    let mut scoring = ScoringServiceClient::new(channel.clone());
    let mut models = ModelServiceClient::new(channel.clone());
    let (by_name, inline) = (
        PolicySource::Policy(CANARY.to_owned()),
        PolicySource::InlinePolicy(policy()),
    );
    for source in [None, Some(by_name), Some(inline)] {
        let _ = safety.classify(marked(classify(source))).await;
    }
    let wrong_model = ClassifyRequest {
        model: CANARY.to_owned(),
        ..classify(None)
    };
    let _ = safety.classify(marked(wrong_model.clone())).await;
    let items = [classify(None), wrong_model.clone()];
    let batch = BatchClassifyRequest {
        items: items
            .iter()
            .enumerate()
            .map(|(index, item)| BatchClassifyItem {
                id: format!("{CANARY}-{index}"),
                request: Some(item.clone()),
            })
            .collect(),
    };
    safety.batch_classify(marked(batch)).await.unwrap();
    let items = items
        .into_iter()
        .enumerate()
        .map(|(index, item)| ClassifyStreamRequest {
            id: format!("{CANARY}-{index}"),
            action: Some(Action::Classify(item)),
            timeout: None,
        });
    let stream = marked(tokio_stream::iter(items.collect::<Vec<_>>()));
    let mut stream = safety.classify_stream(stream).await.unwrap().into_inner();
    while stream.message().await.unwrap().is_some() {}

    let mut answer = generation
        .generate(marked(generate()))
        .await
        .unwrap()
        .into_inner();
    while answer.message().await.unwrap().is_some() {}
    let raw = GenerateRequest {
        prompt: Some(Prompt::Text(CANARY.repeat(3))),
        model: CANARY.to_owned(),
        ..generate()
    };
    assert!(generation.generate(marked(raw)).await.is_err());
    let scored = ScoreRequest {
        generate: Some(GenerateRequest {
            prompt: Some(Prompt::Conversation(asked())),
            ..generate()
        }),
        judge: Some(JudgeOptions {
            policy_source: Some(proto::judge_options::PolicySource::InlinePolicy(policy())),
            ..Default::default()
        }),
        ..Default::default()
    };
    let _ = scoring.score(marked(scored)).await;
    let count = CountTokensRequest {
        text: CANARY.repeat(2000),
        ..Default::default()
    };
    models.count_tokens(marked(count)).await.unwrap();
    let name = CANARY.to_owned();
    assert!(models.get_model(marked(GetModelRequest { name })).await.is_err());

    let mut unknown = tonic::client::Grpc::new(channel.clone());
    unknown.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<ClassifyRequest, proto::ClassifyResponse>::default();
    let path = format!("/{CANARY}.Service/Play").parse().unwrap();
    assert!(unknown.unary(marked(classify(None)), path, codec).await.is_err());
    12
}

/// Ends a connection with an error that has text in it, as HTTP/2 allows.
async fn leave_with_text(address: &str) {
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // Empty SETTINGS; GOAWAY of the last stream 0 for INTERNAL_ERROR.
    said.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    said.extend([0, 0, 8 + CANARY.len() as u8, 7, 0, 0, 0, 0, 0]);
    said.extend([0, 0, 0, 0, 0, 0, 0, 2]);
    said.extend(CANARY.as_bytes());
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(&said).await.unwrap();
    // An end or a reset: the server is done with it.
    let _ = connection.read_to_end(&mut Vec::new()).await;
}

#[tokio::test]
async fn a_callers_text_is_logged_at_no_level() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--log-level", "trace", "--log-format", "json"];
    let mut server = Server::start(&mut serve(folder.path(), &arguments));
    let started: Value = serde_json::from_str(&server.wait_for("\"serving\"")).unwrap();
    let address = format!("http://{}", started["address"].as_str().unwrap());
    let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
    let calls = call_with_text_everywhere(&channel).await;
    drop(channel);
    leave_with_text(started["address"].as_str().unwrap()).await;
    server.wait_for("a connection failed");
    server.signal("TERM");
    let (status, stderr, _) = server.end();
    assert!(status.success(), "{stderr}");

    let told = stderr.lines().find(|line| line.contains(CANARY));
    assert_eq!(told, None, "the log has text of a caller");
    let lines = stderr.lines().map(|line| serde_json::from_str(line).unwrap());
    let ended: Vec<Value> = lines
        .filter(|line: &Value| line["message"] == "call ended" && line["level"] == "INFO")
        .collect();
    assert_eq!(ended.len(), calls, "one line for each call: {ended:#?}");
    let mut ids: Vec<_> = ended
        .iter()
        .map(|line| line["span"]["id"].as_str().unwrap())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), calls, "{ids:?}");
}

/// The URL of a server that was started for people.
fn started(folder: &Path, arguments: &[&str]) -> (Server, String) {
    let mut server = Server::start(&mut serve(folder, arguments));
    let url = server.url("  gRPC");
    (server, url)
}

#[test]
fn twice_verbose_shows_the_way_of_a_call_and_the_engines_steps() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, url) = started(folder.path(), &["-vv"]);
    let outcome = run(command(folder.path()).args(["classify", "-v", "hello", "--server", &url]));
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    server.signal("TERM");
    let (_, log, _) = server.end();
    let line = |part: &str| {
        let found = log.lines().find(|line| line.contains(part));
        found.unwrap_or_else(|| panic!("`{part}` is not in\n{log}"))
    };
    let ended = line("call ended");
    let (_, rest) = ended.split_once("INFO call{id=\"").unwrap();
    let (id, rest) = rest.split_once('"').unwrap();
    assert!(
        rest.starts_with(
            " method=babelward.v1.SafetyService/Classify}: babelward::access: call ended code=OK model=smol \
             peer=127.0.0.1:"
        ),
        "{ended}"
    );
    for part in ["a call begins", "a sequence is queued", "a sequence is complete"] {
        let line = line(part);
        assert!(
            line.contains("DEBUG") && line.contains(&format!("call{{id=\"{id}\"")),
            "{line}"
        );
    }
    assert!(line("a step").contains("TRACE babelward::engine::stats"));
    // The client knows the call by the same id.
    assert!(
        outcome.stderr.contains("a call was answered") && outcome.stderr.contains(id),
        "{}",
        outcome.stderr
    );
}

#[test]
fn the_lines_of_calls_can_be_left_out_and_ids_stay() {
    let folder = tempfile::tempdir().unwrap();
    let mut by_directive = serve(
        folder.path(),
        &["--allow-admin", "--log-level", "info,babelward::access=warn"],
    );
    let mut by_key = serve(folder.path(), &["--allow-admin"]);
    by_key.env("BABELWARD_TELEMETRY__ACCESS_LOG", "false");
    for command_line in [&mut by_directive, &mut by_key] {
        let mut server = Server::start(command_line);
        let url = server.url("  gRPC");
        let outcome = run(command(folder.path()).args(["models", "unload", "smol", "--server", &url]));
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        server.signal("TERM");
        let (_, log, _) = server.end();
        assert!(!log.contains("call ended"), "{log}");
        let unloaded = log.lines().find(|line| line.contains("unloaded")).unwrap();
        assert!(
            unloaded.contains("call{id=\"") && unloaded.contains("AdminService/UnloadModel"),
            "{unloaded}"
        );
    }
}

/// The caller's span in the example of the W3C's recommendation.
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn a_call_is_found_by_its_id_and_by_its_callers_trace() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(&mut serve(folder.path(), &["--log-format", "json"]));
    let started: Value = serde_json::from_str(&server.wait_for("\"serving\"")).unwrap();
    let address = format!("http://{}", started["address"].as_str().unwrap());
    let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
    let mut safety = SafetyServiceClient::new(channel);
    let call = |id: Option<&str>, parent: Option<&str>, model: &str| {
        let mut request = Request::new(ClassifyRequest {
            model: model.to_owned(),
            ..classify(None)
        });
        let metadata = request.metadata_mut();
        for (name, value) in [("x-request-id", id), ("traceparent", parent)] {
            if let Some(value) = value {
                metadata.insert(name, value.parse().unwrap());
            }
        }
        metadata.insert("x-babelward-tenant", "team-7".parse().unwrap());
        request
    };
    let told = |metadata: &tonic::metadata::MetadataMap, name: &str| {
        let value = metadata.get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    let cases = [
        (Some("run-7"), None),
        (Some("run-8"), Some(PARENT)),
        (None, Some(PARENT)),
    ];
    let mut expected = Vec::new();
    for (id, parent) in cases {
        for (model, code) in [("smol", "OK"), ("nowhere", "NOT_FOUND")] {
            // The headers of an answer, and the trailers of an error.
            let metadata = match safety.classify(call(id, parent, model)).await {
                Ok(response) => response.metadata().clone(),
                Err(status) => status.metadata().clone(),
            };
            let trace = told(&metadata, "traceresponse");
            assert_eq!(trace.is_some(), parent.is_some());
            if let Some(trace) = &trace {
                assert_eq!(trace[..36], PARENT[..36]);
                assert_ne!(trace[36..52], PARENT[36..52], "the call has a span of its own");
            }
            let told_id = told(&metadata, "x-request-id").unwrap();
            match (id, trace) {
                (Some(id), _) => assert_eq!(told_id, id),
                (None, trace) => assert_eq!(told_id, trace.unwrap()[3..52], "the call's trace and span"),
            }
            expected.push((told_id, parent.map(|parent| parent[3..35].to_owned()), code));
        }
    }
    server.signal("TERM");
    let (_, log, _) = server.end();
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
    let ended: Vec<Value> = lines
        .filter(|line: &Value| line["message"] == "call ended")
        .collect();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let found: Vec<_> = ended
        .iter()
        .map(|line| {
            let span = &line["span"];
            (
                text(&span["id"]).unwrap(),
                text(&span["trace_id"]),
                line["code"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(found, expected);
    for line in &ended {
        assert_eq!(line["span"]["method"], "babelward.v1.SafetyService/Classify");
        assert_eq!(line["tenant"], "team-7");
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
        assert!(line["total_ms"].as_f64().is_some(), "{line}");
        let is_answered = line["code"] == "OK";
        for figure in ["queue_ms", "prompt_tokens", "answer_tokens"] {
            assert_eq!(line[figure].is_number(), is_answered, "{line}");
        }
    }
}
