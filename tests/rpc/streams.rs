//! What holds for all three `*Stream` calls: ids, order, cancel, errors per item, back-pressure.

use std::collections::{HashMap, HashSet};

use babelward::proto::{
    self, Label, classify_stream_request::Action as Classify, classify_stream_response::Result as Classified,
    generate_response::Event, generate_stream_request::Action as Generate,
    generate_stream_response::Result as Generated, score_stream_request::Action as Score,
    score_stream_response::Result as Scored,
};
use tonic::Code;

use crate::rig::{
    Rig, classify, eventually, generate, generate_tokens, item_reason, item_status, reason, requests, score,
    violated,
};

fn ask(id: &str, contents: &[&str]) -> proto::ClassifyStreamRequest {
    proto::ClassifyStreamRequest {
        id: id.to_owned(),
        action: Some(Classify::Classify(classify(contents))),
        timeout: None,
    }
}

fn cancel(id: &str) -> proto::ClassifyStreamRequest {
    proto::ClassifyStreamRequest {
        id: id.to_owned(),
        action: Some(Classify::Cancel(proto::CancelItem {})),
        timeout: None,
    }
}

/// Everything that a stream of these requests answers, then OK.
async fn all(rig: &Rig, asked: Vec<proto::ClassifyStreamRequest>) -> Vec<proto::ClassifyStreamResponse> {
    let stream = rig
        .safety()
        .await
        .classify_stream(tokio_stream::iter(asked))
        .await
        .unwrap();
    let mut stream = stream.into_inner();
    let mut answers = Vec::new();
    while let Some(answer) = stream.message().await.unwrap() {
        answers.push(answer);
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn every_id_is_answered_once_and_half_close_ends_with_ok() {
    let rig = Rig::start().await;
    let asked = (0..700).map(|index| {
        let text = if index % 7 == 0 { "[unsafe]" } else { "fine" };
        ask(&format!("item {index}"), &[&format!("{text} {index}")])
    });
    // More than may be open at once.
    let answers = all(&rig, asked.collect()).await;
    let mut labels = HashMap::new();
    for answer in answers {
        let Some(Classified::Response(response)) = answer.result else {
            panic!("{answer:?}");
        };
        let label = response.verdict.unwrap().label();
        assert_eq!(labels.insert(answer.id, label), None);
    }
    assert_eq!(labels.len(), 700);
    for index in 0..700 {
        let expected = if index % 7 == 0 {
            Label::Unsafe
        } else {
            Label::Safe
        };
        assert_eq!(labels[&format!("item {index}")], expected);
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn short_answers_overtake_long_ones() {
    let rig = Rig::start().await;
    let (send, receive) = requests();
    let item = |id: &str, request| proto::GenerateStreamRequest {
        id: id.to_owned(),
        action: Some(Generate::Generate(request)),
        timeout: None,
    };
    send.send(item("long", generate_tokens("babble", 200))).unwrap();
    send.send(item("short", generate_tokens("[say Hi.]", 200)))
        .unwrap();
    drop(send);
    let mut stream = rig
        .generation()
        .await
        .generate_stream(receive)
        .await
        .unwrap()
        .into_inner();
    let mut finished = Vec::new();
    let mut texts: HashMap<String, String> = HashMap::new();
    while let Some(answer) = stream.message().await.unwrap() {
        let Some(Generated::Response(response)) = answer.result else {
            panic!("{answer:?}");
        };
        match response.event.unwrap() {
            Event::Started(_) => {}
            Event::Delta(delta) => texts.entry(answer.id).or_default().push_str(&delta.text),
            Event::Finished(end) => {
                let text = &texts[&answer.id];
                assert_eq!(end.text_digest, babelward::digest::of_bytes(text));
                finished.push(answer.id);
            }
            other => panic!("{other:?} without a guard"),
        }
    }
    assert_eq!(finished, ["short", "long"]);
    assert_eq!(texts["short"], "Hi.");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_items_fail_alone() {
    let rig = Rig::start().await;
    let mut unknown = classify(&["hi"]);
    unknown.model = "nobody".to_owned();
    let answers = all(
        &rig,
        vec![
            ask("empty", &[]),
            proto::ClassifyStreamRequest {
                id: "unknown".to_owned(),
                action: Some(Classify::Classify(unknown)),
                timeout: None,
            },
            proto::ClassifyStreamRequest {
                id: "idle".to_owned(),
                action: None,
                timeout: None,
            },
            proto::ClassifyStreamRequest {
                timeout: Some(prost_types::Duration {
                    seconds: -1,
                    nanos: 0,
                }),
                ..ask("early", &["hi"])
            },
            ask("", &["hi"]),
            ask(&"x".repeat(129), &["hi"]),
            ask("good", &["fine"]),
        ],
    )
    .await;
    assert_eq!(answers.len(), 7);
    let mut by_id: HashMap<String, Classified> = answers
        .into_iter()
        .map(|answer| (answer.id, answer.result.unwrap()))
        .collect();
    assert!(matches!(by_id.remove("good"), Some(Classified::Response(_))));
    let mut error = |id: &str| match by_id.remove(id) {
        Some(Classified::Error(error)) => error,
        other => panic!("{other:?}"),
    };
    let empty = error("empty");
    assert_eq!(item_reason(&empty, Code::InvalidArgument), "INVALID_FIELDS");
    assert_eq!(violated(&item_status(&empty)), ["classify.conversation.messages"]);
    assert_eq!(item_reason(&error("unknown"), Code::NotFound), "MODEL_NOT_FOUND");
    assert_eq!(violated(&item_status(&error("idle"))), ["action"]);
    assert_eq!(violated(&item_status(&error("early"))), ["timeout"]);
    assert_eq!(violated(&item_status(&error(""))), ["id"]);
    assert_eq!(violated(&item_status(&error(&"x".repeat(129)))), ["id"]);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_item_is_answered_cancelled_and_its_id_is_free_again() {
    let rig = Rig::start().await;
    let (send, receive) = requests();
    rig.gate.close();
    send.send(ask("one", &["fine"])).unwrap();
    let mut stream = rig
        .safety()
        .await
        .classify_stream(receive)
        .await
        .unwrap()
        .into_inner();
    rig.blocked().await;
    send.send(cancel("nobody")).unwrap();
    send.send(cancel("one")).unwrap();
    let answer = stream.message().await.unwrap().unwrap();
    assert_eq!(answer.id, "one");
    match answer.result.unwrap() {
        Classified::Error(error) => assert_eq!(item_reason(&error, Code::Cancelled), "CLIENT_CANCELLED"),
        other => panic!("{other:?}"),
    }
    send.send(ask("one", &["[unsafe]"])).unwrap();
    rig.gate.open();
    let answer = stream.message().await.unwrap().unwrap();
    match answer.result.unwrap() {
        Classified::Response(response) => assert_eq!(response.verdict.unwrap().label(), Label::Unsafe),
        other => panic!("{other:?}"),
    }
    // Answered already: nothing more to say.
    send.send(cancel("one")).unwrap();
    drop(send);
    assert_eq!(stream.message().await.unwrap(), None);
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_open_twice_ends_the_stream() {
    let rig = Rig::start().await;
    let (send, receive) = requests();
    rig.gate.close();
    send.send(ask("twin", &["fine"])).unwrap();
    send.send(ask("twin", &["fine"])).unwrap();
    let mut stream = rig
        .safety()
        .await
        .classify_stream(receive)
        .await
        .unwrap()
        .into_inner();
    let status = stream.message().await.unwrap_err();
    assert_eq!(reason(&status, Code::InvalidArgument).0, "ITEM_ID_OPEN");
    assert_eq!(violated(&status), ["id"]);
    rig.gate.open();
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_stops_reading_at_the_limit_of_open_items() {
    let rig = Rig::start().await;
    rig.gate.close();
    let (send, receive) = requests();
    for index in 0..400 {
        send.send(ask(&index.to_string(), &[&format!("question {index}")]))
            .unwrap();
    }
    drop(send);
    let mut stream = rig
        .safety()
        .await
        .classify_stream(receive)
        .await
        .unwrap()
        .into_inner();
    // The stream is read by its response's task, which runs without us.
    eventually("256 items are open", || {
        let stats = rig.stats();
        stats.queued + stats.running == 256
    })
    .await;
    // Were it still reading, it would be seen here: another stream's item comes and goes in the meantime.
    let mut other = rig.models().await;
    for _ in 0..50 {
        other
            .list_models(proto::ListModelsRequest::default())
            .await
            .unwrap();
        let stats = rig.stats();
        assert_eq!(stats.queued + stats.running, 256);
    }
    rig.gate.open();
    let mut seen = HashSet::new();
    while let Some(answer) = stream.message().await.unwrap() {
        assert!(
            matches!(answer.result, Some(Classified::Response(_))),
            "{answer:?}"
        );
        assert!(seen.insert(answer.id));
    }
    assert_eq!(seen.len(), 400);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scores_come_through_the_same_machinery() {
    let rig = Rig::start().await;
    let (send, receive) = requests();
    let item = |id: &str, request| proto::ScoreStreamRequest {
        id: id.to_owned(),
        action: Some(Score::Score(request)),
        timeout: None,
    };
    send.send(item("a", score("[say Hello.]"))).unwrap();
    send.send(item("b", score("[unsafe] [say Bye.]"))).unwrap();
    send.send(item("c", proto::ScoreRequest::default())).unwrap();
    drop(send);
    let mut stream = rig
        .scoring()
        .await
        .score_stream(receive)
        .await
        .unwrap()
        .into_inner();
    let mut answers = HashMap::new();
    while let Some(answer) = stream.message().await.unwrap() {
        answers.insert(answer.id, answer.result.unwrap());
    }
    match (&answers["a"], &answers["b"], &answers["c"]) {
        (Scored::Response(a), Scored::Response(b), Scored::Error(c)) => {
            assert_eq!((a.safe_count, a.samples[0].text.as_str()), (1, "Hello."));
            assert_eq!((b.unsafe_count, b.samples[0].text.as_str()), (1, "Bye."));
            assert_eq!(violated(&item_status(c)), ["score.generate"]);
        }
        other => panic!("{other:?}"),
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_items_timeout_ends_that_item_only() {
    let rig = Rig::start().await;
    let (send, receive) = requests();
    rig.gate.close();
    send.send(proto::GenerateStreamRequest {
        id: "hasty".to_owned(),
        action: Some(Generate::Generate(generate("babble"))),
        timeout: Some(prost_types::Duration {
            seconds: 0,
            nanos: 20_000_000,
        }),
    })
    .unwrap();
    let mut stream = rig
        .generation()
        .await
        .generate_stream(receive)
        .await
        .unwrap()
        .into_inner();
    let error = loop {
        let answer = stream.message().await.unwrap().unwrap();
        match answer.result.unwrap() {
            Generated::Error(error) => break error,
            Generated::Response(response) => assert!(matches!(response.event, Some(Event::Started(_)))),
        }
    };
    assert_eq!(item_reason(&error, Code::DeadlineExceeded), "DEADLINE");
    rig.gate.open();
    send.send(proto::GenerateStreamRequest {
        id: "patient".to_owned(),
        action: Some(Generate::Generate(generate("[mute]"))),
        timeout: None,
    })
    .unwrap();
    drop(send);
    let mut last = None;
    while let Some(answer) = stream.message().await.unwrap() {
        assert_eq!(answer.id, "patient");
        last = answer.result;
    }
    assert!(matches!(
        last,
        Some(Generated::Response(proto::GenerateResponse {
            event: Some(Event::Finished(_))
        }))
    ));
    rig.idle().await;
    rig.stop().await;
}
