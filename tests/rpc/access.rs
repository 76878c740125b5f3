//! The access log: one line for each call, however it ends, with what it took and without what it said; and the
//! call's id in whatever else is logged on its behalf.

use std::{
    io,
    sync::{Mutex, OnceLock},
    time::Duration,
};

use babelward::{
    proto::{self, classify_stream_request::Action},
    registry::LoadPolicy,
    rpc::{DefaultDeadlines, ServerOptions},
};
use serde_json::Value;
use tonic::{Code, Request};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    fleet::Fleet,
    rig::{
        GUARD, Rig, Setup, TARGET, classify, eventually, generate, generate_tokens, reason, requests, score,
    },
};

const TARGET_OF_LINES: &str = "babelward::access";

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
pub fn listen() {
    static LISTENING: OnceLock<()> = OnceLock::new();
    LISTENING.get_or_init(|| {
        tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .with_env_filter("babelward=debug")
            .with_writer(|| Log)
            .init();
    });
}

/// The lines of the call with this id.
fn lines(id: &str) -> Vec<Value> {
    let log = LOG.lock().unwrap().clone();
    String::from_utf8(log)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["span"]["id"] == id)
        .collect()
}

fn access_lines(id: &str, level: &str) -> Vec<Value> {
    let mut lines = lines(id);
    lines.retain(|line| line["target"] == TARGET_OF_LINES && line["level"] == level);
    lines
}

/// The one line of a call that has ended.
async fn line(id: &str) -> Value {
    eventually("the call's line is written", || {
        !access_lines(id, "INFO").is_empty()
    })
    .await;
    let mut lines = access_lines(id, "INFO");
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.remove(0)
}

/// How the call ended, by its line.
pub async fn outcome(id: &str) -> (String, String) {
    let line = line(id).await;
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    (text("code"), text("reason"))
}

/// How a call of somebody who is not known ended: only a line at debug level says it, so that strangers cannot fill the log.
pub async fn stranger_outcome(id: &str) -> (String, String) {
    eventually("the call's line is written", || {
        !access_lines(id, "DEBUG").is_empty()
    })
    .await;
    let lines = access_lines(id, "DEBUG");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(access_lines(id, "INFO"), [] as [Value; 0]);
    assert_eq!(lines[0].get("tenant"), None);
    let text = |key: &str| lines[0][key].as_str().unwrap_or_default().to_owned();
    (text("code"), text("reason"))
}

/// The tenant in a call's line; empty if there is none.
pub async fn tenant(id: &str) -> String {
    line(id).await["tenant"].as_str().unwrap_or_default().to_owned()
}

/// Everything that was logged.
pub fn whole_log() -> String {
    String::from_utf8(LOG.lock().unwrap().clone()).unwrap()
}

fn pair(code: &str, reason: &str) -> (String, String) {
    (code.to_owned(), reason.to_owned())
}

/// A request with the id that its lines are found by.
pub fn tagged<T>(id: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-request-id", id.parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answered_call_says_what_it_took() {
    listen();
    let rig = Rig::start().await;
    let mut request = tagged("log-classify", classify(&["fine"]));
    request
        .metadata_mut()
        .insert("x-babelward-tenant", "team-7".parse().unwrap());
    let verdict = rig.safety().await.classify(request).await.unwrap().into_inner();
    let usage = verdict.verdict.unwrap().usage.unwrap();
    let judged = line("log-classify").await;
    assert_eq!(judged["message"], "call ended");
    assert_eq!(judged["span"]["method"], "babelward.v1.SafetyService/Classify");
    assert_eq!(judged["code"], "OK");
    assert_eq!(judged.get("reason"), None);
    assert_eq!(judged["model"], GUARD);
    assert_eq!(judged["tenant"], "team-7");
    assert_eq!(judged["sequences"], 1);
    assert_eq!(judged["prompt_tokens"], usage.prompt_tokens);
    assert_eq!(judged["cached_tokens"], usage.cached_prompt_tokens);
    let millis = |line: &Value, key: &str| line[key].as_f64().unwrap();
    let parts = ["queue_ms", "prefill_ms", "decode_ms"].map(|key| millis(&judged, key));
    // Each part is rounded.
    assert!(
        parts.iter().sum::<f64>() <= millis(&judged, "total_ms") + 0.2,
        "{judged}"
    );

    let request = tagged("log-generate", generate("[say Hello.]"));
    let mut answer = rig
        .generation()
        .await
        .generate(request)
        .await
        .unwrap()
        .into_inner();
    let mut usage = None;
    while let Some(event) = answer.message().await.unwrap() {
        if let Some(proto::generate_response::Event::Finished(finished)) = event.event {
            usage = finished.usage;
        }
    }
    let written = line("log-generate").await;
    assert_eq!(written["model"], TARGET);
    assert_eq!(written.get("tenant"), None);
    assert_eq!(written["answer_tokens"], usage.unwrap().completion_tokens);

    let mut request = score("[say Hello.]");
    request.samples = 2;
    rig.scoring()
        .await
        .score(tagged("log-score", request))
        .await
        .unwrap();
    let scored = line("log-score").await;
    assert_eq!(scored["model"], format!("{TARGET},{GUARD}"));
    assert_eq!(
        scored["sequences"], 4,
        "each sample is written and judged: {scored}"
    );

    // A call that asks nothing of the engine has no figures of it.
    let request = tagged("log-list", proto::ListModelsRequest::default());
    rig.models().await.list_models(request).await.unwrap();
    let listed = line("log-list").await;
    assert_eq!(listed["code"], "OK");
    for key in ["model", "sequences", "prompt_tokens", "queue_ms", "items_ok"] {
        assert_eq!(listed.get(key), None, "{listed}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_calls_have_their_line_with_the_reason() {
    listen();
    let mut rig = Rig::with(Setup {
        queue_items: 1,
        ..Default::default()
    })
    .await;
    let mut safety = rig.safety().await;
    let empty = tagged("log-invalid", proto::ClassifyRequest::default());
    safety.classify(empty).await.unwrap_err();
    assert_eq!(
        outcome("log-invalid").await,
        pair("INVALID_ARGUMENT", "INVALID_FIELDS")
    );

    // A name that no model has is somebody's text.
    let mut request = classify(&["fine"]);
    request.model = "open-sesame".to_owned();
    safety.classify(tagged("log-nobody", request)).await.unwrap_err();
    assert_eq!(outcome("log-nobody").await, pair("NOT_FOUND", "MODEL_NOT_FOUND"));
    assert_eq!(line("log-nobody").await["model"], "unknown");
    let request = proto::LoadModelRequest {
        name: TARGET.to_owned(),
        ..Default::default()
    };
    let admin = tagged("log-admin", request);
    rig.admin().await.load_model(admin).await.unwrap_err();
    assert_eq!(
        outcome("log-admin").await,
        pair("PERMISSION_DENIED", "ADMIN_DISABLED")
    );
    assert_eq!(line("log-admin").await["model"], TARGET);

    rig.gate.close();
    let mut open = Vec::new();
    for text in ["first", "second"] {
        let (mut client, request) = (safety.clone(), classify(&[text]));
        open.push(tokio::spawn(async move { client.classify(request).await }));
        rig.blocked().await;
    }
    eventually("the queue is full", || rig.stats().queued == 1).await;
    let third = tagged("log-full", classify(&["third"]));
    let status = safety.classify(third).await.unwrap_err();
    assert_eq!(reason(&status, Code::ResourceExhausted).0, "QUEUE_FULL");
    let refused = line("log-full").await;
    assert_eq!(refused["reason"], "QUEUE_FULL");
    assert_eq!(refused["model"], GUARD, "its default is known: {refused}");
    assert_eq!(refused.get("sequences"), None, "the engine did not take it");

    let server = rig.begin_stop();
    eventually("the drain begins", || rig.registry.is_draining()).await;
    let late = tagged("log-late", classify(&["late"]));
    rig.safety().await.classify(late).await.unwrap_err();
    assert_eq!(outcome("log-late").await, pair("UNAVAILABLE", "SERVER_DRAINING"));
    rig.gate.open();
    for call in open {
        call.await.unwrap().unwrap();
    }
    server.await.unwrap().unwrap();
}

/// The deadline is the server's: a client that knows it may cancel first.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_runs_out_of_time_has_its_line() {
    listen();
    let options = ServerOptions {
        default_deadlines: DefaultDeadlines {
            classify: Duration::from_millis(30),
            ..Default::default()
        },
        ..Default::default()
    };
    let rig = Rig::with(Setup {
        options,
        ..Default::default()
    })
    .await;
    rig.gate.close();
    let late = tagged("log-deadline", classify(&["late"]));
    rig.safety().await.classify(late).await.unwrap_err();
    assert_eq!(
        outcome("log-deadline").await,
        pair("DEADLINE_EXCEEDED", "DEADLINE")
    );
    rig.gate.open();
    rig.idle().await;
    rig.stop().await;
    assert_eq!(access_lines("log-deadline", "INFO").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_end_early_have_their_line_once() {
    listen();
    let rig = Rig::start().await;
    rig.gate.close();
    let mut client = rig.safety().await;
    let request = tagged("log-cancelled", classify(&["cancelled"]));
    let call = tokio::spawn(async move { client.classify(request).await });
    rig.blocked().await;
    call.abort();
    assert_eq!(
        outcome("log-cancelled").await,
        pair("CANCELLED", "CLIENT_CANCELLED")
    );
    rig.gate.open();
    rig.idle().await;

    // The connection is gone in the middle of an answer.
    let request = tagged("log-gone", generate_tokens("babble", 3500));
    let mut client = rig.generation().await;
    let mut answer = client.generate(request).await.unwrap().into_inner();
    for _ in 0..3 {
        assert!(answer.message().await.unwrap().is_some());
    }
    drop((answer, client));
    assert_eq!(outcome("log-gone").await, pair("CANCELLED", "CLIENT_CANCELLED"));
    let gone = line("log-gone").await;
    assert!(gone["answer_tokens"].as_u64().unwrap() >= 2, "{gone}");
    assert!(gone["decode_ms"].as_f64().is_some(), "{gone}");
    rig.idle().await;
    rig.stop().await;
    for id in ["log-cancelled", "log-gone"] {
        assert_eq!(access_lines(id, "INFO").len(), 1, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_of_a_batch_sums_up_its_items() {
    listen();
    let rig = Rig::start().await;
    let item = |id: &str, contents: &[&str]| proto::BatchClassifyItem {
        id: id.to_owned(),
        request: Some(classify(contents)),
    };
    let request = proto::BatchClassifyRequest {
        items: vec![
            item("one", &["fine"]),
            item("two", &[]),
            item("three", &["[unsafe]"]),
        ],
    };
    rig.safety()
        .await
        .batch_classify(tagged("log-batch", request))
        .await
        .unwrap();
    let whole = line("log-batch").await;
    assert_eq!(whole["code"], "OK");
    assert_eq!(
        (&whole["items_ok"], &whole["items_failed"]),
        (&2.into(), &1.into())
    );
    assert_eq!(whole["item_errors"], "INVALID_ARGUMENT:1");
    assert_eq!((&whole["model"], &whole["sequences"]), (&GUARD.into(), &2.into()));

    let items = access_lines("log-batch", "DEBUG");
    let items: Vec<_> = items
        .iter()
        .filter(|line| line["message"] == "item ended")
        .collect();
    assert_eq!(items.len(), 3, "{items:?}");
    let failed: Vec<_> = items.iter().filter(|item| item["code"] != "OK").collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(
        (&failed[0]["item"], &failed[0]["reason"]),
        (&1.into(), &"INVALID_FIELDS".into())
    );
    let sum: u64 = items
        .iter()
        .filter_map(|item| item["prompt_tokens"].as_u64())
        .sum();
    assert_eq!(whole["prompt_tokens"], sum);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_of_a_stream_counts_what_was_open_when_it_broke() {
    listen();
    let rig = Rig::start().await;
    let ask = |id: &str, contents: &[&str]| proto::ClassifyStreamRequest {
        id: id.to_owned(),
        action: Some(Action::Classify(classify(contents))),
        timeout: None,
    };
    let (send, receive) = requests();
    send.send(ask("a", &["fine"])).unwrap();
    send.send(ask("b", &[])).unwrap();
    let mut stream = rig
        .safety()
        .await
        .classify_stream(tagged("log-stream", receive))
        .await
        .unwrap()
        .into_inner();
    for _ in 0..2 {
        assert!(stream.message().await.unwrap().is_some());
    }
    rig.gate.close();
    send.send(ask("c", &["open"])).unwrap();
    rig.blocked().await;
    // The same id again ends the stream.
    send.send(ask("c", &["open"])).unwrap();
    let status = stream.message().await.unwrap_err();
    assert_eq!(reason(&status, Code::InvalidArgument).0, "ITEM_ID_OPEN");
    let ended = line("log-stream").await;
    assert_eq!(
        (&ended["code"], &ended["reason"]),
        (&"INVALID_ARGUMENT".into(), &"ITEM_ID_OPEN".into())
    );
    assert_eq!(
        (&ended["items_ok"], &ended["items_failed"]),
        (&1.into(), &2.into())
    );
    assert_eq!(ended["item_errors"], "CANCELLED:1,INVALID_ARGUMENT:1");
    rig.gate.open();
    rig.idle().await;

    // A client that is gone leaves the same behind.
    rig.gate.close();
    let (send, receive) = requests();
    send.send(ask("a", &["open"])).unwrap();
    let stream = rig
        .safety()
        .await
        .classify_stream(tagged("log-left", receive))
        .await
        .unwrap();
    rig.blocked().await;
    drop((stream, send));
    assert_eq!(outcome("log-left").await, pair("CANCELLED", "CLIENT_CANCELLED"));
    assert_eq!(line("log-left").await["item_errors"], "CANCELLED:1");
    rig.gate.open();
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_quiet_and_unknown_methods_are_not_repeated() {
    listen();
    let rig = Rig::start().await;
    let everything = HealthCheckRequest {
        service: String::new(),
    };
    HealthClient::new(rig.channel().await)
        .check(tagged("log-probe", everything))
        .await
        .unwrap();
    assert_eq!(access_lines("log-probe", "INFO"), Vec::<Value>::new());
    let probes = access_lines("log-probe", "DEBUG");
    assert_eq!(probes.len(), 1, "{probes:?}");
    assert_eq!(probes[0]["span"]["method"], "grpc.health.v1.Health/Check");

    for (id, path) in [
        ("log-odd", "/open.sesame/Please"),
        ("log-near", "/babelward.v1.SafetyService/Sesame"),
    ] {
        let mut client = tonic::client::Grpc::new(rig.channel().await);
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<proto::ClassifyRequest, proto::ClassifyResponse>::default();
        let request = tagged(id, classify(&["hi"]));
        let status = client
            .unary(request, path.parse().unwrap(), codec)
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
        assert_eq!(status.metadata().get("x-request-id").unwrap(), id);
        let odd = line(id).await;
        assert_eq!(
            (&odd["code"], &odd["span"]["method"]),
            (&"UNIMPLEMENTED".into(), &"unknown".into())
        );
        assert!(!odd.to_string().to_lowercase().contains("sesame"), "{odd}");
    }
    rig.stop().await;
}

/// Also what is logged on other threads: a model's load belongs to the call that sent for it.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_logged_for_a_call_has_its_id() {
    listen();
    let fleet = Fleet::start(&[("lazy", LoadPolicy::Lazy), ("other", LoadPolicy::Lazy)], 1).await;
    for (id, model) in [("log-lazy", "lazy"), ("log-other", "other")] {
        let request = proto::GenerateRequest {
            model: model.to_owned(),
            ..generate("[say Hello.]")
        };
        let mut answer = fleet
            .rig
            .generation()
            .await
            .generate(tagged(id, request))
            .await
            .unwrap()
            .into_inner();
        while answer.message().await.unwrap().is_some() {}
    }
    let messages = |id: &str| {
        let lines = lines(id);
        let messages = lines
            .iter()
            .map(|line| line["message"].as_str().unwrap().to_owned());
        messages.collect::<Vec<_>>()
    };
    line("log-other").await;
    let way = [
        "a call begins",
        "a request waits until the model is in memory",
        "loaded",
        "a sequence is queued",
        "prefill begins",
        "a sequence is complete",
        "call ended",
    ];
    for id in ["log-lazy", "log-other"] {
        for part in way {
            // The thread that loads may say so after the call has ended.
            eventually(part, || messages(id).iter().any(|message| message == part)).await;
        }
    }
    assert!(messages("log-other").contains(&"evicted".to_owned()));
    fleet.stop().await;
}
