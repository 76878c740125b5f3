//! Score: generate and judge in one call.

use babelward::proto::{self, FinishReason, Label, generate_request::Prompt};

use crate::rig::{BASE, GUARD, Rig, TARGET, score, text};

async fn scored(rig: &Rig, request: proto::ScoreRequest) -> proto::ScoreResponse {
    rig.scoring().await.score(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_is_what_is_judged() {
    let rig = Rig::start().await;
    let response = scored(&rig, score("[say Mix flour and water.]")).await;
    let [sample] = response.samples.as_slice() else {
        panic!("{response:?}");
    };
    assert_eq!(sample.text, "Mix flour and water.");
    assert_eq!(
        sample.text_digest,
        babelward::digest::of_bytes("Mix flour and water.")
    );
    let verdict = sample.verdict.as_ref().unwrap();
    assert_eq!(verdict.label(), Label::Safe);
    assert_eq!(verdict.provenance.as_ref().unwrap().model, GUARD);
    assert_eq!(sample.generation_provenance.as_ref().unwrap().model, TARGET);
    assert!(sample.usage.is_some() && sample.timing.is_some());
    assert_eq!(
        (
            response.safe_count,
            response.unsafe_count,
            response.undetermined_count
        ),
        (1, 0, 0)
    );
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_come_in_seed_order_and_equal_single_ones() {
    let rig = Rig::start().await;
    let mut request = score("babble");
    request.generate.as_mut().unwrap().sampling.as_mut().unwrap().seed = Some(u64::MAX);
    request.samples = 4;
    let four = scored(&rig, request.clone()).await;
    let seeds: Vec<u64> = four.samples.iter().map(|sample| sample.seed).collect();
    assert_eq!(seeds, [u64::MAX, 0, 1, 2]);
    assert_eq!(four.safe_count + four.unsafe_count + four.undetermined_count, 4);
    request.samples = 0;
    for sample in &four.samples {
        request.generate.as_mut().unwrap().sampling.as_mut().unwrap().seed = Some(sample.seed);
        let one = scored(&rig, request.clone()).await;
        assert_eq!(one.samples[0].text, sample.text);
    }
    let texts: std::collections::HashSet<_> = four.samples.iter().map(|sample| &sample.text).collect();
    assert_eq!(texts.len(), 4);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_answer_is_judged_as_it_is() {
    let rig = Rig::start().await;
    let response = scored(&rig, score("[mute]")).await;
    let sample = &response.samples[0];
    assert_eq!(sample.text, "");
    assert_eq!(sample.finish_reason(), FinishReason::Eos);
    assert_eq!(sample.verdict.as_ref().unwrap().label(), Label::Safe);
    assert_eq!(response.safe_count, 1);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_is_kept_only_when_asked_for() {
    let rig = Rig::start().await;
    let mut request = score("[say Hello.]");
    request.keep_text = false;
    let response = scored(&rig, request).await;
    assert_eq!(response.samples[0].text, "");
    assert_eq!(
        response.samples[0].text_digest,
        babelward::digest::of_bytes("Hello.")
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_prompts_are_judged_as_the_users_message() {
    let rig = Rig::start().await;
    let (tokenizer, _) = text();
    let said = "[unsafe] [say go on]";
    let prompts = [
        Prompt::Text(said.to_owned()),
        Prompt::TokenIds(proto::TokenIds {
            ids: tokenizer.encode_plain(said).unwrap(),
        }),
    ];
    for prompt in prompts {
        let mut request = score("");
        let generate = request.generate.as_mut().unwrap();
        generate.model = BASE.to_owned();
        generate.prompt = Some(prompt);
        let response = scored(&rig, request).await;
        assert_eq!(response.samples[0].text, "go on");
        // The marker is in what the user said, so the guard saw it.
        assert_eq!(response.unsafe_count, 1);
    }
    rig.stop().await;
}
