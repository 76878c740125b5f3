//! ClassifyRenderings with a guard whose verdicts are scripted.

use babelward::{
    guard::{DecisionPolicy, DecisionSet},
    proto::{self, Action, Label, RenderingRule, rendering_result::Result as RenderingResult},
    rpc::ServerOptions,
};
use tonic::{Code, Status};

use crate::rig::{Rig, Setup, classify, item_status, violated};

fn rendering(language: &str, content: &str) -> proto::ClassifyRequest {
    proto::ClassifyRequest {
        language: language.to_owned(),
        ..classify(&[content])
    }
}

async fn judge(
    rig: &Rig,
    rule: RenderingRule,
    renderings: Vec<proto::ClassifyRequest>,
) -> Result<proto::ClassifyRenderingsResponse, Status> {
    let request = proto::ClassifyRenderingsRequest {
        renderings,
        rule: rule.into(),
        translation: None,
    };
    Ok(rig
        .safety()
        .await
        .classify_renderings(request)
        .await?
        .into_inner())
}

fn languages() -> Vec<proto::ClassifyRequest> {
    vec![
        rendering("en", "bread"),
        rendering("de", "[unsafe] Brot"),
        rendering("fr", "du pain"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_joins_the_verdicts_and_dissent_is_named() {
    let rig = Rig::start().await;
    for (rule, label, dissent) in [
        (RenderingRule::Unspecified, Label::Unsafe, vec![0, 2]),
        (RenderingRule::Any, Label::Unsafe, vec![0, 2]),
        (RenderingRule::Majority, Label::Safe, vec![1]),
        (RenderingRule::All, Label::Safe, vec![1]),
    ] {
        let answer = judge(&rig, rule, languages()).await.unwrap();
        assert_eq!((answer.label(), &answer.dissent), (label, &dissent), "{rule:?}");
        assert_eq!(answer.action(), Action::Unspecified);
        let named: Vec<_> = answer
            .results
            .iter()
            .map(|result| result.language.as_str())
            .collect();
        assert_eq!(named, ["en", "de", "fr"]);
        for (result, request) in answer.results.into_iter().zip(languages()) {
            let Some(RenderingResult::Response(response)) = result.result else {
                panic!("{result:?}")
            };
            let alone = rig.safety().await.classify(request).await.unwrap().into_inner();
            let (together, alone) = (response.verdict.unwrap(), alone.verdict.unwrap());
            assert_eq!(
                (together.label, together.unsafe_score),
                (alone.label, alone.unsafe_score)
            );
        }
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rendering_without_a_verdict_is_never_taken_for_a_safe_one() {
    let rig = Rig::start().await;
    let broken = |first: &str| vec![rendering("en", first), rendering("de", "[nan]")];
    let any = judge(&rig, RenderingRule::Any, broken("bread")).await.unwrap();
    assert_eq!((any.label(), any.dissent), (Label::Undetermined, vec![]));
    let Some(RenderingResult::Error(error)) = &any.results[1].result else {
        panic!("{:?}", any.results[1])
    };
    assert_eq!(error.code, Code::Internal as i32);
    let certain = judge(&rig, RenderingRule::Any, broken("[unsafe]")).await.unwrap();
    assert_eq!((certain.label(), certain.dissent), (Label::Unsafe, vec![1]));
    let odd = vec![rendering("en", "[unsafe]"), rendering("de", "[odd]")];
    let all = judge(&rig, RenderingRule::All, odd).await.unwrap();
    assert_eq!(all.label(), Label::Undetermined);
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_joined_by_the_same_rule() {
    // The script's scores are 0.12 of safe and 0.88 of unsafe texts.
    let text = "name = \"chat\"\nversion = 1\nthresholds = { flag = 0.1, block = 0.9 }\nlanguages.de.thresholds.block = 0.8\n";
    let mut decisions = DecisionSet::default();
    decisions
        .add(DecisionPolicy::new(toml::from_str(text).unwrap()).unwrap())
        .unwrap();
    decisions.set_default(decisions.find("chat").unwrap().clone());
    let rig = Rig::with(Setup {
        options: ServerOptions {
            decisions,
            ..ServerOptions::default()
        },
        ..Setup::default()
    })
    .await;
    let action = async |rule, renderings| judge(&rig, rule, renderings).await.unwrap().action();
    assert_eq!(action(RenderingRule::Any, languages()).await, Action::Block);
    assert_eq!(action(RenderingRule::Majority, languages()).await, Action::Flag);
    assert_eq!(action(RenderingRule::All, languages()).await, Action::Flag);
    let broken = vec![rendering("en", "bread"), rendering("fr", "[nan]")];
    assert_eq!(action(RenderingRule::Any, broken).await, Action::Block);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_name_their_fields() {
    let rig = Rig::start().await;
    for count in [0, 1, 17] {
        let renderings = (0..count).map(|_| rendering("en", "bread")).collect();
        let wrong = judge(&rig, RenderingRule::Any, renderings).await.unwrap_err();
        assert_eq!(wrong.code(), Code::InvalidArgument);
        assert_eq!(violated(&wrong), ["renderings"], "{count}");
    }
    let request = proto::ClassifyRenderingsRequest {
        renderings: languages(),
        rule: 9,
        translation: None,
    };
    let wrong = rig.safety().await.classify_renderings(request).await.unwrap_err();
    assert_eq!(violated(&wrong), ["rule"]);
    // One wrong rendering is an error of its own.
    let mut renderings = languages();
    renderings[2].language = "no language".to_owned();
    let answer = judge(&rig, RenderingRule::All, renderings).await.unwrap();
    let Some(RenderingResult::Error(error)) = &answer.results[2].result else {
        panic!("{:?}", answer.results[2])
    };
    assert_eq!(violated(&item_status(error)), ["renderings[2].language"]);
    rig.idle().await;
    rig.stop().await;
}
