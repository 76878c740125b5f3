//! Callers who hold what they can, with a credential or without one: everybody else is answered all the same.

use babelward::{
    auth::Scope,
    proto,
    reload::{Reload as _, Reloaded},
    rpc::{Limits, ServerOptions},
};
use futures::{FutureExt as _, future::select_all};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::{
    credentials::{KeyFile, checked, with_key},
    raw::Raw,
    rig::{Rig, Setup, classify, reason, requests},
};

const HEALTH: &str = "grpc.health.v1.Health/Check";
const CLASSIFY: &str = "SafetyService/Classify";

async fn rig(limits: Limits, keys: &KeyFile) -> Rig {
    let options = ServerOptions {
        limits,
        ..Default::default()
    };
    let setup = Setup {
        options,
        ..Default::default()
    };
    Rig::protected(setup, checked(&keys.open())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_health_checks_of_strangers_take_nothing_from_callers() {
    let keys = KeyFile::new();
    let key = keys.add("team", &[Scope::Classify]);
    let limits = Limits {
        message_bytes: 16 << 10,
        request_bytes: 32 << 10,
        connections: 4,
        calls: 4,
        ..Default::default()
    };
    let rig = rig(limits, &keys).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let stranger = Raw::connect(rig.address).await;
        for _ in 0..8 {
            let mut check = stranger.begin_path(HEALTH, "").await;
            // All of them together would be twice the memory for requests.
            check.send_part(2000, 1900).await;
            held.push(check);
        }
        // A ninth is one too many for its connection.
        let status = stranger.begin_path(HEALTH, "").await.status().await;
        assert_eq!(reason(&status, Code::ResourceExhausted).0, "TOO_MANY_CALLS");
    }
    let caller = Raw::connect(rig.address).await.with_key(&key);
    let status = caller.call(CLASSIFY, "", classify(&["hi"])).await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    // A large one is refused by what it announces.
    let mut check = Raw::connect(rig.address).await.begin_path(HEALTH, "").await;
    check.send_part(10_000, 10).await;
    let status = check.status().await;
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "MESSAGE_TOO_LARGE");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenant_leaves_calls_to_others() {
    let keys = KeyFile::new();
    let [greedy, modest] = ["greedy", "modest"].map(|tenant| keys.add(tenant, &[Scope::Classify]));
    let limits = Limits {
        calls: 16,
        ..Default::default()
    };
    let rig = rig(limits, &keys).await;
    let mut models = rig.models().await;
    let mut open = Vec::new();
    for _ in 0..14 {
        let watch = models.watch_models(with_key(&greedy, proto::WatchModelsRequest {}));
        open.push(watch.await.unwrap());
    }
    let mut safety = rig.safety().await;
    let refused = safety.classify(with_key(&greedy, classify(&["hi"]))).await;
    assert_eq!(
        reason(&refused.unwrap_err(), Code::ResourceExhausted).0,
        "TOO_MANY_CALLS"
    );
    // Calls of infrastructure are the tenant's as well.
    let mut health = tonic_health::pb::health_client::HealthClient::new(rig.channel().await);
    let watch = |key: &str| {
        let service = String::new();
        with_key(key, tonic_health::pb::HealthCheckRequest { service })
    };
    let refused = health.watch(watch(&greedy)).await.unwrap_err();
    assert_eq!(reason(&refused, Code::ResourceExhausted).0, "TOO_MANY_CALLS");
    safety
        .classify(with_key(&modest, classify(&["hi"])))
        .await
        .unwrap();
    drop(open);
    // With its calls, their places come back.
    loop {
        match safety.classify(with_key(&greedy, classify(&["hi"]))).await {
            Ok(_) => break,
            Err(status) => assert_eq!(reason(&status, Code::ResourceExhausted).0, "TOO_MANY_CALLS"),
        }
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenant_leaves_memory_for_requests_to_others() {
    let keys = KeyFile::new();
    let [greedy, modest] = ["greedy", "modest"].map(|tenant| keys.add(tenant, &[Scope::Classify]));
    let limits = Limits {
        message_bytes: 60 << 10,
        request_bytes: 512 << 10,
        ..Default::default()
    };
    let rig = rig(limits, &keys).await;
    let client = Raw::connect(rig.address).await;
    let mut held = Vec::new();
    // Nine times 55 KiB fit into 512 KiB, and eight into seven eighths of it.
    for _ in 0..9 {
        let mut call = client.clone().with_key(&greedy).begin(CLASSIFY, "").await;
        call.send_part(60 << 10, 55 << 10).await;
        held.push(call.status().boxed());
    }
    let (status, _, held) = select_all(held).await;
    assert_eq!(reason(&status, Code::ResourceExhausted).0, "REQUEST_MEMORY");
    let mut call = client.clone().with_key(&modest).begin(CLASSIFY, "").await;
    call.send_part(60 << 10, 55 << 10).await;
    let status = client
        .clone()
        .with_key(&modest)
        .call(CLASSIFY, "", classify(&["hi"]))
        .await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    drop((held, call));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_ends_when_its_credential_is_withdrawn() {
    let keys = KeyFile::new();
    let key = keys.add("leaked", &[Scope::Classify]);
    let authenticator = keys.open();
    let rig = Rig::protected(Setup::default(), checked(&authenticator)).await;
    let item = |id: &str| proto::ClassifyStreamRequest {
        id: id.to_owned(),
        action: Some(proto::classify_stream_request::Action::Classify(classify(&[
            "hi",
        ]))),
        timeout: None,
    };
    let (send, receive) = requests();
    send.send(item("before")).unwrap();
    let stream = rig.safety().await.classify_stream(with_key(&key, receive)).await;
    let mut stream = stream.unwrap().into_inner();
    let answer = stream.message().await.unwrap().unwrap();
    assert_eq!(answer.id, "before");
    keys.revoke("leaked");
    assert_eq!(authenticator.reload(), Reloaded::Replaced);
    send.send(item("after")).unwrap();
    let status = loop {
        match stream.message().await {
            Ok(answer) => assert!(answer.is_none_or(|answer| answer.id == "before")),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&status, Code::Unauthenticated).0, "CREDENTIALS_INVALID");
    rig.idle().await;
    rig.stop().await;
}

/// A stream whose key has another tenant now would go on in the name of the old one.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_ends_when_its_key_loses_its_scope_or_tenant() {
    for (old, new) in [
        ("tenant = \"team\"", "tenant = \"other\""),
        ("scopes = [\"classify\"]", "scopes = [\"metrics\"]"),
    ] {
        let keys = KeyFile::new();
        let key = keys.add("team", &[Scope::Classify]);
        let authenticator = keys.open();
        let rig = Rig::protected(Setup::default(), checked(&authenticator)).await;
        let (send, receive) = requests();
        let text = std::fs::read_to_string(keys.path()).unwrap();
        assert!(text.contains(old), "{text}");
        let stream = rig.safety().await.classify_stream(with_key(&key, receive)).await;
        let mut stream = stream.unwrap().into_inner();
        std::fs::write(keys.path(), text.replace(old, new)).unwrap();
        assert_eq!(authenticator.reload(), Reloaded::Replaced);
        send.send(proto::ClassifyStreamRequest {
            id: "item".to_owned(),
            action: Some(proto::classify_stream_request::Action::Classify(classify(&[
                "hi",
            ]))),
            timeout: None,
        })
        .unwrap();
        let status = stream.message().await.unwrap_err();
        let expected = match new {
            "tenant = \"other\"" => Code::Unauthenticated,
            _ => Code::PermissionDenied,
        };
        assert_eq!(status.code(), expected, "{status:?}");
        rig.stop().await;
    }
}
