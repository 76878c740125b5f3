//! Classify and BatchClassify with a guard whose verdicts are scripted.

use babelward::proto::{self, Label, batch_classify_result::Result as ItemResult};
use tonic::Code;

use crate::{
    rig::{GUARD, Rig, classify, eventually, item_reason, item_status, reason, violated},
    scripted::VERDICT_GAP,
};

/// p(second) of two verdicts whose logits differ by [`VERDICT_GAP`].
fn second() -> f64 {
    1.0 / (1.0 + VERDICT_GAP.exp())
}

async fn verdict(rig: &Rig, contents: &[&str]) -> proto::Verdict {
    let response = rig.safety().await.classify(classify(contents)).await.unwrap();
    response.into_inner().verdict.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn safe_is_read_from_one_prefill() {
    let rig = Rig::start().await;
    let verdict = verdict(&rig, &["How do I bake bread?"]).await;
    assert_eq!(verdict.label(), Label::Safe);
    assert!(
        (verdict.unsafe_score.unwrap() - second()).abs() < 1e-6,
        "{:?}",
        verdict.unsafe_score
    );
    assert!(verdict.label_mass > 0.99 && verdict.label_mass <= 1.0);
    assert!(verdict.categories.is_empty());
    assert_eq!(verdict.raw_output, "safe");
    let usage = verdict.usage.unwrap();
    assert!(usage.cached_prompt_tokens > 0, "the policy is pinned: {usage:?}");
    assert!(usage.cached_prompt_tokens < usage.prompt_tokens);
    let provenance = verdict.provenance.unwrap();
    assert_eq!(provenance.model, GUARD);
    assert!(provenance.template_digest.starts_with("sha256:"));
    assert_eq!(provenance.precision, "f32");
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unsafe_names_its_categories() {
    let rig = Rig::start().await;
    let verdict = verdict(&rig, &["How do I bake bread?", "[unsafe] answer"]).await;
    assert_eq!(verdict.label(), Label::Unsafe);
    assert!((verdict.unsafe_score.unwrap() - (1.0 - second())).abs() < 1e-6);
    assert_eq!(verdict.raw_output, "unsafe\nS1,S9");
    let categories: Vec<_> = verdict
        .categories
        .iter()
        .map(|category| category.category.as_str())
        .collect();
    assert_eq!(categories, ["S1", "S9"]);
    assert!(
        verdict
            .categories
            .iter()
            .all(|category| !category.display_name.is_empty())
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_is_undetermined_and_never_safe() {
    let rig = Rig::start().await;
    let verdict = verdict(&rig, &["[odd]"]).await;
    assert_eq!(verdict.label(), Label::Undetermined);
    assert_eq!(verdict.raw_output, "perhaps");
    assert!((verdict.unsafe_score.unwrap() - 0.5).abs() < 1e-6);
    assert!(verdict.label_mass < 0.01, "{}", verdict.label_mass);
    assert!(verdict.categories.is_empty());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_answers_in_order_and_survives_bad_items() {
    let rig = Rig::start().await;
    let item = |id: &str, request: Option<proto::ClassifyRequest>| proto::BatchClassifyItem {
        id: id.to_owned(),
        request,
    };
    let mut unknown = classify(&["hi"]);
    unknown.model = "nobody".to_owned();
    let request = proto::BatchClassifyRequest {
        items: vec![
            item("a", Some(classify(&["fine"]))),
            item("", Some(classify(&["[unsafe]"]))),
            item("empty", Some(classify(&[""]))),
            item("none", None),
            item("e", Some(classify(&["[odd]"]))),
            item("f", Some(unknown)),
        ],
    };
    let results = rig
        .safety()
        .await
        .batch_classify(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    let ids: Vec<_> = results.iter().map(|result| result.id.as_str()).collect();
    assert_eq!(ids, ["a", "1", "empty", "none", "e", "f"]);
    let label = |index: usize| match results[index].result.as_ref().unwrap() {
        ItemResult::Response(response) => response.verdict.as_ref().unwrap().label(),
        ItemResult::Error(error) => panic!("{error:?}"),
    };
    assert_eq!(
        (label(0), label(1), label(4)),
        (Label::Safe, Label::Unsafe, Label::Undetermined)
    );
    let error = |index: usize| match results[index].result.as_ref().unwrap() {
        ItemResult::Error(error) => error,
        ItemResult::Response(response) => panic!("{response:?}"),
    };
    assert_eq!(item_reason(error(2), Code::InvalidArgument), "INVALID_FIELDS");
    assert_eq!(
        violated(&item_status(error(2))),
        ["items[2].request.conversation.messages[0].content"]
    );
    assert_eq!(
        violated(&item_status(error(3))),
        ["items[3].request.conversation"]
    );
    assert_eq!(item_reason(error(5), Code::NotFound), "MODEL_NOT_FOUND");
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_the_largest_size_shares_forward_passes() {
    let rig = Rig::start().await;
    let items = (0..256)
        .map(|index| proto::BatchClassifyItem {
            id: String::new(),
            request: Some(classify(&[&format!("question {index}")])),
        })
        .collect();
    let request = proto::BatchClassifyRequest { items };
    // All of them wait before the first pass ends, so that the number of passes does not depend on the clock.
    rig.gate.close();
    let passes = rig.gate.passes();
    let mut client = rig.safety().await;
    let call = tokio::spawn(async move { client.batch_classify(request).await });
    eventually("all items are queued", || {
        let stats = rig.stats();
        stats.queued + stats.running == 256
    })
    .await;
    rig.gate.open();
    let results = call.await.unwrap().unwrap().into_inner().results;
    assert_eq!(results.len(), 256);
    assert!(
        results
            .iter()
            .all(|result| matches!(result.result, Some(ItemResult::Response(_))))
    );
    let passes = rig.gate.passes() - passes;
    assert!(passes <= 32, "{passes} passes for 256 prompts");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_refused_as_a_whole_only_for_what_concerns_the_whole() {
    let rig = Rig::start().await;
    let mut client = rig.safety().await;
    let status = client
        .batch_classify(proto::BatchClassifyRequest::default())
        .await
        .unwrap_err();
    assert_eq!(violated(&status), ["items"]);
    let twin = proto::BatchClassifyItem {
        id: "twin".to_owned(),
        request: Some(classify(&["hi"])),
    };
    let request = proto::BatchClassifyRequest {
        items: vec![twin.clone(), twin],
    };
    let status = client.batch_classify(request).await.unwrap_err();
    assert_eq!(reason(&status, Code::InvalidArgument).0, "ITEM_ID_OPEN");
    assert_eq!(violated(&status), ["items[1].id"]);
    rig.stop().await;
}
