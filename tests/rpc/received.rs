//! Requests while they arrive: how much memory they may take together, how long they may take, and what is refused
//! before it is decoded.

use std::time::Duration;

use babelward::{
    proto,
    rpc::{Limits, ServerOptions, TimeLimits},
};
use futures::{FutureExt as _, future::select_all};
use prost::Message as _;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::{
    raw::Raw,
    rig::{Rig, Setup, classify, item_reason, item_status, reason, requests, violated},
};

const CLASSIFY: &str = "SafetyService/Classify";
const STREAM: &str = "SafetyService/ClassifyStream";
const SHORT: Duration = Duration::from_millis(50);

async fn rig(limits: Limits, times: TimeLimits) -> Rig {
    let options = ServerOptions {
        limits,
        times,
        ..Default::default()
    };
    Rig::with(Setup {
        options,
        ..Default::default()
    })
    .await
}

fn item(id: &str, work: proto::ClassifyRequest) -> proto::ClassifyStreamRequest {
    proto::ClassifyStreamRequest {
        id: id.to_owned(),
        action: Some(proto::classify_stream_request::Action::Classify(work)),
        timeout: None,
    }
}

/// Two million messages without content: two bytes each.
fn empty_messages() -> Vec<u8> {
    [0x0a, 0x00].repeat(2_000_000)
}

/// A Classify with that conversation.
fn swollen() -> Vec<u8> {
    let mut request = Vec::new();
    prost::encoding::bytes::encode(2, &empty_messages(), &mut request);
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_messages_share_one_budget() {
    let limits = Limits {
        message_bytes: 1 << 20,
        request_bytes: 4 << 20,
        ..Default::default()
    };
    let rig = rig(limits, TimeLimits::default()).await;
    // Large ones may take three quarters of it, over all connections: one of four has to go.
    let mut large = Vec::new();
    for _ in 0..4 {
        let mut call = Raw::connect(rig.address).await.begin(CLASSIFY, "").await;
        call.send_part(1 << 20, 1_000_000).await;
        large.push(call.status().boxed());
    }
    let (status, _, large) = select_all(large).await;
    assert_eq!(reason(&status, Code::ResourceExhausted).0, "REQUEST_MEMORY");
    assert!(status.get_error_details().retry_info().is_some());
    assert!(status.metadata().get("grpc-retry-pushback-ms").is_some());
    // Ordinary ones get in.
    let client = Raw::connect(rig.address).await;
    let status = client.call(CLASSIFY, "", classify(&["hi"])).await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    // What is announced and does not come takes nothing.
    let mut open = Vec::new();
    for _ in 0..100 {
        let mut call = client.begin(CLASSIFY, "").await;
        call.send_part(1 << 20, 0).await;
        open.push(call);
    }
    let status = client.call(CLASSIFY, "", classify(&["hi"])).await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    // With those that held it, all of it comes back.
    drop((open, large));
    loop {
        let mut padded = classify(&["hi"]).encode_to_vec();
        prost::encoding::bytes::encode(1000, &vec![0; 900_000], &mut padded);
        let status = client.call_bytes(CLASSIFY, "", padded).await;
        if status.code() == Code::Ok {
            break;
        }
        assert_eq!(reason(&status, Code::ResourceExhausted).0, "REQUEST_MEMORY");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_do_not_come_to_their_end_are_told() {
    let times = TimeLimits {
        receive: SHORT,
        ..Default::default()
    };
    let rig = rig(Limits::default(), times).await;
    let client = Raw::connect(rig.address).await;
    for (method, content) in [(CLASSIFY, None), (CLASSIFY, Some(100)), (STREAM, Some(100))] {
        let mut call = client.begin(method, "").await;
        if let Some(content) = content {
            call.send_part(200, content).await;
        }
        let (name, metadata) = reason(&call.status().await, Code::DeadlineExceeded);
        assert_eq!(
            (name.as_str(), metadata["limitMs"].as_str()),
            ("REQUEST_INCOMPLETE", "50")
        );
    }
    // Whole, but not half-closed.
    let mut call = client.begin(CLASSIFY, "").await;
    let request = classify(&["hi"]).encode_to_vec();
    let mut message = vec![0, 0, 0, 0, u8::try_from(request.len()).unwrap()];
    message.extend(request);
    call.send(&message).await;
    assert_eq!(
        reason(&call.status().await, Code::DeadlineExceeded).0,
        "REQUEST_INCOMPLETE"
    );
    rig.stop().await;
}

/// Health checks are answered to everybody, so nobody may keep one open.
#[tokio::test(flavor = "multi_thread")]
async fn health_checks_that_do_not_come_to_their_end_are_told() {
    let times = TimeLimits {
        receive: SHORT,
        ..Default::default()
    };
    let rig = rig(Limits::default(), times).await;
    let client = Raw::connect(rig.address).await;
    for method in ["Check", "Watch"] {
        let call = client
            .begin_path(&format!("grpc.health.v1.Health/{method}"), "")
            .await;
        let status = call.status().await;
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "REQUEST_INCOMPLETE");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_items_ends_and_one_with_an_open_item_does_not() {
    let times = TimeLimits {
        stream_idle: SHORT,
        ..Default::default()
    };
    let rig = rig(Limits::default(), times).await;
    rig.gate.close();
    let (send, receive) = requests();
    send.send(item("open", classify(&["hi"]))).unwrap();
    let mut stream = rig
        .safety()
        .await
        .classify_stream(receive)
        .await
        .unwrap()
        .into_inner();
    rig.blocked().await;
    // Begun later and ended: the first has been open for as long at least.
    let client = Raw::connect(rig.address).await;
    let status = client.say_nothing(STREAM, "").await;
    let (name, metadata) = reason(&status, Code::DeadlineExceeded);
    assert_eq!(
        (name.as_str(), metadata["limitMs"].as_str()),
        ("STREAM_IDLE", "50")
    );
    rig.gate.open();
    assert_eq!(stream.message().await.unwrap().unwrap().id, "open");
    let status = stream.message().await.unwrap_err();
    assert_eq!(reason(&status, Code::DeadlineExceeded).0, "STREAM_IDLE");
    drop(send);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_have_an_upper_limit() {
    let times = TimeLimits {
        longest_deadline: SHORT,
        ..Default::default()
    };
    let rig = rig(Limits::default(), times).await;
    let client = Raw::connect(rig.address).await;
    rig.gate.close();
    let status = client.call(CLASSIFY, "99999999H", classify(&["hi"])).await;
    assert_eq!(reason(&status, Code::DeadlineExceeded).0, "DEADLINE");
    rig.gate.open();
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_says_it_is_too_large_is_refused_at_once() {
    let rig = Rig::start().await;
    let client = Raw::connect(rig.address).await;
    for method in [CLASSIFY, STREAM] {
        let mut call = client.begin(method, "").await;
        call.send_part(17 << 20, 0).await;
        let (name, metadata) = reason(&call.status().await, Code::InvalidArgument);
        assert_eq!(
            (name.as_str(), metadata["limitBytes"].as_str()),
            ("MESSAGE_TOO_LARGE", "8388608")
        );
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_counted_before_they_are_decoded() {
    let rig = Rig::start().await;
    let client = Raw::connect(rig.address).await;
    let status = client.call_bytes(CLASSIFY, "", swollen()).await;
    assert_eq!(reason(&status, Code::InvalidArgument).0, "INVALID_FIELDS");
    assert_eq!(violated(&status), ["conversation.messages"]);
    let status = client
        .call_bytes("SafetyService/BatchClassify", "", empty_messages())
        .await;
    assert_eq!(reason(&status, Code::InvalidArgument).0, "INVALID_FIELDS");
    assert_eq!(violated(&status), ["items"]);
    rig.stop().await;
}

/// A stream's item that is refused undecoded fails alone, like any other.
#[tokio::test(flavor = "multi_thread")]
async fn an_item_with_a_swollen_list_fails_alone() {
    let rig = Rig::start().await;
    let (send, receive) = requests();
    let mut swollen = classify(&[]);
    let message = proto::Message::default();
    swollen.conversation.get_or_insert_default().messages = vec![message; 1_000_000];
    send.send(item("swollen", swollen)).unwrap();
    send.send(item("good", classify(&["hi"]))).unwrap();
    drop(send);
    let mut stream = rig
        .safety()
        .await
        .classify_stream(receive)
        .await
        .unwrap()
        .into_inner();
    let mut seen = Vec::new();
    while let Some(answer) = stream.message().await.unwrap() {
        if let Some(proto::classify_stream_response::Result::Error(error)) = &answer.result {
            assert_eq!(item_reason(error, Code::InvalidArgument), "INVALID_FIELDS");
            assert_eq!(violated(&item_status(error)), ["classify.conversation.messages"]);
            assert_eq!(answer.id, "swollen");
        }
        seen.push(answer.id);
    }
    seen.sort();
    assert_eq!(seen, ["good", "swollen"]);
    rig.stop().await;
}
