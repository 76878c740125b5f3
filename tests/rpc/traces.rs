//! Traces: the spans of calls as a collector gets them.

use babelward::{
    proto::{self, BatchClassifyItem, BatchClassifyRequest},
    rpc::Listeners,
    telemetry::{self, TraceExport, Tracer},
};
use tokio::net::TcpListener;
use tonic::{Code, Request, metadata::MetadataMap, transport::Identity};

use crate::{
    authority::Authority,
    collector::{Collector, Span},
    raw::Raw,
    rig::{GUARD, Rig, Setup, TARGET, classify, generate, local, score},
};

/// The caller's span in the example of the W3C's recommendation.
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const PARENT_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT_SPAN: &str = "b7ad6b7169203331";

/// Occurs in what callers write only.
const CANARY: &str = "xylophone";

struct Traced {
    rig: Rig,
    export: TraceExport,
}

impl Traced {
    async fn start(endpoint: String, sample_ratio: f64) -> Self {
        let mut headers = MetadataMap::new();
        headers.insert("authorization", "Bearer of-the-collector".parse().unwrap());
        let collector = telemetry::Collector {
            endpoint,
            headers,
            authorities: None,
            sample_ratio,
        };
        let (tracer, export) = telemetry::start_traces(collector).unwrap();
        let listeners = Listeners {
            tracer,
            ..local().await
        };
        Self {
            rig: Rig::on(Setup::default(), listeners).await,
            export,
        }
    }

    /// Ends server and export, so that all spans have been exported.
    async fn stop(self) {
        self.rig.stop().await;
        self.export.shutdown().await;
    }
}

fn within<T>(parent: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", parent.parse().unwrap());
    metadata.insert("tracestate", "vendor=7".parse().unwrap());
    metadata.insert("x-babelward-tenant", "team-7".parse().unwrap());
    request
}

fn names<'a>(spans: &[&'a Span]) -> Vec<&'a str> {
    spans.iter().map(|span| span.name.as_str()).collect()
}

/// The children of a span, which follow each other without gaps from its beginning to its end.
fn phases<'a>(parent: &Span, spans: &'a [Span]) -> Vec<&'a Span> {
    let children = parent.children(spans);
    let mut at = parent.began;
    for child in &children {
        assert_eq!(child.began, at, "{} of {}", child.name, parent.name);
        assert_eq!(child.trace, parent.trace);
        assert!(!child.is_server && !child.is_error);
        at = child.ended;
    }
    assert_eq!(at, parent.ended, "{}", parent.name);
    children
}

fn root<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let mut found = spans.iter().filter(|span| span.name == name);
    let root = found.next().unwrap_or_else(|| panic!("no {name} in {spans:#?}"));
    assert!(found.next().is_none(), "{spans:#?}");
    root
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_and_a_streamed_answer_have_a_span_for_each_phase() {
    let (collector, address) = Collector::start().await;
    let traced = Traced::start(format!("http://{address}"), 0.0).await;
    let (mut safety, mut generation) = (traced.rig.safety().await, traced.rig.generation().await);
    let verdict = safety
        .classify(within(PARENT, classify(&[CANARY])))
        .await
        .unwrap();
    let told = verdict.metadata().clone();
    let usage = verdict.into_inner().verdict.unwrap().usage.unwrap();
    let answer = generation
        .generate(within(PARENT, generate(&format!("say {CANARY}"))))
        .await;
    let mut answer = answer.unwrap().into_inner();
    let mut answered = None;
    while let Some(message) = answer.message().await.unwrap() {
        if let Some(proto::generate_response::Event::Finished(finished)) = message.event {
            answered = Some(finished.usage.unwrap());
        }
    }
    let answered = answered.unwrap();
    traced.stop().await;

    let spans = collector.spans();
    assert_eq!(spans.len(), 12, "{spans:#?}");
    let judged = root(&spans, "babelward.v1.SafetyService/Classify");
    let generated = root(&spans, "babelward.v1.GenerationService/Generate");
    for call in [judged, generated] {
        assert_eq!(
            (call.trace.as_str(), call.parent.as_str()),
            (PARENT_TRACE, PARENT_SPAN)
        );
        assert_eq!(call.state, "vendor=7");
        assert!(call.is_server && !call.is_error);
        assert_eq!(call.attribute("rpc.system.name"), "grpc");
        assert_eq!(call.attribute("rpc.method"), call.name);
        assert_eq!(call.attribute("rpc.response.status_code"), "OK");
        assert_eq!(call.attribute("babelward.tenant"), "team-7");
        assert_eq!(call.attribute("network.peer.address"), "127.0.0.1");
        let phases = phases(call, &spans);
        assert_eq!(names(&phases), ["rpc", "queue", "prefill", "decode", "reply"]);
        assert_eq!(phases[1].attribute("babelward.sequence"), "0");
    }
    assert_eq!(
        told.get("x-request-id").unwrap(),
        judged.attribute("babelward.request_id")
    );
    let response = format!("00-{}-{}-01", judged.trace, judged.id);
    assert_eq!(told.get("traceresponse").unwrap(), response.as_str());

    assert_eq!(judged.attribute("gen_ai.request.model"), GUARD);
    assert_eq!(generated.attribute("gen_ai.request.model"), TARGET);
    for (call, usage) in [(judged, usage), (generated, answered)] {
        let children = call.children(&spans);
        let (prefill, decode) = (children[2], children[3]);
        for span in [call, prefill] {
            assert_eq!(
                span.attribute("gen_ai.usage.input_tokens"),
                usage.prompt_tokens.to_string()
            );
        }
        for span in [call, decode] {
            let tokens = usage.completion_tokens.to_string();
            assert_eq!(span.attribute("gen_ai.usage.output_tokens"), tokens);
        }
    }
    assert!(!collector.knows(CANARY), "a span has text of a caller");
    let resource = collector.resource();
    assert_eq!(resource["service.name"], "babelward");
    let headers = collector.headers("authorization");
    assert!(
        headers
            .iter()
            .all(|value| value.as_deref() == Some("Bearer of-the-collector"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn items_and_samples_have_their_own_phases() {
    let (collector, address) = Collector::start().await;
    let traced = Traced::start(format!("http://{address}"), 1.0).await;
    let item = |id: &str, request| BatchClassifyItem {
        id: id.to_owned(),
        request: Some(request),
    };
    let wrong = proto::ClassifyRequest {
        model: CANARY.to_owned(),
        ..classify(&["hi"])
    };
    let batch = BatchClassifyRequest {
        items: vec![item("a", classify(&["hi"])), item(CANARY, wrong)],
    };
    traced.rig.safety().await.batch_classify(batch).await.unwrap();
    traced.rig.scoring().await.score(score("hi")).await.unwrap();
    traced.stop().await;

    let spans = collector.spans();
    let batch = root(&spans, "babelward.v1.SafetyService/BatchClassify");
    assert_eq!(batch.parent, "");
    assert_eq!(batch.attribute("babelward.items_ok"), "1");
    assert_eq!(batch.attribute("babelward.items_failed"), "1");
    let children = batch.children(&spans);
    let mut kinds = names(&children);
    kinds.sort_unstable();
    assert_eq!(kinds, ["item", "item", "reply", "rpc"]);
    let items = children.iter().filter(|span| span.name == "item");
    for item in items {
        let phases = phases(item, &spans);
        match item.attribute("babelward.item") {
            "0" => {
                assert_eq!(names(&phases), ["rpc", "queue", "prefill", "decode", "reply"]);
                assert_eq!(item.attribute("rpc.response.status_code"), "OK");
            }
            _ => {
                assert_eq!(names(&phases), ["rpc"]);
                assert_eq!(item.attribute("rpc.response.status_code"), "NOT_FOUND");
                assert_eq!(item.attribute("babelward.reason"), "MODEL_NOT_FOUND");
            }
        }
        // That the caller is wrong is no error of the server.
        assert!(!item.is_error);
    }

    let scored = root(&spans, "babelward.v1.ScoringService/Score");
    assert_ne!(scored.trace, batch.trace);
    let phases = phases(scored, &spans);
    let one = ["rpc", "queue", "prefill", "decode"];
    assert_eq!(names(&phases), [&one[..], &one, &["reply"]].concat());
    let models: Vec<_> = [1, 5]
        .map(|place| phases[place].attribute("gen_ai.request.model"))
        .into();
    assert_eq!(models, [TARGET, GUARD]);
    assert!(!collector.knows(CANARY), "a span has text of a caller");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_decides_whether_its_call_is_traced() {
    let (collector, address) = Collector::start().await;
    let traced = Traced::start(format!("http://{address}"), 0.0).await;
    let mut safety = traced.rig.safety().await;
    let unsampled = PARENT.replace("-01", "-00");
    let answer = safety
        .classify(within(&unsampled, classify(&["hi"])))
        .await
        .unwrap();
    let told = answer.metadata().get("traceresponse").unwrap().to_str().unwrap();
    assert!(
        told.starts_with(&unsampled[..36]) && told.ends_with("-00"),
        "{told}"
    );
    safety.classify(classify(&["hi"])).await.unwrap();
    // The last one is traced, so that there is something to wait for.
    safety.classify(within(PARENT, classify(&["hi"]))).await.unwrap();
    traced.stop().await;
    let spans = collector.spans();
    assert_eq!(spans.len(), 6, "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_the_server_are_errors_of_their_spans() {
    let (collector, address) = Collector::start().await;
    let mut traced = Traced::start(format!("http://{address}"), 1.0).await;
    traced.rig.gate.close();
    // A client without a timer of its own, which would end the call first on a busy machine.
    let client = Raw::connect(traced.rig.address).await;
    let late = tokio::spawn(async move {
        client
            .call("SafetyService/Classify", "200m", classify(&["hi"]))
            .await
    });
    traced.rig.blocked().await;
    assert_eq!(late.await.unwrap().code(), Code::DeadlineExceeded);
    traced.rig.gate.open();
    traced.rig.idle().await;
    let _ = traced.rig.begin_stop().await;
    traced.export.shutdown().await;
    let spans = collector.spans();
    let call = root(&spans, "babelward.v1.SafetyService/Classify");
    assert!(call.is_error, "{call:#?}");
    assert_eq!(call.attribute("rpc.response.status_code"), "DEADLINE_EXCEEDED");
    assert_eq!(call.attribute("error.type"), call.attribute("babelward.reason"));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_without_a_collector() {
    // A port on which nobody listens any more, and one on which nobody ever answers.
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for address in [gone, silent.local_addr().unwrap()] {
        let traced = Traced::start(format!("http://{address}"), 1.0).await;
        let mut safety = traced.rig.safety().await;
        for _ in 0..5 {
            safety.classify(classify(&["hi"])).await.unwrap();
        }
        traced.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_refused_at_the_entrance_are_not_traced() {
    let keys = crate::credentials::KeyFile::new();
    let (collector, address) = Collector::start().await;
    let collector_options = telemetry::Collector {
        endpoint: format!("http://{address}"),
        headers: MetadataMap::new(),
        authorities: None,
        sample_ratio: 1.0,
    };
    let (tracer, export): (Tracer, _) = telemetry::start_traces(collector_options).unwrap();
    let key = keys.add("user", &[babelward::auth::Scope::Classify]);
    let listeners = Listeners {
        security: crate::credentials::checked(&keys.open()),
        tracer,
        ..local().await
    };
    let rig = Rig::on(Setup::default(), listeners).await;
    let mut safety = rig.safety().await;
    assert!(safety.classify(within(PARENT, classify(&["hi"]))).await.is_err());
    let mut known = Request::new(classify(&["hi"]));
    let header = format!("Bearer {key}").parse().unwrap();
    known.metadata_mut().insert("authorization", header);
    safety.classify(known).await.unwrap();
    rig.stop().await;
    export.shutdown().await;
    let spans = collector.spans();
    let call = root(&spans, "babelward.v1.SafetyService/Classify");
    assert_eq!(call.attribute("babelward.tenant"), "user");
    assert!(!collector.knows(&key), "a span has a credential");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_with_tls_is_trusted_by_its_authority_alone() {
    let (authority, other) = (Authority::new(), Authority::new());
    let identity = authority.issue(&["127.0.0.1"]);
    let identity = Identity::from_pem(identity.certificate, identity.key);
    let (collector, address) = Collector::start_with_tls(identity).await;
    for (trusted, spans) in [(&other, 0), (&authority, 6)] {
        let options = telemetry::Collector {
            endpoint: format!("https://{address}"),
            headers: MetadataMap::new(),
            authorities: Some(trusted.certificate.clone().into_bytes()),
            sample_ratio: 1.0,
        };
        let (tracer, export) = telemetry::start_traces(options).unwrap();
        let listeners = Listeners {
            tracer,
            ..local().await
        };
        let rig = Rig::on(Setup::default(), listeners).await;
        rig.safety().await.classify(classify(&["hi"])).await.unwrap();
        rig.stop().await;
        export.shutdown().await;
        assert_eq!(collector.spans().len(), spans);
    }
}
