//! Texts that are far too long, or that a vocabulary lacks characters of: refused by name, without harm to others.

use babelward::{
    proto::{
        self, batch_classify_result, classify_request, classify_stream_request, classify_stream_response,
        generate_request, generate_stream_request, generate_stream_response,
        generation_service_client::GenerationServiceClient, judge_options, score_stream_request,
        score_stream_response,
    },
    rpc::{Limits, ServerOptions},
};
use tonic::{Code, Status, transport::Channel};

use crate::rig::{
    Rig, Setup, classify, conversation, generate, item_reason, item_status, reason, requests, score, violated,
};

/// A conversation of nearly 8 MiB, in words that are no token.
fn giant() -> proto::Conversation {
    let content = "the quick brown fox jumps over the lazy dog ".repeat(3000);
    let contents: Vec<&str> = (0..61).map(|_| content.as_str()).collect();
    conversation(&contents)
}

/// That it is far too long, told without counting to its end.
fn assert_far_too_long(status: &Status) {
    let (name, metadata) = reason(status, Code::InvalidArgument);
    assert_eq!(name, "INPUT_TOO_LONG");
    let least: usize = metadata["inputTokensAtLeast"].parse().unwrap();
    let limit: usize = metadata["limitTokens"].parse().unwrap();
    assert!(least > limit, "{metadata:?}");
    assert!(!metadata.contains_key("inputTokens"), "{metadata:?}");
    assert!(status.message().contains("at least"), "{status:?}");
}

fn classify_giant() -> proto::ClassifyRequest {
    proto::ClassifyRequest {
        conversation: Some(giant()),
        ..Default::default()
    }
}

fn generate_giant() -> proto::GenerateRequest {
    proto::GenerateRequest {
        prompt: Some(generate_request::Prompt::Conversation(giant())),
        ..Default::default()
    }
}

fn score_giant() -> proto::ScoreRequest {
    proto::ScoreRequest {
        generate: Some(generate_giant()),
        samples: 16,
        ..Default::default()
    }
}

/// Why a generation does not begin.
async fn refusal(client: &mut GenerationServiceClient<Channel>, request: proto::GenerateRequest) -> Status {
    let mut answer = client.generate(request).await.unwrap().into_inner();
    answer.message().await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn far_too_long_is_refused_everywhere() {
    let rig = Rig::start().await;
    let (mut safety, mut generation, mut scoring) =
        (rig.safety().await, rig.generation().await, rig.scoring().await);
    assert_far_too_long(&safety.classify(classify_giant()).await.unwrap_err());
    assert_far_too_long(&refusal(&mut generation, generate_giant()).await);
    assert_far_too_long(&scoring.score(score_giant()).await.unwrap_err());
    let text = "some words that make a raw text ".repeat(8000);
    let raw = proto::GenerateRequest {
        prompt: Some(generate_request::Prompt::Text(text)),
        ..Default::default()
    };
    assert_far_too_long(&refusal(&mut generation, raw).await);

    let batch = proto::BatchClassifyRequest {
        items: vec![proto::BatchClassifyItem {
            request: Some(classify_giant()),
            ..Default::default()
        }],
    };
    let batch = safety.batch_classify(batch).await.unwrap().into_inner();
    let Some(batch_classify_result::Result::Error(error)) = &batch.results[0].result else {
        panic!("{batch:?}");
    };
    assert_eq!(item_reason(error, Code::InvalidArgument), "INPUT_TOO_LONG");

    let (send, items) = requests();
    send.send(proto::ClassifyStreamRequest {
        id: "a".to_owned(),
        action: Some(classify_stream_request::Action::Classify(classify_giant())),
        ..Default::default()
    })
    .unwrap();
    let mut answers = safety.classify_stream(items).await.unwrap().into_inner();
    let Some(classify_stream_response::Result::Error(error)) =
        answers.message().await.unwrap().unwrap().result
    else {
        panic!("an answer to a conversation that is too long");
    };
    assert_eq!(item_reason(&error, Code::InvalidArgument), "INPUT_TOO_LONG");

    let (send, items) = requests();
    send.send(proto::GenerateStreamRequest {
        id: "a".to_owned(),
        action: Some(generate_stream_request::Action::Generate(generate_giant())),
        ..Default::default()
    })
    .unwrap();
    let mut answers = generation.generate_stream(items).await.unwrap().into_inner();
    let Some(generate_stream_response::Result::Error(error)) =
        answers.message().await.unwrap().unwrap().result
    else {
        panic!("an answer to a conversation that is too long");
    };
    assert_eq!(item_reason(&error, Code::InvalidArgument), "INPUT_TOO_LONG");

    let (send, items) = requests();
    send.send(proto::ScoreStreamRequest {
        id: "a".to_owned(),
        action: Some(score_stream_request::Action::Score(score_giant())),
        ..Default::default()
    })
    .unwrap();
    let mut answers = scoring.score_stream(items).await.unwrap().into_inner();
    let Some(score_stream_response::Result::Error(error)) = answers.message().await.unwrap().unwrap().result
    else {
        panic!("an answer to a conversation that is too long");
    };
    assert_eq!(item_reason(&error, Code::InvalidArgument), "INPUT_TOO_LONG");
    rig.stop().await;
}

/// Memory for one of them at a time, and none of the callers is lost.
#[tokio::test(flavor = "multi_thread")]
async fn many_long_texts_wait_their_turn_while_short_ones_are_answered() {
    let limits = Limits {
        text_memory: 200 << 20,
        ..Limits::default()
    };
    let rig = Rig::with(Setup {
        options: ServerOptions {
            limits,
            ..ServerOptions::default()
        },
        ..Setup::default()
    })
    .await;
    let giants = (0..6).map(|_| {
        let safety = rig.safety();
        async move { safety.await.classify(classify_giant()).await.unwrap_err() }
    });
    let short = async {
        let mut safety = rig.safety().await;
        for _ in 0..20 {
            safety
                .classify(classify(&["How do I bake bread?"]))
                .await
                .unwrap();
        }
    };
    let (giants, ()) = tokio::join!(futures::future::join_all(giants), short);
    for status in giants {
        assert_far_too_long(&status);
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_no_budget_has_room_for_is_refused() {
    let limits = Limits {
        text_memory: 1 << 20,
        ..Limits::default()
    };
    let rig = Rig::with(Setup {
        options: ServerOptions {
            limits,
            ..ServerOptions::default()
        },
        ..Setup::default()
    })
    .await;
    let mut safety = rig.safety().await;
    let content = "words ".repeat(20_000);
    let status = safety.classify(classify(&[&content])).await.unwrap_err();
    let (name, metadata) = reason(&status, Code::InvalidArgument);
    assert_eq!(name, "MESSAGE_TOO_LARGE");
    assert!(metadata["limitBytes"].parse::<usize>().unwrap() < content.len());
    safety.classify(classify(&["short"])).await.unwrap();
    rig.stop().await;
}

/// Reason, character and position of a refusal, with the field.
fn lost(status: &Status) -> (String, String, Vec<String>) {
    let (name, metadata) = reason(status, Code::InvalidArgument);
    assert_eq!(name, "TEXT_NOT_ENCODABLE", "{status:?}");
    (
        metadata["character"].clone(),
        metadata["position"].clone(),
        violated(status),
    )
}

/// SmolLM2 has no token for some bytes, none to fall back to, and none for unknown characters.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_vocabulary_lacks_is_named_with_its_place() {
    let rig = Rig::start().await;
    let (mut safety, mut generation, mut scoring, mut models) = (
        rig.safety().await,
        rig.generation().await,
        rig.scoring().await,
        rig.models().await,
    );
    for (character, name) in [('\u{4}', "U+0004"), ('\u{6}', "U+0006"), ('\u{40000}', "U+40000")] {
        let text = format!("Grüße: {character}!");
        let expected = |field: &str| (name.to_owned(), "7".to_owned(), vec![field.to_owned()]);
        let status = safety
            .classify(classify(&["Hello", "Hi", &text]))
            .await
            .unwrap_err();
        assert_eq!(lost(&status), expected("conversation.messages[2].content"));
        let status = refusal(&mut generation, generate(&text)).await;
        assert_eq!(lost(&status), expected("conversation.messages[0].content"));
        let raw = proto::GenerateRequest {
            prompt: Some(generate_request::Prompt::Text(text.clone())),
            ..Default::default()
        };
        let status = refusal(&mut generation, raw).await;
        assert_eq!(lost(&status), expected("text"));
        let status = scoring.score(score(&text)).await.unwrap_err();
        assert_eq!(
            lost(&status),
            expected("generate.conversation.messages[0].content")
        );
        let count = proto::CountTokensRequest {
            model: String::new(),
            text: text.clone(),
        };
        let status = models.count_tokens(count).await.unwrap_err();
        assert_eq!(lost(&status), expected("text"));
    }
    let batch = proto::BatchClassifyRequest {
        items: vec![
            proto::BatchClassifyItem {
                request: Some(classify(&["\u{4}"])),
                ..Default::default()
            },
            proto::BatchClassifyItem {
                request: Some(classify(&["fine"])),
                ..Default::default()
            },
        ],
    };
    let batch = safety.batch_classify(batch).await.unwrap().into_inner();
    let Some(batch_classify_result::Result::Error(error)) = &batch.results[0].result else {
        panic!("{batch:?}");
    };
    assert_eq!(item_reason(error, Code::InvalidArgument), "TEXT_NOT_ENCODABLE");
    assert_eq!(
        violated(&item_status(error)),
        ["items[0].request.conversation.messages[0].content"]
    );
    assert!(matches!(
        batch.results[1].result,
        Some(batch_classify_result::Result::Response(_))
    ));
    rig.stop().await;
}

/// A policy whose second category the vocabulary lacks a character of, on the wire.
fn lacking() -> proto::Policy {
    let category = |code: &str, description: &str| proto::PolicyCategory {
        code: code.to_owned(),
        name: "Bread".to_owned(),
        description: description.to_owned(),
    };
    proto::Policy {
        name: "lacking".to_owned(),
        categories: vec![category("S1", "Dough."), category("S2", "Grüße: \u{40000}!")],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_the_vocabulary_lacks_characters_of_is_named() {
    let rig = Rig::start().await;
    let (mut safety, mut scoring) = (rig.safety().await, rig.scoring().await);
    // Seven characters are in front of it.
    let expected = |field: &str| ("U+40000".to_owned(), "7".to_owned(), vec![field.to_owned()]);
    let mut request = classify(&["Hello"]);
    request.policy_source = Some(classify_request::PolicySource::InlinePolicy(lacking()));
    let status = safety.classify(request).await.unwrap_err();
    assert_eq!(lost(&status), expected("inline_policy.categories[1].description"));
    let mut request = score("Hello");
    request.judge = Some(proto::JudgeOptions {
        policy_source: Some(judge_options::PolicySource::InlinePolicy(lacking())),
        ..Default::default()
    });
    let status = scoring.score(request).await.unwrap_err();
    assert_eq!(
        lost(&status),
        expected("judge.inline_policy.categories[1].description")
    );
    rig.stop().await;
}
