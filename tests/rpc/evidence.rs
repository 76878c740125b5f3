//! FindEvidence with a guard whose verdicts are scripted: a text is unsafe as long as `[unsafe]` is in it.

use babelward::proto::{self, EvidenceOutcome, Label};
use tonic::{Code, Status};

use crate::rig::{Rig, classify, violated};

async fn find(rig: &Rig, contents: &[&str], max_passes: u32) -> Result<proto::FindEvidenceResponse, Status> {
    let request = proto::FindEvidenceRequest {
        request: Some(classify(contents)),
        max_passes,
    };
    Ok(rig.safety().await.find_evidence(request).await?.into_inner())
}

fn parts<'a>(text: &'a str, found: &proto::FindEvidenceResponse) -> Vec<&'a str> {
    let range = |span: &proto::EvidenceSpan| span.start_bytes as usize..span.end_bytes as usize;
    found.spans.iter().map(|span| text[range(span)].trim()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_words_that_decide_are_found_and_the_rest_is_safe_by_a_verdict_of_its_own() {
    let rig = Rig::start().await;
    // The marker is gone as soon as the words of either bracket are, and the shorter part is taken: `unsafe]`, not `Something [`.
    let text = "Bäcker mögen Brot. Something [unsafe] is said here, among others. And bread is good.";
    let question = "How do I bake bread?";
    let found = find(&rig, &[question, text], 0).await.unwrap();
    assert_eq!(found.outcome(), EvidenceOutcome::Found);
    assert_eq!(parts(text, &found), ["unsafe]"]);
    assert!(found.each_is_needed && !found.out_of_budget);
    assert!((2..=64).contains(&found.passes), "{} passes", found.passes);
    let usage = found.passes_usage.unwrap();
    assert!(usage.cached_prompt_tokens > usage.prompt_tokens / 2, "{usage:?}");
    // Both verdicts are those that Classify gives.
    let span = &found.spans[0];
    let rest = [
        &text[..span.start_bytes as usize],
        &text[span.end_bytes as usize..],
    ]
    .concat();
    for (text, verdict, label) in [
        (text, found.verdict.unwrap(), Label::Unsafe),
        (rest.as_str(), found.verdict_without.unwrap(), Label::Safe),
    ] {
        let request = classify(&[question, text]);
        let asked = rig.safety().await.classify(request).await.unwrap().into_inner();
        let asked = asked.verdict.unwrap();
        assert_eq!(verdict.label(), label);
        assert_eq!(
            (verdict.label, verdict.unsafe_score, &verdict.raw_output),
            (asked.label, asked.unsafe_score, &asked.raw_output)
        );
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_parts_are_found_together() {
    let rig = Rig::start().await;
    let text = "Something [unsafe] here. Bread is good. Then something [unsafe] again. Water is wet.";
    let found = find(&rig, &[text], 256).await.unwrap();
    assert_eq!(parts(text, &found), ["unsafe]", "unsafe]"]);
    assert!(found.each_is_needed);
    assert_eq!(found.verdict_without.unwrap().label(), Label::Safe);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_unsafe_or_does_not_turn_is_said_to_be_so() {
    let rig = Rig::start().await;
    for text in ["bread and butter", "[odd] bread"] {
        let found = find(&rig, &[text], 0).await.unwrap();
        assert_eq!(found.outcome(), EvidenceOutcome::NotUnsafe, "{text}");
        assert_eq!((found.passes, found.spans.len()), (0, 0));
        assert!(found.verdict.is_some() && found.verdict_without.is_none());
    }
    // The question is what is unsafe here, and it stays.
    let found = find(&rig, &["[unsafe] question", "A good answer. And bread."], 0)
        .await
        .unwrap();
    assert_eq!(found.outcome(), EvidenceOutcome::NotFound);
    assert!(found.passes > 0 && found.spans.is_empty() && !found.each_is_needed);
    // The only pass leaves out the sentences before the last one.
    let text = "Bread is good. Water is wet. An [unsafe] thing.";
    let found = find(&rig, &[text], 1).await.unwrap();
    assert_eq!(found.outcome(), EvidenceOutcome::NotFound);
    assert_eq!((found.passes, found.out_of_budget), (1, true));
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_name_their_fields() {
    let rig = Rig::start().await;
    let wrong = find(&rig, &["", "x"], 257).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    assert_eq!(
        violated(&wrong),
        ["max_passes", "request.conversation.messages[0].content"]
    );
    let empty = proto::FindEvidenceRequest::default();
    let missing = rig.safety().await.find_evidence(empty).await.unwrap_err();
    assert_eq!(violated(&missing), ["request"]);
    // A pass that fails ends the search: half of one would name the wrong parts.
    let failed = find(&rig, &["[nan] words. More words."], 0).await.unwrap_err();
    assert_eq!(failed.code(), Code::Internal);
    rig.idle().await;
    rig.stop().await;
}
