//! `grpc-timeout`: DEADLINE_EXCEEDED with the stage, never tonic's CANCELLED, and the work stops.

use std::time::Duration;

use babelward::{
    proto,
    rpc::{DefaultDeadlines, ServerOptions},
};
use tonic::Code;

use crate::{
    raw::Raw,
    rig::{Rig, Setup, classify, eventually, generate_tokens, reason, score},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_unary_call_ends_with_deadline_exceeded() {
    let rig = Rig::start().await;
    let client = Raw::connect(rig.address).await;
    rig.gate.close();
    for timeout in ["30m", "5m", "1m", "100u"] {
        let status = client
            .call("SafetyService/Classify", timeout, classify(&["hi"]))
            .await;
        let (name, metadata) = reason(&status, Code::DeadlineExceeded);
        assert_eq!(name, "DEADLINE", "{timeout}");
        assert!(
            ["queue", "prefill"].contains(&metadata["stage"].as_str()),
            "{metadata:?}"
        );
    }
    let status = client.call("ScoringService/Score", "30m", score("hi")).await;
    assert_eq!(reason(&status, Code::DeadlineExceeded).0, "DEADLINE");
    rig.gate.open();
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_at_once_all_hear_it_from_us() {
    let rig = Rig::start().await;
    let client = Raw::connect(rig.address).await;
    rig.gate.close();
    let calls: Vec<_> = (0..300)
        .map(|index| {
            let client = client.clone();
            let request = classify(&[&format!("question {index}")]);
            tokio::spawn(async move { client.call("SafetyService/Classify", "40m", request).await })
        })
        .collect();
    for call in calls {
        assert_eq!(reason(&call.await.unwrap(), Code::DeadlineExceeded).0, "DEADLINE");
    }
    rig.gate.open();
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_answer_ends_at_its_deadline() {
    let rig = Rig::start().await;
    let client = Raw::connect(rig.address).await;
    let passes = rig.gate.passes();
    let call = tokio::spawn(async move {
        let request = generate_tokens("babble", 3000);
        client.call("GenerationService/Generate", "300m", request).await
    });
    eventually("it is being answered", || rig.gate.passes() > passes + 3).await;
    rig.gate.close();
    let (name, metadata) = reason(&call.await.unwrap(), Code::DeadlineExceeded);
    assert_eq!(
        (name.as_str(), metadata["stage"].as_str()),
        ("DEADLINE", "decode")
    );
    rig.gate.open();
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_at_their_deadline_also_when_they_are_idle() {
    let rig = Rig::start().await;
    let client = Raw::connect(rig.address).await;
    for method in [
        "SafetyService/ClassifyStream",
        "GenerationService/GenerateStream",
        "ScoringService/ScoreStream",
    ] {
        let status = client.say_nothing(method, "30m").await;
        assert_eq!(reason(&status, Code::DeadlineExceeded).0, "DEADLINE", "{method}");
    }
    let watch = proto::WatchModelsRequest {};
    let status = client.call("ModelService/WatchModels", "30m", watch).await;
    assert_eq!(reason(&status, Code::DeadlineExceeded).0, "DEADLINE");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_also_covers_a_message_that_never_comes() {
    let rig = Rig::start().await;
    let client = Raw::connect(rig.address).await;
    let status = client.say_nothing("SafetyService/Classify", "30m").await;
    assert_eq!(reason(&status, Code::DeadlineExceeded).0, "DEADLINE");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_a_deadline_get_the_servers() {
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
    let status = rig.safety().await.classify(classify(&["hi"])).await.unwrap_err();
    assert_eq!(reason(&status, Code::DeadlineExceeded).0, "DEADLINE");
    rig.gate.open();
    rig.idle().await;
    rig.stop().await;
}
