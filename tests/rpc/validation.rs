//! Wrong requests: all violations at once, typed reasons, nothing reaches the engine.

use babelward::{
    proto::{self, generate_request::Prompt},
    rpc::{Limits, ServerOptions},
};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::rig::{
    BASE, GUARD, Rig, Setup, TARGET, classify, conversation, eventually, generate, message, reason, score,
    violated,
};

#[tokio::test(flavor = "multi_thread")]
async fn all_violations_come_back_at_once() {
    let rig = Rig::start().await;
    let passes = rig.gate.passes();
    let request = proto::ScoreRequest {
        generate: Some(proto::GenerateRequest {
            model: "x".repeat(200),
            prompt: Some(Prompt::Conversation(proto::Conversation {
                messages: vec![
                    message(proto::Role::Unspecified, ""),
                    message(proto::Role::Assistant, "fine"),
                    message(proto::Role::System, "be kind"),
                ],
            })),
            sampling: Some(proto::SamplingParams {
                temperature: Some(f64::NAN),
                top_p: Some(1.5),
                ..Default::default()
            }),
            stopping: Some(proto::StoppingParams {
                max_new_tokens: 5000,
                stop_sequences: vec!["a".to_owned(); 9],
            }),
            logprobs: None,
            priority: 7,
            guard: None,
        }),
        judge: Some(proto::JudgeOptions {
            model: "y".repeat(200),
            ..Default::default()
        }),
        samples: 17,
        keep_text: false,
    };
    let status = rig.scoring().await.score(request).await.unwrap_err();
    assert_eq!(reason(&status, Code::InvalidArgument).0, "INVALID_FIELDS");
    let mut fields = violated(&status);
    fields.sort();
    assert_eq!(
        fields,
        [
            "generate.conversation.messages[0].content",
            "generate.conversation.messages[0].role",
            // Of the shape, which is wrong as well.
            "generate.conversation.messages[2].role",
            "generate.model",
            "generate.priority",
            "generate.sampling.temperature",
            "generate.sampling.top_p",
            "generate.stopping.max_new_tokens",
            "generate.stopping.stop_sequences",
            "judge.model",
            "samples",
        ]
    );
    assert_eq!(rig.gate.passes(), passes);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_score_needs_a_prompt_that_is_still_to_be_answered() {
    let rig = Rig::start().await;
    let mut answered = score("hi");
    answered.generate.as_mut().unwrap().prompt = Some(Prompt::Conversation(conversation(&["hi", "hello"])));
    let status = rig.scoring().await.score(answered).await.unwrap_err();
    assert_eq!(reason(&status, Code::InvalidArgument).0, "CONVERSATION_SHAPE");
    assert_eq!(violated(&status), ["generate.conversation.messages[1].role"]);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_found_or_suggested_and_asked_only_what_they_can_do() {
    let rig = Rig::start().await;
    let (mut safety, mut generation) = (rig.safety().await, rig.generation().await);

    let mut request = classify(&["hi"]);
    request.model = "tiny-wart".to_owned();
    let status = safety.classify(request.clone()).await.unwrap_err();
    let (name, metadata) = reason(&status, Code::NotFound);
    assert_eq!(name, "MODEL_NOT_FOUND");
    assert_eq!(metadata["didYouMean"], GUARD);
    let details = status.get_error_details();
    assert_eq!(details.resource_info().unwrap().resource_name, "tiny-wart");

    request.model = "quite different".to_owned();
    let (_, metadata) = reason(
        &safety.classify(request.clone()).await.unwrap_err(),
        Code::NotFound,
    );
    assert!(metadata.is_empty(), "{metadata:?}");

    request.model = TARGET.to_owned();
    let (name, metadata) = reason(
        &safety.classify(request).await.unwrap_err(),
        Code::FailedPrecondition,
    );
    assert_eq!(name, "CAPABILITY_MISSING");
    assert_eq!(
        (metadata["has"].as_str(), metadata["needs"].as_str()),
        ("generate", "classify")
    );

    let mut request = generate("hi");
    request.model = GUARD.to_owned();
    let status = generation.generate(request.clone()).await.unwrap_err();
    assert_eq!(reason(&status, Code::FailedPrecondition).0, "CAPABILITY_MISSING");

    request.model = BASE.to_owned();
    let status = generation.generate(request).await.unwrap_err();
    assert_eq!(
        reason(&status, Code::FailedPrecondition).0,
        "CHAT_TEMPLATE_MISSING"
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_ids_must_be_in_the_vocabulary() {
    let rig = Rig::start().await;
    let mut request = generate("");
    let ids = vec![5, u32::MAX, 6, 49_152, 49_151];
    request.prompt = Some(Prompt::TokenIds(proto::TokenIds { ids }));
    let status = rig.generation().await.generate(request).await.unwrap_err();
    assert_eq!(reason(&status, Code::InvalidArgument).0, "INVALID_FIELDS");
    assert_eq!(violated(&status), ["token_ids.ids[1]", "token_ids.ids[3]"]);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn input_beyond_the_window_is_refused_with_the_counts() {
    let rig = Rig::with(Setup {
        context: 1024,
        ..Default::default()
    })
    .await;
    let long = "word ".repeat(2000);
    let status = rig.safety().await.classify(classify(&[&long])).await.unwrap_err();
    let (name, metadata) = reason(&status, Code::InvalidArgument);
    assert_eq!(name, "INPUT_TOO_LONG");
    let (input, limit): (usize, usize) = (
        metadata["inputTokensAtLeast"].parse().unwrap(),
        metadata["limitTokens"].parse().unwrap(),
    );
    assert!(input > limit && limit <= 1024, "{input} of {limit}");

    let mut stream = rig
        .generation()
        .await
        .generate(generate(&long))
        .await
        .unwrap()
        .into_inner();
    let status = stream.message().await.unwrap_err();
    assert_eq!(reason(&status, Code::InvalidArgument).0, "INPUT_TOO_LONG");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_that_can_never_fit_the_pool_is_refused() {
    // Room for the guard's pinned policy and little else.
    let rig = Rig::with(Setup {
        blocks: 160,
        ..Default::default()
    })
    .await;
    let request = crate::rig::generate_tokens("[endless]", 4000);
    let mut stream = rig
        .generation()
        .await
        .generate(request)
        .await
        .unwrap()
        .into_inner();
    let status = stream.message().await.unwrap_err();
    assert_eq!(reason(&status, Code::FailedPrecondition).0, "CACHE_TOO_SMALL");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_refused_with_the_limit() {
    let limits = Limits {
        message_bytes: 4096,
        ..Default::default()
    };
    let options = ServerOptions {
        limits,
        ..Default::default()
    };
    let rig = Rig::with(Setup {
        options,
        ..Default::default()
    })
    .await;
    let mut client = rig.safety().await;
    let status = client.classify(classify(&[&"x".repeat(5000)])).await.unwrap_err();
    let (name, metadata) = reason(&status, Code::InvalidArgument);
    assert_eq!(
        (name.as_str(), metadata["limitBytes"].as_str()),
        ("MESSAGE_TOO_LARGE", "4096")
    );
    // Beyond twice the limit it is refused by the length that it announces.
    let status = client.classify(classify(&[&"x".repeat(9000)])).await.unwrap_err();
    assert_eq!(reason(&status, Code::InvalidArgument).0, "MESSAGE_TOO_LARGE");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_when_to_come_back() {
    let rig = Rig::with(Setup {
        queue_items: 2,
        ..Default::default()
    })
    .await;
    rig.gate.close();
    let client = rig.safety().await;
    let mut open = Vec::new();
    let mut ask = |text: &str| {
        let (mut client, request) = (client.clone(), classify(&[text]));
        open.push(tokio::spawn(async move { client.classify(request).await }));
    };
    // One is in the forward pass that the gate holds; two more fill the queue.
    ask("first");
    rig.blocked().await;
    ask("second");
    ask("third");
    eventually("the queue is full", || rig.stats().queued == 2).await;
    let mut client = client.clone();
    let status = client.classify(classify(&["fourth"])).await.unwrap_err();
    assert_eq!(reason(&status, Code::ResourceExhausted).0, "QUEUE_FULL");
    let delay = status
        .get_error_details()
        .retry_info()
        .unwrap()
        .retry_delay
        .unwrap();
    let pushback: u128 = status
        .metadata()
        .get("grpc-retry-pushback-ms")
        .unwrap()
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(delay.as_millis(), pushback);
    rig.gate.open();
    for call in open {
        call.await.unwrap().unwrap();
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_and_answers_carry_the_callers_request_id() {
    let rig = Rig::start().await;
    let mut client = rig.safety().await;
    let mut request = tonic::Request::new(classify(&["hi"]));
    request
        .metadata_mut()
        .insert("x-request-id", "run-7".parse().unwrap());
    let response = client.classify(request).await.unwrap();
    assert_eq!(response.metadata().get("x-request-id").unwrap(), "run-7");

    let mut request = tonic::Request::new(proto::ClassifyRequest::default());
    request
        .metadata_mut()
        .insert("x-request-id", "run-8".parse().unwrap());
    let status = client.classify(request).await.unwrap_err();
    assert_eq!(status.metadata().get("x-request-id").unwrap(), "run-8");
    assert_eq!(
        status.get_error_details().request_info().unwrap().request_id,
        "run-8"
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_never_repeat_what_the_caller_wrote() {
    let rig = Rig::start().await;
    let secret = "open sesame";
    let mut request = classify(&[secret]);
    request.model = secret.to_owned();
    let mut bad = generate(secret);
    bad.stopping.as_mut().unwrap().stop_sequences = vec![secret.repeat(10)];
    bad.model = secret.to_owned();
    let statuses = [
        rig.safety().await.classify(request).await.unwrap_err(),
        rig.generation().await.generate(bad).await.unwrap_err(),
    ];
    for status in statuses {
        let whole = format!("{status:?}") + &String::from_utf8_lossy(status.details());
        assert!(!whole.contains("sesame"), "{whole}");
    }
    rig.stop().await;
}
