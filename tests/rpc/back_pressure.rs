//! A client that sends faster than the models answer is slowed, whatever client it is: nothing is lost, its connection
//! stays, and others on it go on.

use std::{
    collections::HashSet,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use babelward::proto;
use prost::Message;
use tonic::Code;

use crate::{
    python,
    raw::Raw,
    rig::{Rig, classify, eventually, generate, score},
};

const ITEMS: usize = 5000;

/// Pushes short items to a stream of a server whose model stands still until the client's window is used up.
async fn pushes<M: Message + 'static, A: Message + Default + 'static>(
    method: &'static str,
    item: fn(String) -> M,
    id: impl Fn(&A) -> Option<String>,
) {
    let rig = Rig::start().await;
    rig.gate.close();
    let client = Raw::connect(rig.address).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let (pusher, counter) = (client.clone(), Arc::clone(&sent));
    let pushing = tokio::spawn(async move {
        let items = (0..ITEMS).map(|index| item(index.to_string()));
        pusher.push::<M, A>(method, items, &counter).await
    });
    eventually("the limit of open items is reached", || {
        let stats = rig.stats();
        stats.queued + stats.running == 256
    })
    .await;
    // Others on the connection are not held up. When 50 answers have come back on it, the server has read all that the
    // window let through before.
    for _ in 0..50 {
        let status = client
            .call("ModelService/ListModels", "", proto::ListModelsRequest::default())
            .await;
        assert_eq!(status.code(), Code::Ok);
    }
    let ahead = sent.load(Ordering::Acquire);
    assert!(
        (256..ITEMS).contains(&ahead),
        "the client was not slowed: it has sent {ahead}"
    );
    rig.gate.open();
    let (answers, status) = pushing.await.unwrap();
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    let ids: HashSet<String> = answers.iter().filter_map(id).collect();
    assert_eq!(ids.len(), ITEMS);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_short_classifications_are_all_answered() {
    let item = |id| proto::ClassifyStreamRequest {
        id,
        action: Some(proto::classify_stream_request::Action::Classify(classify(&[
            "hi",
        ]))),
        timeout: None,
    };
    pushes(
        "SafetyService/ClassifyStream",
        item,
        |answer: &proto::ClassifyStreamResponse| {
            use proto::classify_stream_response::Result;
            matches!(answer.result, Some(Result::Response(_))).then(|| answer.id.clone())
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_short_generations_are_all_answered() {
    let item = |id| proto::GenerateStreamRequest {
        id,
        action: Some(proto::generate_stream_request::Action::Generate(generate(
            "[mute]",
        ))),
        timeout: None,
    };
    pushes(
        "GenerationService/GenerateStream",
        item,
        |answer: &proto::GenerateStreamResponse| {
            use proto::{generate_response::Event, generate_stream_response::Result};
            match &answer.result {
                Some(Result::Response(response)) => {
                    matches!(response.event, Some(Event::Finished(_))).then(|| answer.id.clone())
                }
                other => panic!("{other:?}"),
            }
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_short_scores_are_all_answered() {
    let item = |id| proto::ScoreStreamRequest {
        id,
        action: Some(proto::score_stream_request::Action::Score(score("[mute]"))),
        timeout: None,
    };
    pushes(
        "ScoringService/ScoreStream",
        item,
        |answer: &proto::ScoreStreamResponse| {
            use proto::score_stream_response::Result;
            matches!(answer.result, Some(Result::Response(_))).then(|| answer.id.clone())
        },
    )
    .await;
}

/// Python's grpcio, which has an HTTP/2 of its own, on all three streams.
#[tokio::test(flavor = "multi_thread")]
async fn grpcio_pushes_five_thousand_short_items() {
    let rig = Rig::start().await;
    let address = rig.address.to_string();
    let pushed = tokio::task::spawn_blocking(move || {
        python::script("tests/clients/push_items.py")
            .arg(address)
            .arg(ITEMS.to_string())
            .env("PYTHONPATH", python::PACKAGES.as_path())
            .stdout(Stdio::null())
            .status()
            .expect("python3 runs")
    });
    assert!(
        pushed.await.unwrap().success(),
        "tests/clients/push_items.py failed: its message is above"
    );
    rig.idle().await;
    rig.stop().await;
}
