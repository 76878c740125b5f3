//! When the model breaks: an error for those it concerns, and the server goes on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use babelward::{
    engine::Clock,
    proto::{
        self, AnswerGuard, GuardCadence, GuardOptions, Label, generate_request::Prompt,
        generate_response::Event, guard_ended, model::State,
    },
    registry::ModelState,
    rpc::ServerOptions,
};
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::rig::{
    BASE, GUARD, Rig, Setup, TARGET, classify, eventually, generate, generate_tokens, item_reason, reason,
    requests,
};

fn service(name: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: name.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_are_none_never_become_a_verdict() {
    let rig = Rig::start().await;
    let status = rig
        .safety()
        .await
        .classify(classify(&["[nan]"]))
        .await
        .unwrap_err();
    assert_eq!(reason(&status, Code::Internal).0, "NUMERIC_FAULT");
    let mut stream = rig
        .generation()
        .await
        .generate(generate("[nan]"))
        .await
        .unwrap()
        .into_inner();
    let status = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("ended well"),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&status, Code::Internal).0, "NUMERIC_FAULT");
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_fault_fails_its_batch_and_the_next_call_is_answered() {
    let rig = Rig::start().await;
    let mut client = rig.safety().await;
    let status = client.classify(classify(&["[device]"])).await.unwrap_err();
    assert_eq!(reason(&status, Code::Internal).0, "DEVICE_FAULT");
    assert_eq!(verdict(&rig).await.unwrap(), Label::Unsafe);
    rig.idle().await;
    rig.stop().await;
}

async fn verdict(rig: &Rig) -> Result<Label, Status> {
    let response = rig.safety().await.classify(classify(&["[unsafe]"])).await?;
    Ok(response.into_inner().verdict.unwrap().label())
}

/// A generation of the base model, which has weights of its own.
fn elsewhere() -> proto::GenerateRequest {
    proto::GenerateRequest {
        model: BASE.to_owned(),
        prompt: Some(proto::generate_request::Prompt::Text("some words".to_owned())),
        ..generate("")
    }
}

async fn words(mut stream: Streaming<proto::GenerateResponse>) -> Result<usize, Status> {
    let mut deltas = 0;
    while let Some(response) = stream.message().await? {
        let is_delta = matches!(response.event, Some(proto::generate_response::Event::Delta(_)));
        deltas += usize::from(is_delta);
    }
    Ok(deltas)
}

/// The target and the guard are one model, and the base another. Calls of both are open when a step of the first panics.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_stops_one_model_and_its_streams_and_loading_it_brings_it_back() {
    let setup = Setup::default();
    let rig = Rig::with(Setup {
        options: ServerOptions {
            allow_admin: true,
            ..setup.options
        },
        ..setup
    })
    .await;
    let mut health = HealthClient::new(rig.channel().await);
    let mut guards = health
        .watch(service("babelward.v1.SafetyService"))
        .await
        .unwrap()
        .into_inner();
    while guards.message().await.unwrap().unwrap().status() != ServingStatus::Serving {}

    rig.gate.close();
    let long = generate_tokens("tell me", 4000);
    let same_model = rig.generation().await.generate(long).await.unwrap().into_inner();
    let other_model = rig
        .generation()
        .await
        .generate(elsewhere())
        .await
        .unwrap()
        .into_inner();
    let (items, requests) = requests::<proto::ClassifyStreamRequest>();
    let mut answers = rig
        .safety()
        .await
        .classify_stream(requests)
        .await
        .unwrap()
        .into_inner();
    let item = proto::ClassifyStreamRequest {
        id: "one".to_owned(),
        action: Some(proto::classify_stream_request::Action::Classify(classify(&[
            "[panic]",
        ]))),
        timeout: None,
    };
    items.send(item).unwrap();
    eventually("the item is queued", || {
        rig.stats().queued + rig.stats().running == 2
    })
    .await;
    rig.gate.open();

    let status = words(same_model).await.unwrap_err();
    assert_eq!(reason(&status, Code::Internal).0, "WORKER_PANIC");
    let answer = answers.message().await.unwrap().unwrap();
    let Some(proto::classify_stream_response::Result::Error(error)) = answer.result else {
        panic!("{answer:?}")
    };
    assert_eq!(item_reason(&error, Code::Internal), "WORKER_PANIC");
    assert!(words(other_model).await.unwrap() > 0, "the other model goes on");

    // From then on its calls are refused at once, those of the other model are answered, and everybody is told.
    for _ in 0..3 {
        let status = verdict(&rig).await.unwrap_err();
        assert_eq!(reason(&status, Code::Unavailable).0, "MODEL_FAILED");
    }
    while guards.message().await.unwrap().unwrap().status() != ServingStatus::NotServing {}
    let again = rig.generation().await.generate(elsewhere()).await.unwrap();
    assert!(words(again.into_inner()).await.unwrap() > 0);
    let listed = rig
        .models()
        .await
        .list_models(proto::ListModelsRequest::default())
        .await
        .unwrap();
    let states = listed.into_inner().models.into_iter();
    let states: Vec<_> = states
        .map(|model| (model.name.clone(), model.state(), model.error))
        .collect();
    let failed = "a step of it panicked; the server's log says where, and LoadModel brings it back";
    for (name, state, error) in states {
        match name.as_str() {
            BASE => assert_eq!((state, error.as_str()), (State::Ready, "")),
            _ => assert_eq!((state, error.as_str()), (State::Failed, failed), "{name}"),
        }
    }
    let server = health.check(service("")).await.unwrap().into_inner();
    assert_eq!(
        server.status(),
        ServingStatus::Serving,
        "the server as a whole still serves"
    );

    // The stream is open still, and its next item is answered once the model is back.
    let load = proto::LoadModelRequest {
        name: GUARD.to_owned(),
        ..Default::default()
    };
    let loaded = rig.admin().await.load_model(load).await.unwrap().into_inner();
    assert_eq!(loaded.model.unwrap().state(), State::Ready);
    assert_eq!(verdict(&rig).await.unwrap(), Label::Unsafe);
    while guards.message().await.unwrap().unwrap().status() != ServingStatus::Serving {}
    drop(items);
    assert!(answers.message().await.unwrap().is_none());
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_in_a_row_show_as_failed_until_an_answer() {
    let rig = Rig::start().await;
    let mut client = rig.safety().await;
    let state = || rig.registry.state(rig.registry.find(TARGET).unwrap());
    for _ in 0..2 {
        client.classify(classify(&["[device]"])).await.unwrap_err();
        assert_eq!(state(), ModelState::Ready);
    }
    client.classify(classify(&["[device]"])).await.unwrap_err();
    assert_eq!(state(), ModelState::Failed);
    client.classify(classify(&["fine"])).await.unwrap();
    assert_eq!(state(), ModelState::Ready);
    rig.stop().await;
}

/// The engine may be the first to notice that the time of a guarded answer is over. Its sequence has ended then and is not asked
/// again, as if it had ended without a word.
#[tokio::test(flavor = "multi_thread")]
async fn deadlines_of_guarded_answers_are_no_faults_of_the_target() {
    // Seconds by which the engine's clock is ahead.
    let ahead = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&ahead);
    let rig = Rig::with(Setup {
        clock: Clock::new(move || Instant::now() + Duration::from_secs(clock.load(Ordering::Acquire))),
        ..Setup::default()
    })
    .await;
    let mut client = rig.generation().await;
    let endless = proto::GenerateRequest {
        model: BASE.to_owned(),
        prompt: Some(Prompt::Text("babble".to_owned())),
        // With few looks, so that it is the target whose time is over.
        guard: Some(AnswerGuard {
            options: Some(GuardOptions {
                cadence: Some(GuardCadence {
                    tokens: 512,
                    sentence_end: Some(false),
                }),
                ..GuardOptions::default()
            }),
            ..AnswerGuard::default()
        }),
        ..generate_tokens("", 4000)
    };
    let mut answers = Vec::new();
    // As many as there are faults in a row until a model shows as failed.
    for _ in 0..3 {
        let mut request = Request::new(endless.clone());
        request.set_timeout(Duration::from_secs(40));
        let mut answer = client.generate(request).await.unwrap().into_inner();
        let started = answer.message().await.unwrap().unwrap().event;
        assert!(matches!(started, Some(Event::Started(_))), "{started:?}");
        answers.push(answer);
    }
    ahead.store(60, Ordering::Release);
    for mut answer in answers {
        let mut last = None;
        let status = loop {
            match answer.message().await {
                Ok(Some(response)) => last = response.event,
                Ok(None) => panic!("the answer is complete: {last:?}"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        match last {
            Some(Event::Finished(finished)) => {
                assert_eq!(finished.guard.unwrap().reason(), guard_ended::Reason::Deadline);
            }
            other => panic!("{other:?}"),
        }
    }
    let state = rig.registry.state(rig.registry.find(BASE).unwrap());
    assert_eq!(state, ModelState::Ready);
    rig.idle().await;
    rig.stop().await;
}
