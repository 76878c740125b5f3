//! The client against a scripted server.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use prost::Message as _;
use tokio::sync::Notify;
use tonic::{Code, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{
    fake::{Call, FakeServer, Reply},
    *,
};
use crate::{
    proto::{ItemStatus, ScoreRequest, ScoreResponse, ScoredSample},
    trace_context::TraceContext,
};

fn quick() -> ClientOptions {
    ClientOptions {
        retry: RetryPolicy {
            initial: Duration::from_millis(1),
            ..RetryPolicy::default()
        },
        ..ClientOptions::default()
    }
}

async fn connect(server: &FakeServer) -> Client {
    Client::connect(&server.address, quick())
        .await
        .expect("the fake server answers")
}

fn items(count: usize) -> Vec<ScoreItem> {
    (0..count)
        .map(|index| ScoreItem {
            id: format!("item-{index}"),
            request: ScoreRequest {
                samples: index as u32,
                ..ScoreRequest::default()
            },
        })
        .collect()
}

/// An answer that shows which request it belongs to.
fn echo(request: &ScoreRequest) -> Box<ScoreResponse> {
    Box::new(ScoreResponse {
        samples: vec![ScoredSample {
            seed: u64::from(request.samples),
            ..ScoredSample::default()
        }],
        ..ScoreResponse::default()
    })
}

fn index_of(id: &str) -> usize {
    id.trim_start_matches("item-").parse().expect("item-N")
}

fn item_error(code: Code) -> Reply {
    Reply::Fail(ItemStatus {
        code: code as i32,
        message: "no".into(),
        details: Vec::new(),
    })
}

#[tokio::test]
async fn every_call_names_the_span_that_it_is_made_for() {
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let server = FakeServer::start(|call| Reply::Score(echo(&call.request))).await;
    let mut options = quick();
    options.trace = Some(TraceContext::parse(parent, Some("vendor=7")).unwrap());
    let client = Client::connect(&server.address, options).await.unwrap();
    let request = client.request(());
    assert_eq!(request.metadata().get("traceparent").unwrap(), parent);
    assert_eq!(request.metadata().get("tracestate").unwrap(), "vendor=7");
    let without = connect(&server).await.request(());
    assert!(without.metadata().is_empty());
}

async fn score_all(
    client: &Client,
    count: usize,
    window: usize,
) -> (Result<(), ClientError>, BTreeMap<String, ItemResult>, Vec<String>) {
    let mut results = BTreeMap::new();
    let mut order = Vec::new();
    let options = StreamOptions {
        window,
        item_timeout: None,
    };
    let end = client
        .score_stream(items(count), &options, &mut |id, result| {
            order.push(id.to_owned());
            assert!(
                results.insert(id.to_owned(), result).is_none(),
                "{id} answered twice"
            );
        })
        .await;
    (end, results, order)
}

fn assert_all_echoed(results: &BTreeMap<String, ItemResult>, count: usize) {
    assert_eq!(results.len(), count);
    for (id, result) in results {
        let score = result.as_ref().expect("every item succeeds");
        assert_eq!(
            score.samples[0].seed,
            index_of(id) as u64,
            "{id} got another item's answer"
        );
    }
}

#[tokio::test]
async fn answers_out_of_order_are_matched_by_id() {
    let server = FakeServer::start(|call| match index_of(&call.id) % 2 {
        0 => Reply::AfterNext(echo(&call.request)),
        _ => Reply::Score(echo(&call.request)),
    })
    .await;
    let (end, results, order) = score_all(&connect(&server).await, 100, 8).await;
    end.expect("the stream ends well");
    assert_all_echoed(&results, 100);
    assert_eq!(order[..4], ["item-1", "item-0", "item-3", "item-2"]);
}

#[tokio::test]
async fn unanswered_items_move_to_a_new_stream() {
    // Item 3 breaks the stream once with a status, item 7 ends it once in silence; item 2 waits for 3.
    let server = FakeServer::start(|call| match (index_of(&call.id), call.nth) {
        (3, 1) => Reply::Break(Status::unavailable("going away")),
        (7, 1) => Reply::End,
        (2, 1) => Reply::AfterNext(echo(&call.request)),
        _ => Reply::Score(echo(&call.request)),
    })
    .await;
    let (end, results, _) = score_all(&connect(&server).await, 20, 4).await;
    end.expect("the stream ends well");
    assert_all_echoed(&results, 20);
    let calls = server.calls();
    let times = |id: &str| calls.iter().filter(|call| call.id == id).count();
    assert_eq!((times("item-2"), times("item-3"), times("item-7")), (2, 2, 2));
    assert_eq!(times("item-0"), 1, "an answered item is not sent again");
}

#[tokio::test]
async fn a_stream_that_only_breaks_is_given_up_after_four_attempts() {
    let server = FakeServer::start(|_| Reply::Break(Status::unavailable("down"))).await;
    let (end, results, _) = score_all(&connect(&server).await, 3, 1).await;
    match end {
        Err(ClientError::StreamGaveUp {
            streams,
            unanswered,
            last,
        }) => assert_eq!((streams, unanswered, last.code), (4, 3, Code::Unavailable)),
        other => panic!("{other:?}"),
    }
    assert!(results.is_empty());
    assert_eq!(server.calls().len(), 4);
}

#[tokio::test]
async fn a_refused_stream_is_not_tried_again() {
    let server = FakeServer::start(|_| Reply::Break(Status::permission_denied("no"))).await;
    let (end, _, _) = score_all(&connect(&server).await, 1, 1).await;
    assert!(matches!(end, Err(ClientError::Rpc(error)) if error.code == Code::PermissionDenied));
    assert_eq!(server.calls().len(), 1);
}

#[tokio::test]
async fn an_item_that_fails_does_not_disturb_the_others() {
    let server = FakeServer::start(|call| match index_of(&call.id) {
        4 => item_error(Code::InvalidArgument),
        5 => item_error(Code::ResourceExhausted),
        6 if call.nth < 3 => item_error(Code::Unavailable),
        _ => Reply::Score(echo(&call.request)),
    })
    .await;
    let (end, results, _) = score_all(&connect(&server).await, 10, 3).await;
    end.expect("the stream ends well");
    let failed: Vec<_> = results
        .iter()
        .filter_map(|(id, result)| Some((id.as_str(), result.as_ref().err()?.code)))
        .collect();
    assert_eq!(
        failed,
        [
            ("item-4", Code::InvalidArgument),
            ("item-5", Code::ResourceExhausted)
        ]
    );
    let calls = server.calls();
    let times = |id: &str| calls.iter().filter(|call| call.id == id).count();
    assert_eq!((times("item-4"), times("item-5"), times("item-6")), (1, 4, 3));
}

#[tokio::test]
async fn unary_calls_are_retried_and_typed() {
    let server = FakeServer::start(|call| match call.nth {
        1 | 2 => Reply::Break(Status::unavailable("starting")),
        3 => Reply::Score(echo(&call.request)),
        _ => Reply::Break(Status::with_error_details(
            Code::InvalidArgument,
            "2 fields are wrong",
            {
                let mut details = ErrorDetails::with_bad_request_violation("generate.prompt", "is required");
                details.add_bad_request_violation("samples", "must be at most 16");
                details.set_error_info("INVALID_REQUEST", "babelward", HashMap::<String, String>::new());
                details
            },
        )),
    })
    .await;
    let client = connect(&server).await;
    client
        .score(ScoreRequest::default())
        .await
        .expect("the third attempt succeeds");
    let error = client.score(ScoreRequest::default()).await.expect_err("refused");
    let ClientError::Rpc(error) = error else {
        panic!("{error:?}")
    };
    assert_eq!(error.reason.as_deref(), Some("INVALID_REQUEST"));
    assert_eq!(error.violations.len(), 2);
    assert_eq!(
        error.to_string(),
        "INVALID_ARGUMENT (INVALID_REQUEST): 2 fields are wrong\n  generate.prompt: is required\n  samples: must be at most 16"
    );
    assert_eq!(server.calls().len(), 4);

    let said = RpcError {
        message: "invalid fields: samples: must be at most 16".to_owned(),
        ..error
    };
    assert_eq!(
        said.to_string(),
        "INVALID_ARGUMENT (INVALID_REQUEST): invalid fields: samples: must be at most 16\n  generate.prompt: is required",
        "nothing is said twice"
    );
}

#[tokio::test]
async fn pushback_can_forbid_a_retry() {
    let server = FakeServer::start(|_| {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-retry-pushback-ms", "-1".parse().expect("ASCII"));
        Reply::Break(Status::with_metadata(Code::Unavailable, "no", metadata))
    })
    .await;
    let error = connect(&server)
        .await
        .score(ScoreRequest::default())
        .await
        .expect_err("refused");
    assert!(matches!(error, ClientError::Rpc(error) if error.hint == ServerHint::Never));
    assert_eq!(server.calls().len(), 1);
}

/// As the service says that there is no room for a model: `retry` when those that could go were only busy.
fn no_room(retry: Option<Duration>) -> Status {
    let mut details =
        ErrorDetails::with_error_info("DEVICE_MEMORY", "babelward", HashMap::<String, String>::new());
    if retry.is_some() {
        details.set_retry_info(retry);
    }
    Status::with_error_details(Code::ResourceExhausted, "there is no room for the model", details)
}

#[tokio::test]
async fn a_refusal_that_is_final_is_not_tried_again() {
    let server = FakeServer::start(|_| Reply::Break(no_room(None))).await;
    let error = connect(&server)
        .await
        .score(ScoreRequest::default())
        .await
        .expect_err("refused");
    assert!(matches!(error, ClientError::Rpc(error) if !error.is_retryable()));
    assert_eq!(server.calls().len(), 1);

    let server = FakeServer::start(|call| match call.nth {
        1 | 2 => Reply::Break(no_room(Some(Duration::from_millis(1)))),
        _ => Reply::Score(echo(&call.request)),
    })
    .await;
    connect(&server)
        .await
        .score(ScoreRequest::default())
        .await
        .expect("there is room in the end");
    assert_eq!(server.calls().len(), 3);
}

#[tokio::test]
async fn an_item_whose_refusal_is_final_is_not_sent_again() {
    let server = FakeServer::start(|call| {
        let retry = (index_of(&call.id) == 1).then_some(Duration::from_millis(1));
        let status = no_room(retry);
        let decoded = tonic_types::pb::Status::decode(status.details()).expect("our own details");
        match call.nth {
            1 | 2 => Reply::Fail(ItemStatus {
                code: decoded.code,
                message: decoded.message,
                details: decoded.details,
            }),
            _ => Reply::Score(echo(&call.request)),
        }
    })
    .await;
    let (end, results, _) = score_all(&connect(&server).await, 2, 2).await;
    end.expect("the stream ends well");
    assert!(results["item-0"].is_err() && results["item-1"].is_ok());
    let calls = server.calls();
    let times = |id: &str| calls.iter().filter(|call| call.id == id).count();
    assert_eq!((times("item-0"), times("item-1")), (1, 3));
}

#[test]
fn a_broken_connection_is_told_apart_from_an_unknown_error_of_the_server() {
    let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    let lost = RpcError::from_status(&Status::from_error(Box::new(reset)));
    assert!(
        lost.is_retryable() && lost.message.contains("connection to the server was lost"),
        "{lost}"
    );
    let unknown = RpcError::from_status(&Status::unknown("the server's own"));
    assert_eq!(
        (unknown.code, unknown.message.as_str()),
        (Code::Unknown, "the server's own")
    );
}

/// Between its word that it is going away and the next attempt a server may be gone: its word is what is told.
#[tokio::test]
async fn a_server_that_is_gone_after_it_drained_is_told_as_draining() {
    let stop = Arc::new(Notify::new());
    let told = Arc::clone(&stop);
    let script = move |_: &Call| {
        told.notify_one();
        let mut details =
            ErrorDetails::with_error_info("SERVER_DRAINING", "babelward", HashMap::<String, String>::new());
        details.set_retry_info(Some(Duration::from_millis(1)));
        Reply::Break(Status::with_error_details(
            Code::Unavailable,
            "the server is draining",
            details,
        ))
    };
    let server = FakeServer::start_until(script, async move { stop.notified().await }).await;
    let client = connect(&server).await;
    let error = client
        .score(ScoreRequest::default())
        .await
        .expect_err("it is going");
    assert!(
        matches!(&error, ClientError::Rpc(error) if error.is_server_draining()),
        "{error}"
    );
    // Who asks only now cannot know that, but hears what has happened.
    let calls = server.calls().len();
    let error = client
        .score(ScoreRequest::default())
        .await
        .expect_err("it is gone");
    assert!(
        matches!(&error, ClientError::Rpc(error) if error.is_connection_lost() || server.calls().len() > calls),
        "{error}"
    );
}

#[test]
fn hints_come_from_details_and_metadata() {
    let mut status = Status::with_error_details(
        Code::ResourceExhausted,
        "full",
        ErrorDetails::with_retry_info(Some(Duration::from_millis(1500))),
    );
    let hint = |status: &Status| RpcError::from_status(status).hint;
    assert_eq!(hint(&status), ServerHint::AtLeast(Duration::from_millis(1500)));
    status
        .metadata_mut()
        .insert("grpc-retry-pushback-ms", "250".parse().expect("ASCII"));
    assert_eq!(hint(&status), ServerHint::Exactly(Duration::from_millis(250)));
}

#[tokio::test]
async fn bad_and_dead_addresses_are_named() {
    let bad = Client::connect("ftp://127.0.0.1:1", quick())
        .await
        .expect_err("no scheme of ours");
    assert!(matches!(bad, ClientError::BadAddress { .. }), "{bad}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let dead = Client::connect(&address, quick())
        .await
        .expect_err("nobody listens");
    assert!(
        matches!(&dead, ClientError::Unreachable { reason, .. } if reason.contains("refused")),
        "{dead}"
    );
}

#[tokio::test]
async fn ids_must_differ() {
    let server = FakeServer::start(|call| Reply::Score(echo(&call.request))).await;
    let twice = vec![items(1)[0].clone(), items(1)[0].clone()];
    let end = connect(&server)
        .await
        .score_stream(twice, &StreamOptions::default(), &mut |_, _| ())
        .await;
    assert!(matches!(end, Err(ClientError::DuplicateId(id)) if id == "item-0"));
}

#[tokio::test]
async fn several_servers_share_the_items_and_stand_in_for_one_that_is_gone() {
    let answer = |call: &Call| Reply::Score(echo(&call.request));
    let (first, second) = (FakeServer::start(answer).await, FakeServer::start(answer).await);
    // Nothing listens there any more.
    let gone = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let addresses = format!("{gone}, {},{}", first.address, second.address);
    let client = Client::connect(&addresses, quick()).await.unwrap();
    let (end, results, _) = score_all(&client, 50, 7).await;
    end.unwrap();
    assert_all_echoed(&results, 50);
    assert!(!first.calls().is_empty() && !second.calls().is_empty());
    assert_eq!(first.calls().len() + second.calls().len(), 50);
    for _ in 0..3 {
        client.score(ScoreRequest::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_name_is_one_server_for_each_of_its_addresses() {
    let server = FakeServer::start(|call| Reply::Score(echo(&call.request))).await;
    let port = server.address.rsplit(':').next().unwrap();
    let client = Client::connect(&format!("dns:///127.0.0.1:{port}"), quick()).await;
    let (end, results, _) = score_all(&client.unwrap(), 5, 2).await;
    end.unwrap();
    assert_all_echoed(&results, 5);
    let unknown = Client::connect("dns:///nowhere.invalid:1", quick())
        .await
        .unwrap_err();
    assert!(matches!(unknown, ClientError::Unreachable { .. }), "{unknown}");
}

#[tokio::test]
async fn an_item_that_ends_the_call_ends_it_on_all_servers() {
    struct Once(usize);
    impl StreamWork<ScoreItems> for Once {
        fn next(&mut self) -> Option<ScoreItem> {
            self.0 += 1;
            Some(items(1).remove(0)).map(|item| ScoreItem {
                id: self.0.to_string(),
                ..item
            })
        }

        fn left(&self) -> usize {
            1
        }

        fn ended(&mut self, _: &str, _: ItemResult) -> std::ops::ControlFlow<()> {
            std::ops::ControlFlow::Break(())
        }
    }
    let answer = |call: &Call| Reply::Score(echo(&call.request));
    let (first, second) = (FakeServer::start(answer).await, FakeServer::start(answer).await);
    let addresses = format!("{},{}", first.address, second.address);
    let client = Client::connect(&addresses, quick()).await.unwrap();
    let options = StreamOptions {
        window: 4,
        ..StreamOptions::default()
    };
    client.drive::<ScoreItems>(&mut Once(0), &options).await.unwrap();
}
