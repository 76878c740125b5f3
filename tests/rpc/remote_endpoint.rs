//! The client of endpoints alone, against a scripted one: retries, bounds, and what is closed when nobody waits any more.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use babelward::remote::{
    EndpointApi, EndpointLoad, EndpointOptions, LogprobsRequest, RemoteEndpoint, RemoteError, RemoteEvent,
    RemoteFinish, RemoteFinished, RemoteMessage, RemotePhase, RemotePrompt, RemoteRequest, RemoteSampling,
    RemoteUsage,
};
use bytes::Bytes;
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
use serde_json::json;

use crate::authority::Authority;
use crate::endpoint::{
    Endpoint, Piece, Reply, chat_piece, completion_piece, models, undescribed, usage, usage_piece,
};

pub(crate) fn options(endpoint: &Endpoint) -> EndpointOptions {
    EndpointOptions {
        id: "big".to_owned(),
        url: endpoint.url().parse().unwrap(),
        model: "served".to_owned(),
        api: EndpointApi::Both,
        key_file: None,
        ca_file: None,
        concurrency: 4,
        queue: 4,
        stall: Duration::from_secs(60),
    }
}

fn client(endpoint: &Endpoint) -> RemoteEndpoint {
    RemoteEndpoint::new(options(endpoint)).unwrap()
}

fn request() -> RemoteRequest {
    RemoteRequest {
        prompt: RemotePrompt::Text("Once upon".to_owned()),
        sampling: RemoteSampling {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            seed: 7,
        },
        max_tokens: 16,
        stop: Vec::new(),
    }
}

/// The pieces of a whole answer.
fn whole() -> Vec<Piece> {
    vec![
        completion_piece(" a", None),
        completion_piece(" time", Some("stop")),
        usage_piece(usage(2, 2)),
        Piece::done(),
    ]
}

/// The text of an answer, and how it ended.
async fn read(client: &RemoteEndpoint) -> Result<(String, RemoteFinished), RemoteError> {
    let mut answer = client.answer(&request(), None).await?;
    let mut text = String::new();
    loop {
        match answer.next().await? {
            Some(RemoteEvent::Delta { text: more }) => text.push_str(&more),
            Some(RemoteEvent::Finished(finished)) => {
                assert_eq!(answer.next().await?, None);
                return Ok((text, finished));
            }
            None => panic!("an answer without an end"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_read_to_its_end_and_its_connection_used_again() {
    let endpoint = Endpoint::start(|_| Reply::events(whole())).await;
    let client = client(&endpoint);
    for _ in 0..2 {
        let (text, finished) = read(&client).await.unwrap();
        assert_eq!(text, " a time");
        let usage = RemoteUsage {
            prompt_tokens: 2,
            completion_tokens: 2,
            cached_prompt_tokens: 0,
        };
        let expected = RemoteFinished {
            reason: RemoteFinish::Stop,
            usage: Some(usage),
        };
        assert_eq!(finished, expected);
        assert_eq!(client.load(), EndpointLoad::default());
    }
    let bodies = endpoint.bodies("/v1/completions");
    assert_eq!(bodies.len(), 2);
    assert_eq!(
        bodies[0],
        json!({"model": "served", "prompt": "Once upon", "max_tokens": 16, "temperature": 0.0, "seed": 7,
            "stream": true, "stream_options": {"include_usage": true}})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_pass_is_tried_again_until_an_answer_begins() {
    let endpoint = Endpoint::start(|asked| match asked.before {
        0 => Reply::Hangup,
        1 => Reply::refusal(503, "busy").with_header("retry-after", "0"),
        // It breaks before it has said anything of the answer.
        2 => Reply::events(vec![Piece::text(": hello\n\n"), Piece::Break]),
        _ => Reply::events(whole()),
    })
    .await;
    assert_eq!(read(&client(&endpoint)).await.unwrap().0, " a time");
    assert_eq!(endpoint.asked().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_tried_again_once_an_answer_has_begun() {
    let endpoint = Endpoint::start(|_| Reply::events(vec![completion_piece(" a", None), Piece::Break])).await;
    assert_eq!(read(&client(&endpoint)).await.unwrap_err(), RemoteError::Broken);
    assert_eq!(endpoint.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stays_wrong_is_not_tried_again() {
    for (status, kind) in [
        (400, "scripted"),
        (401, "scripted"),
        (404, "scripted"),
        (500, "scripted"),
    ] {
        let endpoint = Endpoint::start(move |_| Reply::refusal(status, "quotes its caller")).await;
        let expected = RemoteError::Status {
            code: status,
            kind: Some(kind.to_owned()),
            retry_after: None,
        };
        assert_eq!(read(&client(&endpoint)).await.unwrap_err(), expected);
        assert_eq!(endpoint.asked().len(), 1, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_few_and_none_is_made_that_could_not_be_in_time() {
    let endpoint = Endpoint::start(|_| Reply::refusal(429, "busy")).await;
    let busy = |retry_after| RemoteError::Status {
        code: 429,
        kind: Some("scripted".to_owned()),
        retry_after,
    };
    assert_eq!(read(&client(&endpoint)).await.unwrap_err(), busy(None));
    assert_eq!(endpoint.asked().len(), 4);
    let endpoint = Endpoint::start(|_| Reply::refusal(429, "busy").with_header("retry-after", "3600")).await;
    let deadline = Instant::now() + Duration::from_secs(600);
    let refused = client(&endpoint).answer(&request(), Some(deadline)).await.err();
    assert_eq!(refused, Some(busy(Some(Duration::from_secs(3600)))));
    assert_eq!(endpoint.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_not_there_is_no_connection() {
    let endpoint = Endpoint::start(|_| Reply::Silence).await;
    let options = options(&endpoint);
    drop(endpoint);
    let client = RemoteEndpoint::new(options).unwrap();
    let error = read(&client).await.unwrap_err();
    assert!(
        matches!(error, RemoteError::Connect { .. } | RemoteError::Broken),
        "{error:?}"
    );
    assert!(error.is_fault());
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_a_request_before_its_answer_and_within_it() {
    for reply in [
        Reply::Silence,
        Reply::events(vec![Piece::Stall]),
        Reply::events(vec![completion_piece(" a", None), Piece::Stall]),
    ] {
        let endpoint = Endpoint::start(move |_| reply.clone()).await;
        let limit = Duration::from_secs(1);
        let options = EndpointOptions {
            stall: limit,
            ..options(&endpoint)
        };
        let client = RemoteEndpoint::new(options).unwrap();
        assert_eq!(read(&client).await.unwrap_err(), RemoteError::Stalled { limit });
        endpoint.until_left(1).await;
        assert_eq!(client.load(), EndpointLoad::default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_ends_a_request_and_is_told_to_the_endpoint() {
    let endpoint = Endpoint::start(|_| Reply::Silence).await;
    let deadline = Instant::now() + Duration::from_secs(2);
    let ended = client(&endpoint).answer(&request(), Some(deadline)).await.err();
    let phase = RemotePhase::Prefill;
    assert_eq!(ended, Some(RemoteError::Deadline { phase }));
    endpoint.until_left(1).await;
    let told: u64 = endpoint.asked()[0]
        .header("x-request-timeout-ms")
        .parse()
        .unwrap();
    assert!((1..=2000).contains(&told), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_reads_any_more_is_closed_there() {
    let endpoint = Endpoint::start(|_| Reply::events(vec![completion_piece(" a", None), Piece::Stall])).await;
    let client = client(&endpoint);
    let mut answer = client.answer(&request(), None).await.unwrap();
    assert!(matches!(answer.next().await, Ok(Some(RemoteEvent::Delta { .. }))));
    assert_eq!(client.load(), EndpointLoad { waiting: 0, open: 1 });
    drop(answer);
    endpoint.until_left(1).await;
    endpoint.until_open(0).await;
    assert_eq!(client.load(), EndpointLoad::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_are_cut_off() {
    let line = Bytes::from(vec![b'x'; 64 << 10]);
    let comment = Bytes::from(format!(": {}\n\n", "x".repeat(64 << 10)));
    let empty = Bytes::from("data: {\"choices\":[{\"text\":\"\"}]}\n\n".repeat(1 << 10));
    let text = Bytes::from("data: {\"choices\":[{\"text\":\"word\"}]}\n\n".repeat(64));
    for (flood, what) in [
        (line, "an event of its answer"),
        (comment, "the body of its answer"),
        (empty, "the body of its answer"),
        (text, "its answer"),
    ] {
        let endpoint = Endpoint::start(move |_| Reply::events(vec![Piece::Flood(flood.clone())])).await;
        let error = read(&client(&endpoint)).await.unwrap_err();
        assert!(
            matches!(error, RemoteError::TooLarge { what: found, .. } if found == what),
            "{error:?}"
        );
        endpoint.until_left(1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_are_errors() {
    let piece = |text: &str| Piece::text(text);
    for (reply, what) in [
        (Reply::json(&json!({"choices": []})), "it is no stream of events"),
        (
            Reply::events(vec![piece("data: {\"choices\":7}\n\n")]),
            "`choices` is missing or not of its type",
        ),
        (
            Reply::events(vec![piece("data: hello\n\n")]),
            "a message is not JSON",
        ),
        (
            Reply::events(vec![
                completion_piece(" a", Some("stop")),
                completion_piece(" b", None),
            ]),
            "text after the reason why the answer ended",
        ),
        (
            Reply::events(vec![
                completion_piece(" a", Some("stop")),
                usage_piece(usage(2, 1)),
                usage_piece(usage(3, 1)),
            ]),
            "`usage` contradicts an earlier one",
        ),
        (
            Reply::events(vec![completion_piece(" a", None), Piece::done()]),
            "no reason why the answer ended",
        ),
    ] {
        let endpoint = Endpoint::start(move |_| reply.clone()).await;
        let expected = RemoteError::Malformed {
            what: what.to_owned(),
        };
        assert_eq!(read(&client(&endpoint)).await.unwrap_err(), expected);
    }
    // It only left out the last event.
    let endpoint = Endpoint::start(|_| Reply::events(vec![completion_piece(" a", Some("length"))])).await;
    let finished = read(&client(&endpoint)).await.unwrap().1;
    assert_eq!((finished.reason, finished.usage), (RemoteFinish::Length, None));
    // It ended in the middle.
    let endpoint = Endpoint::start(|_| Reply::events(vec![completion_piece(" a", None)])).await;
    assert_eq!(read(&client(&endpoint)).await.unwrap_err(), RemoteError::Broken);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_limit_wait_and_the_rest_are_refused() {
    let open = tokio::sync::watch::Sender::new(false);
    let gate = open.subscribe();
    let endpoint = Endpoint::start(move |_| {
        let mut pieces = vec![Piece::Until(gate.clone())];
        pieces.extend(whole());
        Reply::events(pieces)
    })
    .await;
    let options = EndpointOptions {
        concurrency: 2,
        queue: 3,
        ..options(&endpoint)
    };
    let client = Arc::new(RemoteEndpoint::new(options).unwrap());
    let tasks: Vec<_> = (0..5)
        .map(|_| {
            let client = Arc::clone(&client);
            tokio::spawn(async move { read(&client).await })
        })
        .collect();
    endpoint.until_open(2).await;
    let full = EndpointLoad { waiting: 3, open: 2 };
    crate::rig::eventually("all wait", || client.load() == full).await;
    assert_eq!(read(&client).await.unwrap_err(), RemoteError::QueueFull);
    let late = client.answer(&request(), Some(Instant::now())).await.err();
    assert_eq!(late, Some(RemoteError::QueueFull));
    open.send_replace(true);
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap().0, " a time");
    }
    assert_eq!(endpoint.asked().len(), 5);
    assert_eq!(client.load(), EndpointLoad::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_sent_and_read_again_when_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "old\n").unwrap();
    let valid = Arc::new(Mutex::new("Bearer old".to_owned()));
    let known = Arc::clone(&valid);
    let endpoint = Endpoint::start(move |asked| {
        if asked.header("authorization") == *known.lock().unwrap() {
            Reply::events(whole())
        } else {
            Reply::refusal(401, "who are you?")
        }
    })
    .await;
    let options = EndpointOptions {
        key_file: Some(file.clone()),
        ..options(&endpoint)
    };
    let client = RemoteEndpoint::new(options).unwrap();
    assert!(!format!("{client:?}").contains("old"));
    read(&client).await.unwrap();
    *valid.lock().unwrap() = "Bearer new".to_owned();
    assert!(matches!(
        read(&client).await,
        Err(RemoteError::Status { code: 401, .. })
    ));
    std::fs::write(&file, "new").unwrap();
    read(&client).await.unwrap();
    // One with each key, one that was refused, one that was refused and sent again with the new key.
    assert_eq!(endpoint.asked().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_have_their_log_probabilities_or_are_errors() {
    let endpoint = Endpoint::start(|asked| match asked.body["prompt"].as_str() {
        Some("mute") => Reply::json(&json!({"choices": [{"text": "safe", "logprobs": null}]})),
        _ => Reply::json(&json!({"model": "served", "choices": [{"text": "safe", "logprobs": {
            "tokens": ["safe"], "token_logprobs": [-0.25], "top_logprobs": [{"safe": -0.25, "unsafe": -1.75}]}}]})),
    })
    .await;
    let client = client(&endpoint);
    let mut asked = LogprobsRequest {
        prompt: RemotePrompt::Text("judge".to_owned()),
        top: 5,
        max_tokens: 1,
    };
    let found = client.logprobs(&asked, None).await.unwrap();
    let candidates: Vec<_> = found.positions[0]
        .candidates
        .iter()
        .map(|candidate| (candidate.text.as_str(), candidate.logprob))
        .collect();
    assert_eq!(candidates, [("safe", -0.25), ("unsafe", -1.75)]);
    assert_eq!(found.text, "safe");
    asked.prompt = RemotePrompt::Text("mute".to_owned());
    assert_eq!(
        client.logprobs(&asked, None).await.err(),
        Some(RemoteError::NoLogprobs)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_go_to_chat_completions() {
    let endpoint =
        Endpoint::start(|_| Reply::events(vec![chat_piece("Hi", Some("stop")), Piece::done()])).await;
    let asked = RemoteRequest {
        prompt: RemotePrompt::Conversation(vec![RemoteMessage {
            role: "user",
            content: "Hello".to_owned(),
        }]),
        ..request()
    };
    let client = client(&endpoint);
    let mut answer = client.answer(&asked, None).await.unwrap();
    let hi = RemoteEvent::Delta {
        text: "Hi".to_owned(),
    };
    assert_eq!(answer.next().await.unwrap(), Some(hi));
    assert_eq!(answer.reported().model.as_deref(), Some("served"));
    let [body] = &endpoint.bodies("/v1/chat/completions")[..] else {
        panic!("one request");
    };
    assert_eq!(body["messages"], json!([{"role": "user", "content": "Hello"}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_endpoint_says_of_itself_is_asked_once_a_minute() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let endpoint = Endpoint::start(move |asked| {
        count.fetch_add(1, Ordering::AcqRel);
        match asked.path.as_str() {
            "/v1/models" => Reply::json(&models("served")),
            "/version" => Reply::json(&json!({"version": "0.9.1"})),
            _ => Reply::refusal(404, "there is no such path"),
        }
    })
    .await;
    let client = client(&endpoint);
    for _ in 0..2 {
        let said = client.description().await;
        assert_eq!(said.lists_model, Some(true));
        assert_eq!(said.software.as_deref(), Some("vllm"));
        assert_eq!(said.version.as_deref(), Some("0.9.1"));
        assert_eq!(said.context_tokens, Some(4096));
        assert_eq!(client.known_description(), said);
        assert_eq!(asked.load(Ordering::Acquire), 3);
    }
    // A list without the model, and no pages besides.
    let endpoint = Endpoint::start(|asked| undescribed(asked, "another").unwrap()).await;
    let said = self::client(&endpoint).describe().await.unwrap();
    assert_eq!((said.lists_model, said.version), (Some(false), None));
}

/// An endpoint with TLS, whose certificate this authority has issued for `127.0.0.1`.
async fn encrypted(authority: &Authority) -> Endpoint {
    let identity = authority.issue(&["127.0.0.1"]);
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![identity.der.into()], key)
        .unwrap();
    Endpoint::start_with_tls(Arc::new(config), |_| Reply::events(whole())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_endpoint_needs_a_certificate_of_a_known_authority() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let endpoint = encrypted(&authority).await;
    let with = |file: Option<String>| {
        RemoteEndpoint::new(EndpointOptions {
            ca_file: file.map(Into::into),
            ..options(&endpoint)
        })
        .unwrap()
    };
    let known = with(Some(authority.write(folder.path(), "authority.pem")));
    assert_eq!(read(&known).await.unwrap().0, " a time");
    for unknown in [
        with(Some(stranger.write(folder.path(), "stranger.pem"))),
        with(None),
    ] {
        let error = read(&unknown).await.unwrap_err();
        assert!(matches!(error, RemoteError::Tls { .. }), "{error:?}");
    }
    // Only the first has been heard.
    assert_eq!(endpoint.asked().len(), 1);
}
