//! Generate: events, whole code points, digests, seeds.

use babelward::proto::{self, FinishReason, generate_request::Prompt, generate_response::Event};
use sha2::{Digest as _, Sha256};
use tonic::{Streaming, transport::Channel};

use crate::rig::{BASE, Rig, TARGET, generate, generate_tokens, text};

type Client = proto::generation_service_client::GenerationServiceClient<Channel>;

/// An answer, checked for everything that holds of all answers.
struct Answer {
    started: proto::GenerateStarted,
    deltas: Vec<proto::GenerateDelta>,
    finished: proto::GenerateFinished,
    text: String,
}

async fn answer(client: &mut Client, request: proto::GenerateRequest) -> Answer {
    read(client.generate(request).await.unwrap().into_inner()).await
}

async fn read(mut stream: Streaming<proto::GenerateResponse>) -> Answer {
    let mut events = Vec::new();
    while let Some(response) = stream.message().await.unwrap() {
        events.push(response.event.unwrap());
    }
    let mut events = events.into_iter();
    let Some(Event::Started(started)) = events.next() else {
        panic!("the first event is Started");
    };
    let Some(Event::Finished(finished)) = events.next_back() else {
        panic!("the last event is Finished");
    };
    let mut answered = String::new();
    let mut tokens = 0;
    let deltas: Vec<_> = events
        .map(|event| match event {
            Event::Delta(delta) => {
                assert_eq!(delta.offset_bytes, answered.len() as u64);
                answered.push_str(&delta.text);
                tokens += delta.token_ids.len();
                delta
            }
            other => panic!("{other:?} between Started and Finished"),
        })
        .collect();
    let usage = finished.usage.unwrap();
    assert_eq!(usage.completion_tokens as usize, tokens);
    assert_eq!(usage.prompt_tokens, started.prompt_tokens);
    let digest = Sha256::digest(answered.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(finished.text_digest, format!("sha256:{hex}"));
    let timing = finished.timing.unwrap();
    assert!(timing.max_batch_size >= 1 && timing.total.is_some());
    Answer {
        started,
        deltas,
        finished,
        text: answered,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_started_deltas_and_finished() {
    let rig = Rig::start().await;
    let mut client = rig.generation().await;
    let request = generate_tokens("[say Bonjour, ça va ? 🦀👩‍👩‍👧 Grüße!]", 100);
    let answer = answer(&mut client, request).await;
    assert_eq!(answer.text, "Bonjour, ça va ? 🦀👩‍👩‍👧 Grüße!");
    assert!(answer.deltas.len() > 3);
    assert_eq!(answer.finished.finish_reason(), FinishReason::Eos);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_end_for_the_reason_they_say() {
    let rig = Rig::start().await;
    let mut client = rig.generation().await;

    let whole = answer(&mut client, generate_tokens("[say One two three four.]", 100)).await;
    assert_eq!(whole.text, "One two three four.");
    assert_eq!(whole.finished.finish_reason(), FinishReason::Eos);

    let mute = answer(&mut client, generate("[mute]")).await;
    assert_eq!((mute.text.as_str(), mute.deltas.len()), ("", 0));
    assert_eq!(mute.finished.finish_reason(), FinishReason::Eos);

    let mut stopped = generate_tokens("[say One two three four.]", 100);
    stopped.stopping.as_mut().unwrap().stop_sequences = vec!["xyz".to_owned(), "o th".to_owned()];
    let stopped = answer(&mut client, stopped).await;
    assert_eq!(stopped.text, "One tw");
    assert_eq!(stopped.finished.finish_reason(), FinishReason::StopSequence);
    assert_eq!(stopped.finished.stop_sequence, "o th");

    let short = answer(&mut client, generate_tokens("babble", 5)).await;
    assert_eq!(short.finished.finish_reason(), FinishReason::MaxTokens);
    assert_eq!(short.finished.usage.unwrap().completion_tokens, 5);
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn provenance_says_what_is_needed_to_run_it_again() {
    let rig = Rig::start().await;
    let mut client = rig.generation().await;
    let (tokenizer, template) = text();

    let mut request = generate("babble");
    request.sampling = None;
    let drawn = answer(&mut client, request.clone()).await;
    let provenance = drawn.started.provenance.unwrap();
    assert_eq!(provenance.model, TARGET);
    assert_eq!(provenance.tokenizer_digest, tokenizer.digest());
    assert_eq!(provenance.template_digest, template.digest());
    assert_eq!(provenance.seed, Some(drawn.started.seed));
    let other = answer(&mut client, request.clone()).await;
    assert_ne!(other.started.seed, drawn.started.seed);

    // The drawn seed gives the same answer.
    request.sampling = Some(proto::SamplingParams {
        seed: Some(drawn.started.seed),
        ..Default::default()
    });
    assert_eq!(answer(&mut client, request.clone()).await.text, drawn.text);

    request.sampling.as_mut().unwrap().temperature = Some(0.0);
    let greedy = answer(&mut client, request).await;
    assert_eq!(greedy.started.provenance.unwrap().seed, None);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seeded_answer_is_the_same_alone_and_in_company() {
    let rig = Rig::start().await;
    let mut client = rig.generation().await;
    let request = generate_tokens("babble on", 40);
    let alone = answer(&mut client, request.clone()).await;

    // Held back until all are queued, so that they do share forward passes.
    rig.gate.close();
    let mut company = Vec::new();
    for index in 0..24 {
        let mut request = request.clone();
        if index % 3 != 0 {
            request.prompt = Some(Prompt::Text(format!("company {index}")));
        }
        let mut client = client.clone();
        company.push(tokio::spawn(async move {
            let answer = answer(&mut client, request).await;
            (index, answer)
        }));
    }
    crate::rig::eventually("all are queued", || {
        let stats = rig.stats();
        stats.queued + stats.running == 24 || rig.gate.is_blocked() && stats.queued >= 20
    })
    .await;
    rig.gate.open();
    let mut shared = 0;
    for task in company {
        let (index, answer) = task.await.unwrap();
        shared = shared.max(answer.finished.timing.unwrap().max_batch_size);
        if index % 3 == 0 {
            assert_eq!(answer.text, alone.text);
            let ids = |answer: &Answer| -> Vec<u32> {
                answer
                    .deltas
                    .iter()
                    .flat_map(|delta| delta.token_ids.clone())
                    .collect()
            };
            assert_eq!(ids(&answer), ids(&alone));
        }
    }
    assert!(shared > 8, "at most {shared} sequences shared a forward pass");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logprobs_come_with_their_tokens() {
    let rig = Rig::start().await;
    let mut client = rig.generation().await;
    let mut request = generate("babble");
    request.logprobs = Some(proto::LogprobOptions {
        generated: true,
        top_n: 3,
    });
    let answer = answer(&mut client, request).await;
    for delta in &answer.deltas {
        let ids: Vec<u32> = delta.logprobs.iter().map(|logprob| logprob.token_id).collect();
        assert_eq!(ids, delta.token_ids);
        for logprob in &delta.logprobs {
            assert!(logprob.logprob < 0.0);
            let alternatives: Vec<f64> = logprob.alternatives.iter().map(|other| other.logprob).collect();
            assert_eq!(alternatives.len(), 3);
            assert!(alternatives.is_sorted_by(|a, b| a >= b), "{alternatives:?}");
            assert!(logprob.logprob <= alternatives[0]);
        }
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_text_and_tokens_are_completed_without_a_template() {
    let rig = Rig::start().await;
    let mut client = rig.generation().await;
    let (tokenizer, _) = text();
    let tokens = tokenizer.encode_plain("[say after]").unwrap();
    let mut request = generate("");
    request.model = BASE.to_owned();
    request.prompt = Some(Prompt::Text("[say after]".to_owned()));
    let from_text = answer(&mut client, request.clone()).await;
    assert_eq!(from_text.text, "after");
    assert_eq!(from_text.started.prompt_tokens as usize, tokens.len());
    assert_eq!(from_text.started.provenance.unwrap().template_digest, "");
    request.prompt = Some(Prompt::TokenIds(proto::TokenIds { ids: tokens }));
    assert_eq!(answer(&mut client, request).await.text, "after");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_prompts_are_answered_like_small_ones() {
    let rig = Rig::start().await;
    let mut client = rig.generation().await;
    let prompt = format!("{} [say found]", "word ".repeat(3000));
    assert_eq!(answer(&mut client, generate(&prompt)).await.text, "found");
    rig.stop().await;
}
