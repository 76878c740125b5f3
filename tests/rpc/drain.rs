//! Being asked to stop: open work finishes or is told, nothing new begins, and the server does return.

use std::time::Duration;

use babelward::{
    proto::{self, classify_stream_request::Action, classify_stream_response::Result as Classified},
    rpc::ServerOptions,
};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt as _;

use crate::rig::{Rig, Setup, classify, eventually, item_reason, reason, requests, score};

fn ask(id: &str) -> proto::ClassifyStreamRequest {
    proto::ClassifyStreamRequest {
        id: id.to_owned(),
        action: Some(Action::Classify(classify(&["fine"]))),
        timeout: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_work_finishes_and_new_items_are_refused() {
    let mut rig = Rig::start().await;
    rig.gate.close();
    let (send, receive) = requests();
    send.send(ask("open")).unwrap();
    let mut stream = rig
        .safety()
        .await
        .classify_stream(receive)
        .await
        .unwrap()
        .into_inner();
    rig.blocked().await;
    // Generated before the drain, judged after it: the second sequence is still taken.
    let mut scoring = rig.scoring().await;
    let scored = tokio::spawn(async move { scoring.score(score("[say Hello.]")).await });
    eventually("the score is with the engine", || {
        let stats = rig.stats();
        stats.queued + stats.running >= 2
    })
    .await;

    let server = rig.begin_stop();
    eventually("the drain begins", || rig.registry.is_draining()).await;
    send.send(ask("late")).unwrap();
    let late = stream.message().await.unwrap().unwrap();
    assert_eq!(late.id, "late");
    match late.result.unwrap() {
        Classified::Error(error) => {
            assert_eq!(item_reason(&error, Code::Unavailable), "SERVER_DRAINING");
        }
        other => panic!("{other:?}"),
    }
    rig.gate.open();
    let open = stream.message().await.unwrap().unwrap();
    assert_eq!(open.id, "open");
    assert!(matches!(open.result, Some(Classified::Response(_))));
    // We have not half-closed: the server ends the stream, and well.
    assert_eq!(stream.message().await.unwrap(), None);
    assert_eq!(scored.await.unwrap().unwrap().into_inner().safe_count, 1);
    server.await.unwrap().unwrap();
    assert!(
        tokio::net::TcpStream::connect(rig.address).await.is_err(),
        "the port is closed"
    );
}

/// A prober and a caller that connect while the server drains are told so, until the last open call has ended.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_while_it_drains_is_told() {
    let mut rig = Rig::start().await;
    rig.gate.close();
    let (mut client, mut known) = (rig.safety().await, rig.safety().await);
    let open = tokio::spawn(async move { client.classify(classify(&["hi"])).await });
    rig.blocked().await;
    let server = rig.begin_stop();
    eventually("the drain begins", || rig.registry.is_draining()).await;

    for service in ["", "babelward.v1.SafetyService", "babelward.v1.ModelService"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = HealthClient::new(rig.channel().await)
            .check(request)
            .await
            .unwrap();
        assert_eq!(
            answer.into_inner().status(),
            ServingStatus::NotServing,
            "{service}"
        );
    }
    let refused = |status: tonic::Status| {
        assert_eq!(reason(&status, Code::Unavailable).0, "SERVER_DRAINING");
        assert!(status.get_error_details().retry_info().is_some());
        assert!(status.message().contains("draining"));
    };
    refused(rig.safety().await.classify(classify(&["hi"])).await.unwrap_err());
    refused(rig.scoring().await.score(score("hi")).await.unwrap_err());
    let (_send, receive) = requests::<proto::ClassifyStreamRequest>();
    refused(rig.safety().await.classify_stream(receive).await.unwrap_err());
    let count = proto::CountTokensRequest {
        text: "hi".to_owned(),
        ..Default::default()
    };
    refused(rig.models().await.count_tokens(count).await.unwrap_err());
    // One that was connected before comes back by itself.
    refused(known.classify(classify(&["hi"])).await.unwrap_err());
    let models = rig
        .models()
        .await
        .list_models(proto::ListModelsRequest::default())
        .await
        .unwrap();
    for model in models.into_inner().models {
        assert_eq!(model.state(), proto::model::State::Draining, "{}", model.name);
    }

    rig.gate.open();
    open.await.unwrap().unwrap();
    server.await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(rig.address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn work_beyond_the_grace_is_told() {
    let options = ServerOptions {
        drain_grace: Duration::from_millis(20),
        ..Default::default()
    };
    let mut rig = Rig::with(Setup {
        options,
        ..Default::default()
    })
    .await;
    rig.gate.close();
    let mut client = rig.safety().await;
    let call = tokio::spawn(async move { client.classify(classify(&["hi"])).await });
    let (send, receive) = requests();
    send.send(ask("open")).unwrap();
    let mut stream = rig
        .safety()
        .await
        .classify_stream(receive)
        .await
        .unwrap()
        .into_inner();
    eventually("both are with the engine", || {
        let stats = rig.stats();
        rig.gate.is_blocked() && stats.queued + stats.running == 2
    })
    .await;
    let server = rig.begin_stop();
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(reason(&status, Code::Unavailable).0, "SERVER_DRAINING");
    assert!(status.get_error_details().retry_info().is_some());
    let answer = stream.message().await.unwrap().unwrap();
    match answer.result.unwrap() {
        Classified::Error(error) => assert_eq!(item_reason(&error, Code::Unavailable), "SERVER_DRAINING"),
        other => panic!("{other:?}"),
    }
    server.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_close_do_not_hold_up_the_end() {
    let mut rig = Rig::start().await;
    let (_send, receive) = requests::<proto::ClassifyStreamRequest>();
    let mut idle = rig
        .safety()
        .await
        .classify_stream(receive)
        .await
        .unwrap()
        .into_inner();
    let mut health = HealthClient::new(rig.channel().await);
    let everything = HealthCheckRequest {
        service: String::new(),
    };
    let mut watch = health.watch(everything).await.unwrap().into_inner();
    assert_eq!(
        watch.message().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );

    let server = rig.begin_stop();
    while watch.message().await.unwrap().unwrap().status() != ServingStatus::NotServing {}
    assert_eq!(idle.message().await.unwrap(), None);
    // The health watch is never closed by its client; the server returns all the same.
    server.await.unwrap().unwrap();
    assert!(watch.message().await.is_err());
}
