//! A client that is gone: its work stops and its blocks are free again.

use babelward::proto::{self, generate_stream_request::Action};

use crate::rig::{Rig, classify, generate_tokens, requests, score};

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_answer_stops_its_generation() {
    let rig = Rig::start().await;
    let mut streams = Vec::new();
    let mut client = rig.generation().await;
    for index in 0..8 {
        let request = generate_tokens(&format!("babble {index}"), 3500);
        let mut stream = client.generate(request).await.unwrap().into_inner();
        // It is running, not only queued.
        for _ in 0..3 {
            assert!(stream.message().await.unwrap().is_some());
        }
        streams.push(stream);
    }
    assert!(!rig.is_idle());
    drop(streams);
    let passes = rig.gate.passes();
    rig.idle().await;
    assert!(rig.gate.passes() - passes < 3000, "the work went on");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_unary_call_stops_its_work() {
    let rig = Rig::start().await;
    rig.gate.close();
    let (mut safety, mut scoring) = (rig.safety().await, rig.scoring().await);
    let judged = tokio::spawn(async move { safety.classify(classify(&["hi"])).await });
    let mut request = score("babble");
    request.samples = 4;
    let scored = tokio::spawn(async move { scoring.score(request).await });
    crate::rig::eventually("all are with the engine", || {
        let stats = rig.stats();
        rig.gate.is_blocked() && stats.queued + stats.running >= 4
    })
    .await;
    judged.abort();
    scored.abort();
    rig.gate.open();
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_stream_stops_all_its_items() {
    let rig = Rig::start().await;
    let (send, receive) = requests();
    for index in 0..20 {
        send.send(proto::GenerateStreamRequest {
            id: index.to_string(),
            action: Some(Action::Generate(generate_tokens(
                &format!("babble {index}"),
                3000,
            ))),
            timeout: None,
        })
        .unwrap();
    }
    let mut stream = rig
        .generation()
        .await
        .generate_stream(receive)
        .await
        .unwrap()
        .into_inner();
    for _ in 0..30 {
        assert!(stream.message().await.unwrap().is_some());
    }
    assert!(!rig.is_idle());
    drop((stream, send));
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_stops_everything_on_it() {
    let rig = Rig::start().await;
    let channel = rig.channel().await;
    let mut client = proto::generation_service_client::GenerationServiceClient::new(channel);
    let mut stream = client
        .generate(generate_tokens("babble", 3500))
        .await
        .unwrap()
        .into_inner();
    assert!(stream.message().await.unwrap().is_some());
    drop((stream, client));
    rig.idle().await;
    rig.stop().await;
}
