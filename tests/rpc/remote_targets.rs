//! Targets that an endpoint computes: Generate, GenerateStream and Score with one, beside models that are in memory here, against an
//! endpoint that answers by script.

use babelward::{
    engine::ModelStats,
    proto::{
        self, AnswerGuard, Determinism, FinishReason, GenerateRequest, GenerateResponse, GuardCadence,
        GuardOptions, Label, generate_request::Prompt, generate_response::Event,
        generate_stream_request::Action, generate_stream_response::Result as Answered, guard_ended,
        model::State,
    },
    registry::{ModelRole, RemoteSpec},
    remote::{EndpointApi, EndpointOptions},
};
use serde_json::json;
use tokio::sync::watch;
use tonic::{Code, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    endpoint::{Asked, Endpoint, Piece, Reply, chat_piece, completion_piece, models, usage, usage_piece},
    remote_endpoint::options,
    rig::{Rig, Setup, eventually, generate, item_reason, reason, requests, score, violated},
};

/// What the model is called here.
const BIG: &str = "big";

/// A server with one remote target.
async fn rig_with(endpoint: EndpointOptions) -> Rig {
    let remote = RemoteSpec {
        roles: vec![ModelRole::Target],
        guard_kind: None,
        tokenizer: None,
        endpoint,
    };
    Rig::with(Setup {
        remotes: vec![remote],
        ..Setup::default()
    })
    .await
}

async fn rig(endpoint: &Endpoint) -> Rig {
    rig_with(options(endpoint)).await
}

/// What the endpoint says of itself, as vLLM does; `answer` answers everything else.
fn script(
    answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
) -> impl Fn(&Asked) -> Reply + Send + Sync + 'static {
    move |asked| match asked.path.as_str() {
        "/v1/models" => Reply::json(&models("served")),
        "/version" => Reply::json(&json!({"version": "0.9.1"})),
        _ if asked.is_description() => Reply::refusal(404, "there is no such path"),
        _ => answer(asked),
    }
}

/// A streamed chat completion of these pieces, complete.
fn chat(pieces: &[&str]) -> Vec<Piece> {
    let mut all: Vec<Piece> = pieces.iter().map(|piece| chat_piece(piece, None)).collect();
    all.extend([
        chat_piece("", Some("stop")),
        usage_piece(usage(9, pieces.len())),
        Piece::done(),
    ]);
    all
}

fn ask(content: &str) -> GenerateRequest {
    GenerateRequest {
        model: BIG.to_owned(),
        ..generate(content)
    }
}

/// All events of an answer, and the error that ended it.
async fn events(rig: &Rig, request: GenerateRequest) -> (Vec<Event>, Option<Status>) {
    let mut stream = match rig.generation().await.generate(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => return (Vec::new(), Some(status)),
    };
    let mut events = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(GenerateResponse { event })) => events.push(event.unwrap()),
            Ok(None) => return (events, None),
            Err(status) => return (events, Some(status)),
        }
    }
}

/// A whole answer.
struct Answer {
    started: proto::GenerateStarted,
    text: String,
    finished: proto::GenerateFinished,
}

async fn answer(rig: &Rig, request: GenerateRequest) -> Answer {
    let (events, error) = events(rig, request).await;
    assert!(error.is_none(), "{error:?}");
    let mut events = events.into_iter();
    let Some(Event::Started(started)) = events.next() else {
        panic!("the first event is Started");
    };
    let Some(Event::Finished(finished)) = events.next_back() else {
        panic!("the last event is Finished");
    };
    let mut text = String::new();
    for event in events {
        if let Event::Delta(delta) = event {
            assert_eq!(delta.offset_bytes, text.len() as u64);
            assert!(delta.token_ids.is_empty());
            text.push_str(&delta.text);
        }
    }
    assert_eq!(finished.text_digest, babelward::digest::of_bytes(&text));
    Answer {
        started,
        text,
        finished,
    }
}

async fn refused(rig: &Rig, request: GenerateRequest) -> Status {
    let (events, error) = events(rig, request).await;
    assert!(events.is_empty(), "{events:?}");
    error.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_that_it_is_remote_and_what_the_endpoint_said() {
    let endpoint = Endpoint::start(script(|_| Reply::events(chat(&["Bon", "jour"])))).await;
    let rig = rig(&endpoint).await;
    let Answer {
        started,
        text,
        finished,
    } = answer(&rig, ask("Salut")).await;
    assert_eq!(text, "Bonjour");
    assert_eq!(finished.finish_reason(), FinishReason::Eos);
    let counted = finished.usage.unwrap();
    assert_eq!((counted.prompt_tokens, counted.completion_tokens), (9, 2));
    assert!(finished.timing.unwrap().total.is_some());
    let provenance = started.provenance.unwrap();
    assert_eq!(
        (provenance.model.as_str(), provenance.device.as_str()),
        (BIG, "remote")
    );
    assert_eq!(provenance.determinism(), Determinism::BestEffort);
    assert_eq!(provenance.seed, Some(1));
    assert_eq!(provenance.model_digest, "");
    let expected = proto::RemoteEngine {
        endpoint: endpoint.url(),
        model: "served".to_owned(),
        reported_model: "served".to_owned(),
        reported_fingerprint: String::new(),
        software: "vllm".to_owned(),
        software_version: "0.9.1".to_owned(),
        context_tokens: 4096,
    };
    assert_eq!(provenance.remote, Some(expected));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_was_asked_reaches_the_endpoint() {
    let endpoint = Endpoint::start(script(|asked| match asked.path.as_str() {
        "/v1/completions" => Reply::events(vec![completion_piece(" upon", Some("length"))]),
        _ => Reply::events(chat(&["Hi"])),
    }))
    .await;
    let rig = rig(&endpoint).await;
    let mut request = ask("Hello");
    request.sampling = Some(proto::SamplingParams {
        temperature: Some(0.5),
        top_p: Some(0.9),
        top_k: Some(40),
        seed: Some(u64::MAX),
        ..proto::SamplingParams::default()
    });
    request.stopping.as_mut().unwrap().stop_sequences = vec!["END".to_owned()];
    // The seed as it was sent, although engines take 63 bits of it.
    assert_eq!(answer(&rig, request.clone()).await.started.seed, u64::MAX);
    let sent = &endpoint.bodies("/v1/chat/completions")[0];
    let expected = json!({"model": "served", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16,
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "seed": i64::MAX, "stop": ["END"], "stream": true,
        "stream_options": {"include_usage": true}});
    assert_eq!(sent, &expected);

    request.prompt = Some(Prompt::Text("Once".to_owned()));
    let raw = answer(&rig, request).await;
    assert_eq!(
        (raw.text.as_str(), raw.finished.finish_reason()),
        (" upon", FinishReason::MaxTokens)
    );
    assert_eq!(raw.finished.usage, None);
    assert_eq!(endpoint.bodies("/v1/completions")[0]["prompt"], "Once");
    let asked = endpoint.asked();
    let answered = asked.iter().filter(|one| !one.is_description());
    // The time that the caller waits: two minutes where it does not say.
    for one in answered {
        let left: u64 = one.header("x-request-timeout-ms").parse().unwrap();
        assert!((1..=120_000).contains(&left), "{left}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_strings_end_an_answer_even_where_the_endpoint_ignores_them() {
    let endpoint = Endpoint::start(script(|_| {
        let mut pieces: Vec<Piece> = ["one tw", "o STO", "P three"]
            .map(|text| chat_piece(text, None))
            .into();
        pieces.push(Piece::Stall);
        Reply::events(pieces)
    }))
    .await;
    let rig = rig(&endpoint).await;
    let mut request = ask("count");
    request.stopping.as_mut().unwrap().stop_sequences = vec!["STOP".to_owned()];
    let stopped = answer(&rig, request).await;
    assert_eq!(stopped.text, "one two ");
    assert_eq!(stopped.finished.finish_reason(), FinishReason::StopSequence);
    assert_eq!(stopped.finished.stop_sequence, "STOP");
    endpoint.until_left(1).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_endpoint_cannot_be_asked_is_refused_by_field() {
    let endpoint = Endpoint::start(script(|_| Reply::events(chat(&["Hi"])))).await;
    let rig = rig(&endpoint).await;
    let mut request = ask("Hello");
    request.prompt = Some(Prompt::TokenIds(proto::TokenIds { ids: vec![1] }));
    request.sampling.as_mut().unwrap().repetition_penalty = Some(1.1);
    request.logprobs = Some(proto::LogprobOptions {
        generated: true,
        top_n: 0,
    });
    let status = refused(&rig, request).await;
    assert_eq!(reason(&status, Code::InvalidArgument).0, "INVALID_FIELDS");
    assert_eq!(
        violated(&status),
        ["token_ids", "sampling.repetition_penalty", "logprobs.generated"]
    );
    rig.stop().await;
    for (api, field, prompt) in [
        (EndpointApi::Completions, "conversation", ask("Hello").prompt),
        (EndpointApi::Chat, "text", Some(Prompt::Text("Once".to_owned()))),
    ] {
        let rig = rig_with(EndpointOptions {
            api,
            ..options(&endpoint)
        })
        .await;
        let request = GenerateRequest { prompt, ..ask("") };
        assert_eq!(violated(&refused(&rig, request).await), [field]);
        rig.stop().await;
    }
    assert!(endpoint.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn models_that_are_remote_are_listed_and_never_loaded_or_counted_with() {
    let endpoint = Endpoint::start(script(|_| Reply::events(chat(&["Hi"])))).await;
    let mut setup = Setup {
        remotes: vec![RemoteSpec {
            roles: vec![ModelRole::Target],
            guard_kind: None,
            tokenizer: None,
            endpoint: options(&endpoint),
        }],
        ..Setup::default()
    };
    setup.options.allow_admin = true;
    let rig = Rig::with(setup).await;
    let listed = rig
        .models()
        .await
        .list_models(proto::ListModelsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let listed = listed.models.into_iter().find(|model| model.name == BIG).unwrap();
    assert_eq!((listed.state(), listed.device.as_str()), (State::Ready, "remote"));
    assert_eq!(
        (listed.digest.as_str(), listed.resident_bytes, listed.load),
        ("", 0, 0)
    );
    let named = proto::GetModelRequest { name: BIG.to_owned() };
    let got = rig.models().await.get_model(named).await.unwrap().into_inner();
    let got = got.model.unwrap();
    assert_eq!(
        (got.context_tokens, got.capabilities),
        (4096, listed.capabilities)
    );
    assert_eq!(got.remote.unwrap().software, "vllm");

    let unsupported = |status: Status| reason(&status, Code::FailedPrecondition).0;
    let mut admin = rig.admin().await;
    let name = BIG.to_owned();
    let load = proto::LoadModelRequest {
        name: name.clone(),
        ..proto::LoadModelRequest::default()
    };
    let unload = proto::UnloadModelRequest {
        name: name.clone(),
        ..proto::UnloadModelRequest::default()
    };
    let pin = proto::PinModelRequest {
        name: name.clone(),
        pinned: true,
    };
    let estimate = proto::EstimateModelRequest {
        name: name.clone(),
        ..proto::EstimateModelRequest::default()
    };
    let count = proto::CountTokensRequest {
        model: name,
        text: "Hello".to_owned(),
    };
    for refused in [
        admin.load_model(load).await.unwrap_err(),
        admin.unload_model(unload).await.unwrap_err(),
        admin.pin_model(pin).await.unwrap_err(),
        admin.estimate_model(estimate).await.unwrap_err(),
        rig.models().await.count_tokens(count).await.unwrap_err(),
    ] {
        assert_eq!(unsupported(refused), "REMOTE_UNSUPPORTED");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_has_a_reason_of_its_own() {
    let replies: [(Reply, Code, &str); 8] = [
        (
            Reply::refusal(401, "no key"),
            Code::FailedPrecondition,
            "ENDPOINT_REFUSED",
        ),
        (
            Reply::refusal(404, "no model"),
            Code::FailedPrecondition,
            "ENDPOINT_REFUSED",
        ),
        (
            Reply::refusal(500, "failed"),
            Code::Unavailable,
            "ENDPOINT_UNAVAILABLE",
        ),
        (Reply::Hangup, Code::Unavailable, "ENDPOINT_UNAVAILABLE"),
        (Reply::json(&json!({})), Code::Internal, "ENDPOINT_INVALID"),
        (
            Reply::events(vec![Piece::text("data: {]\n\n")]),
            Code::Internal,
            "ENDPOINT_INVALID",
        ),
        (
            Reply::events(vec![chat_piece("", Some("content_filter"))]),
            Code::FailedPrecondition,
            "ENDPOINT_REFUSED",
        ),
        (
            Reply::events(vec![Piece::text("data: {\"error\":{\"type\":\"oops\"}}\n\n")]),
            Code::Unavailable,
            "ENDPOINT_UNAVAILABLE",
        ),
    ];
    for (reply, code, name) in replies {
        let endpoint = Endpoint::start(script(move |_| reply.clone())).await;
        let rig = rig(&endpoint).await;
        let status = refused(&rig, ask("Hello")).await;
        assert_eq!(reason(&status, code).0, name, "{status:?}");
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_is_an_error_after_its_text() {
    let endpoint = Endpoint::start(script(|_| {
        Reply::events(vec![chat_piece("Hel", None), Piece::Break])
    }))
    .await;
    let rig = rig(&endpoint).await;
    let (events, error) = events(&rig, ask("Hello")).await;
    let [Event::Started(_), Event::Delta(delta)] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(delta.text, "Hel");
    assert_eq!(
        reason(&error.unwrap(), Code::Unavailable).0,
        "ENDPOINT_UNAVAILABLE"
    );
    assert_eq!(endpoint.bodies("/v1/chat/completions").len(), 1);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_fails_again_and_again_is_failed_until_it_answers() {
    let (works, is_working) = watch::channel(false);
    let endpoint = Endpoint::start(script(move |_| match *is_working.borrow() {
        true => Reply::events(chat(&["Hi"])),
        false => Reply::refusal(500, "failed"),
    }))
    .await;
    let rig = rig(&endpoint).await;
    let state = async || {
        let named = proto::GetModelRequest { name: BIG.to_owned() };
        let got = rig.models().await.get_model(named).await.unwrap().into_inner();
        got.model.unwrap().state()
    };
    for _ in 0..3 {
        assert_eq!(state().await, State::Ready);
        refused(&rig, ask("Hello")).await;
    }
    assert_eq!(state().await, State::Failed);
    works.send_replace(true);
    assert_eq!(answer(&rig, ask("Hello")).await.text, "Hi");
    assert_eq!(state().await, State::Ready);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_closes_the_request_of_the_endpoint() {
    let endpoint = Endpoint::start(script(|_| {
        Reply::events(vec![chat_piece("Hel", None), Piece::Stall])
    }))
    .await;
    let rig = rig(&endpoint).await;
    let mut client = rig.generation().await;
    let mut stream = client.generate(ask("Hello")).await.unwrap().into_inner();
    for _ in 0..2 {
        stream.message().await.unwrap().unwrap();
    }
    drop(stream);
    endpoint.until_left(1).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_an_answer_here_and_there() {
    let endpoint = Endpoint::start(script(|_| Reply::Silence)).await;
    let rig = rig(&endpoint).await;
    let (sender, receiver) = requests();
    let items = rig.generation().await.generate_stream(receiver).await.unwrap();
    let item = proto::GenerateStreamRequest {
        id: "slow".to_owned(),
        action: Some(Action::Generate(ask("Hello"))),
        timeout: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
    };
    sender.send(item).unwrap();
    let ended = items.into_inner().message().await.unwrap().unwrap();
    let Some(Answered::Error(error)) = ended.result else {
        panic!("{ended:?}");
    };
    assert_eq!(item_reason(&error, Code::DeadlineExceeded), "DEADLINE");
    endpoint.until_left(1).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_limit_wait_in_our_queue_and_the_rest_are_refused() {
    let (works, is_working) = watch::channel(false);
    let endpoint = Endpoint::start(script(move |_| {
        let mut pieces = vec![Piece::Until(is_working.clone())];
        pieces.extend(chat(&["Hi"]));
        Reply::events(pieces)
    }))
    .await;
    let rig = rig_with(EndpointOptions {
        concurrency: 1,
        queue: 2,
        ..options(&endpoint)
    })
    .await;
    let (sender, receiver) = requests();
    let mut items = rig
        .generation()
        .await
        .generate_stream(receiver)
        .await
        .unwrap()
        .into_inner();
    for id in ["a", "b", "c"] {
        let item = proto::GenerateStreamRequest {
            id: id.to_owned(),
            action: Some(Action::Generate(ask("Hello"))),
            timeout: None,
        };
        sender.send(item).unwrap();
    }
    let declared = rig.registry.find(BIG).unwrap();
    let full = ModelStats {
        queued: 2,
        running: 1,
        ..ModelStats::default()
    };
    eventually("one is open and two wait", || {
        rig.registry.stats(declared) == full
    })
    .await;
    let status = refused(&rig, ask("Hello")).await;
    assert_eq!(reason(&status, Code::ResourceExhausted).0, "QUEUE_FULL");
    works.send_replace(true);
    let mut ended = 0;
    while ended < 3 {
        let response = items.message().await.unwrap().unwrap();
        match response.result.unwrap() {
            Answered::Response(GenerateResponse {
                event: Some(Event::Finished(_)),
            }) => ended += 1,
            Answered::Response(_) => {}
            Answered::Error(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(rig.registry.stats(declared), ModelStats::default());
    drop(sender);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_guard_judges_what_a_remote_target_answers() {
    let endpoint = Endpoint::start(script(|asked| {
        let is_bad = asked.body["messages"][0]["content"] == "bad";
        Reply::events(chat(&[if is_bad { "[unsafe]" } else { "Flour" }]))
    }))
    .await;
    let rig = rig(&endpoint).await;
    for (content, label) in [("good", Label::Safe), ("bad", Label::Unsafe)] {
        let mut request = score(content);
        request.generate.as_mut().unwrap().model = BIG.to_owned();
        request.samples = 2;
        let scored = rig.scoring().await.score(request).await.unwrap().into_inner();
        assert_eq!(scored.samples.len(), 2);
        for sample in scored.samples {
            assert_eq!(sample.verdict.unwrap().label(), label);
            assert!(sample.generation_provenance.unwrap().remote.is_some());
        }
    }
    let seeds: Vec<_> = endpoint
        .bodies("/v1/chat/completions")
        .iter()
        .map(|body| body["seed"].as_u64().unwrap())
        .collect();
    let mut sorted = seeds.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [1, 1, 2, 2]);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_guard_cuts_off_what_a_remote_target_writes() {
    let endpoint = Endpoint::start(script(|_| {
        let more = "and more of it, ".repeat(8);
        let mut pieces: Vec<Piece> = ["First [unsafe] this, ", &more, &more]
            .map(|text| chat_piece(text, None))
            .into();
        pieces.push(Piece::Stall);
        Reply::events(pieces)
    }))
    .await;
    let rig = rig(&endpoint).await;
    let guarded = GenerateRequest {
        guard: Some(AnswerGuard {
            options: Some(GuardOptions {
                cadence: Some(GuardCadence {
                    tokens: 8,
                    sentence_end: None,
                }),
                ..GuardOptions::default()
            }),
            ..AnswerGuard::default()
        }),
        ..ask("Hello")
    };
    let (events, error) = events(&rig, guarded).await;
    assert!(error.is_none(), "{error:?}");
    let Some(Event::Finished(finished)) = events.last() else {
        panic!("{events:?}");
    };
    assert_eq!(finished.finish_reason(), FinishReason::Guard);
    let ended = finished.guard.clone().unwrap();
    assert_eq!(ended.reason(), guard_ended::Reason::Policy);
    assert_eq!((finished.usage, finished.decoded_after_detection), (None, None));
    let sent: String = events
        .iter()
        .filter_map(|event| match event {
            Event::Delta(delta) => Some(delta.text.as_str()),
            _ => None,
        })
        .collect();
    assert!(!sent.contains("[unsafe]"), "{sent}");
    endpoint.until_left(1).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_serve_with_remote_models() {
    let endpoint = Endpoint::start(script(|_| Reply::events(chat(&["Hi"])))).await;
    let rig = rig(&endpoint).await;
    answer(&rig, ask("Hello")).await;
    let mut health = HealthClient::new(rig.channel().await);
    let service = "babelward.v1.GenerationService".to_owned();
    let answer = health
        .check(HealthCheckRequest { service })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    rig.stop().await;
}
