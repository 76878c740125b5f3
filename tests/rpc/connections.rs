//! Connections: how many, how long they may be silent or idle, and who goes when there is no more room.

use std::{net::SocketAddr, time::Duration};

use babelward::{
    proto,
    rpc::{Limits, ServerOptions, TimeLimits},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt as _;

use crate::{
    access::{listen, outcome, tagged},
    raw::Raw,
    rig::{Rig, Setup, classify, eventually},
};

/// What every HTTP/2 client says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

async fn rig(connections: usize, times: TimeLimits) -> Rig {
    let options = ServerOptions {
        limits: Limits {
            connections,
            ..Default::default()
        },
        times,
        ..Default::default()
    };
    Rig::with(Setup {
        options,
        ..Default::default()
    })
    .await
}

/// Waits until the server closes a connection, whatever it says before.
async fn closed(stream: &mut TcpStream) {
    let mut said = Vec::new();
    // An end or a reset: both are closed.
    let _ = stream.read_to_end(&mut said).await;
}

async fn lists_models(address: SocketAddr) {
    let status = Raw::connect(address)
        .await
        .call("ModelService/ListModels", "", proto::ListModelsRequest::default())
        .await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_speak_http2_in_time_is_closed() {
    let times = TimeLimits {
        handshake: Duration::from_millis(50),
        ..Default::default()
    };
    let rig = rig(100, times).await;
    for said in [&b""[..], b"GET / HTTP/1.1\r\n", &PREFACE[..10], PREFACE] {
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        stream.write_all(said).await.unwrap();
        closed(&mut stream).await;
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_sockets_do_not_keep_callers_out() {
    let rig = rig(16, TimeLimits::default()).await;
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(TcpStream::connect(rig.address).await.unwrap());
    }
    // One that has a call is not the one that goes.
    rig.gate.close();
    let mut client = rig.safety().await;
    let open = tokio::spawn(async move { client.classify(classify(&["hi"])).await });
    rig.blocked().await;
    for _ in 0..64 {
        silent.push(TcpStream::connect(rig.address).await.unwrap());
    }
    lists_models(rig.address).await;
    closed(&mut silent[0]).await;
    rig.gate.open();
    assert!(open.await.unwrap().is_ok());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_call_make_room_and_those_with_one_do_not() {
    let rig = rig(2, TimeLimits::default()).await;
    let (idle, ended) = Raw::watched(rig.address).await;
    let status = idle
        .call("ModelService/ListModels", "", proto::ListModelsRequest::default())
        .await;
    assert_eq!(status.code(), Code::Ok);
    rig.gate.close();
    let mut busy = Vec::new();
    for calls in 1..=2 {
        let client = Raw::connect(rig.address).await;
        busy.push(tokio::spawn(async move {
            client.call("SafetyService/Classify", "", classify(&["hi"])).await
        }));
        eventually("the call is open", || {
            let stats = rig.stats();
            stats.queued + stats.running == calls
        })
        .await;
    }
    ended.await.unwrap().unwrap();
    drop(idle);
    let mut late = TcpStream::connect(rig.address).await.unwrap();
    closed(&mut late).await;
    rig.gate.open();
    for call in busy {
        assert_eq!(call.await.unwrap().code(), Code::Ok);
    }
    lists_models(rig.address).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_calls_are_told_to_come_back_and_probes_are_answered() {
    listen();
    let options = ServerOptions {
        limits: Limits {
            calls: 1,
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
    let mut client = rig.safety().await;
    let open = tokio::spawn(async move { client.classify(classify(&["hi"])).await });
    rig.blocked().await;
    let request = tagged("log-too-many", classify(&["hi"]));
    let status = rig.safety().await.classify(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.metadata().get("x-request-id").unwrap(), "log-too-many");
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "TOO_MANY_CALLS");
    assert_eq!(details.request_info().unwrap().request_id, "log-too-many");
    assert_eq!(
        outcome("log-too-many").await,
        ("RESOURCE_EXHAUSTED".to_owned(), "TOO_MANY_CALLS".to_owned())
    );
    assert!(details.retry_info().is_some());
    let mut health = HealthClient::new(rig.channel().await);
    let probe = health.check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(probe.into_inner().status(), ServingStatus::Serving);
    rig.gate.open();
    assert!(open.await.unwrap().is_ok());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_and_old_connections_are_asked_to_go() {
    let short = Duration::from_millis(50);
    let idle = TimeLimits {
        connection_idle: short,
        ..Default::default()
    };
    let old = TimeLimits {
        connection_age: Some(short),
        ..Default::default()
    };
    for times in [idle, old] {
        let rig = rig(100, times).await;
        let (client, ended) = Raw::watched(rig.address).await;
        // A call that is open keeps an idle connection, and is finished on an old one.
        rig.gate.close();
        let open =
            tokio::spawn(async move { client.call("SafetyService/Classify", "", classify(&["hi"])).await });
        rig.blocked().await;
        let (_later, later_ended) = Raw::watched(rig.address).await;
        later_ended.await.unwrap().unwrap();
        rig.gate.open();
        assert_eq!(open.await.unwrap().code(), Code::Ok);
        ended.await.unwrap().unwrap();
        rig.stop().await;
    }
}
