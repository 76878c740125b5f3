//! Policies that are not the guard's own: by name, inline, wrong, and what a verdict says of them.

use babelward::{
    guard::{Policy, PolicyCategory},
    proto::{
        self, classify_request::PolicySource, judge_options, score_stream_request, score_stream_response,
    },
};
use prost::Message as _;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::rig::{GUARD, Rig, Setup, classify, reason, requests, score, violated};

fn category(code: &str, name: &str, description: &str) -> proto::PolicyCategory {
    proto::PolicyCategory {
        code: code.to_owned(),
        name: name.to_owned(),
        description: description.to_owned(),
    }
}

/// Nine categories, so that the script's S1 and S9 are the first and the last of them.
fn shop() -> proto::Policy {
    let mut categories: Vec<_> = (1..=8)
        .map(|number| {
            category(
                &format!("S{number}"),
                &format!("Shop rule {number}"),
                "As posted.",
            )
        })
        .collect();
    categories.push(category(
        "S9",
        "Fraud",
        "Goods that do not exist.\nComplaints are fine.",
    ));
    proto::Policy {
        name: "shop".to_owned(),
        categories,
    }
}

fn configured(policy: &proto::Policy) -> Policy {
    let categories = policy.categories.iter().map(|category| PolicyCategory {
        code: category.code.clone(),
        name: category.name.clone(),
        description: category.description.clone(),
    });
    Policy::new(policy.name.clone(), categories.collect()).unwrap()
}

/// A server that has the policy configured, under this name and another.
async fn rig() -> Rig {
    let other = proto::Policy {
        name: "market".to_owned(),
        ..shop()
    };
    Rig::with(Setup {
        policies: vec![configured(&shop()), configured(&other)],
        ..Setup::default()
    })
    .await
}

fn named(contents: &[&str], name: &str) -> proto::ClassifyRequest {
    proto::ClassifyRequest {
        policy_source: Some(PolicySource::Policy(name.to_owned())),
        ..classify(contents)
    }
}

fn inline(contents: &[&str], policy: proto::Policy) -> proto::ClassifyRequest {
    proto::ClassifyRequest {
        policy_source: Some(PolicySource::InlinePolicy(policy)),
        ..classify(contents)
    }
}

async fn verdict(rig: &Rig, request: proto::ClassifyRequest) -> proto::Verdict {
    let response = rig.safety().await.classify(request).await.unwrap();
    response.into_inner().verdict.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn named_and_inline_are_the_same_and_the_verdict_says_which() {
    let rig = rig().await;
    let judged = ["What is on offer?", "[unsafe] A watch."];
    let by_name = verdict(&rig, named(&judged, "shop")).await;
    let cached = |verdict: &proto::Verdict| verdict.usage.unwrap().cached_prompt_tokens;
    let native_cached = cached(&verdict(&rig, classify(&judged)).await);
    assert!(
        cached(&by_name) > native_cached,
        "its longer prefix is pinned: {by_name:?}"
    );
    let cold = verdict(&rig, inline(&judged, shop())).await;
    let warm = verdict(&rig, inline(&judged, shop())).await;
    for other in [&cold, &warm] {
        assert_eq!(
            other.unsafe_score.unwrap().to_bits(),
            by_name.unsafe_score.unwrap().to_bits()
        );
        assert_eq!(other.label_mass.to_bits(), by_name.label_mass.to_bits());
        assert_eq!(other.provenance, by_name.provenance);
        assert_eq!(
            other.usage.unwrap().prompt_tokens,
            by_name.usage.unwrap().prompt_tokens
        );
    }
    let names: Vec<_> = by_name
        .categories
        .iter()
        .map(|c| (c.category.as_str(), c.display_name.as_str()))
        .collect();
    assert_eq!(names, [("S1", "Shop rule 1"), ("S9", "Fraud")]);
    let provenance = by_name.provenance.unwrap();
    assert_eq!(
        (provenance.model.as_str(), provenance.policy.as_str()),
        (GUARD, "shop")
    );
    assert_eq!(provenance.policy_digest, configured(&shop()).digest());

    // Another name, the same text; and the guard's own, of which nothing has changed.
    let market = verdict(&rig, named(&judged, "market")).await.provenance.unwrap();
    assert_eq!(market.policy, "market");
    assert_eq!(market.policy_digest, provenance.policy_digest);
    assert_eq!(market.template_digest, provenance.template_digest);
    let native = verdict(&rig, classify(&judged)).await;
    assert_eq!(native.categories[1].display_name, "Indiscriminate Weapons");
    let own = native.provenance.unwrap();
    assert_eq!((own.policy.as_str(), own.policy_digest.as_str()), ("", ""));
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inline_policy_that_is_asked_again_is_found_in_the_cache() {
    let rig = Rig::start().await;
    let cached = async |content: &str| {
        let verdict = verdict(&rig, inline(&[content], shop())).await;
        (
            verdict.usage.unwrap().cached_prompt_tokens,
            verdict.unsafe_score.unwrap().to_bits(),
        )
    };
    let (cold, score) = cached("How do I bake bread?").await;
    let (warm, again) = cached("How do I bake bread?").await;
    let (other, _) = cached("Name three rivers, please.").await;
    assert!(other > cold + 100 && warm >= other, "{cold} {other} {warm}");
    assert_eq!(score, again);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_score_is_judged_by_a_policy_too() {
    let rig = rig().await;
    let with = |source| proto::ScoreRequest {
        judge: Some(proto::JudgeOptions {
            policy_source: Some(source),
            ..Default::default()
        }),
        ..score("[say [unsafe] yes]")
    };
    let named = with(judge_options::PolicySource::Policy("shop".to_owned()));
    let inline = with(judge_options::PolicySource::InlinePolicy(shop()));
    let first = |response: proto::ScoreResponse| response.samples[0].verdict.clone().unwrap();
    let by_name = first(rig.scoring().await.score(named).await.unwrap().into_inner());
    assert_eq!(by_name.categories[1].display_name, "Fraud");

    let (sender, receiver) = requests();
    sender
        .send(proto::ScoreStreamRequest {
            id: "a".to_owned(),
            action: Some(score_stream_request::Action::Score(inline)),
            timeout: None,
        })
        .unwrap();
    drop(sender);
    let mut answers = rig
        .scoring()
        .await
        .score_stream(receiver)
        .await
        .unwrap()
        .into_inner();
    match answers.message().await.unwrap().unwrap().result.unwrap() {
        score_stream_response::Result::Response(response) => {
            assert_eq!(first(response).provenance, by_name.provenance);
        }
        score_stream_response::Result::Error(error) => panic!("{error:?}"),
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_names_are_suggested_and_known_ones_listed() {
    let rig = rig().await;
    let mut client = rig.safety().await;
    let status = client.classify(named(&["hi"], "shpo")).await.unwrap_err();
    let (name, metadata) = reason(&status, Code::NotFound);
    assert_eq!(name, "POLICY_NOT_FOUND");
    assert_eq!(metadata["didYouMean"], "shop");
    let details = status.get_error_details();
    let resource = details.resource_info().unwrap();
    assert_eq!(
        (resource.resource_type.as_str(), resource.resource_name.as_str()),
        ("babelward.v1.Policy", "shpo")
    );
    let status = client
        .classify(named(&["hi"], "quite different"))
        .await
        .unwrap_err();
    assert!(reason(&status, Code::NotFound).1.is_empty());
    let listed = client
        .list_policies(proto::ListPoliciesRequest {})
        .await
        .unwrap()
        .into_inner()
        .policies;
    let names: Vec<_> = listed
        .iter()
        .map(|listed| listed.policy.as_ref().unwrap().name.as_str())
        .collect();
    assert_eq!(names, ["market", "shop"]);
    assert_eq!(listed[1].policy.as_ref().unwrap(), &shop());
    assert_eq!(listed[1].digest, configured(&shop()).digest());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_policies_are_refused_with_every_violation() {
    let rig = rig().await;
    let passes = rig.gate.passes();
    let mut client = rig.safety().await;
    let wrong = proto::Policy {
        name: String::new(),
        categories: vec![
            category("S1", "Fraud", ""),
            category("S1", "Fraud", "tab\there"),
            category("X", "Fraud.", "S7: another"),
        ],
    };
    let mut request = inline(&["hi"], wrong.clone());
    request.conversation = None;
    let status = client.classify(request).await.unwrap_err();
    assert_eq!(reason(&status, Code::InvalidArgument).0, "INVALID_FIELDS");
    assert_eq!(
        violated(&status),
        [
            "inline_policy.name",
            "inline_policy.categories[1].code",
            "inline_policy.categories[1].description",
            "inline_policy.categories[2].code",
            "inline_policy.categories[2].name",
            "inline_policy.categories[2].description",
            "conversation",
        ]
    );
    let status = client
        .classify(inline(&["hi"], proto::Policy::default()))
        .await
        .unwrap_err();
    assert_eq!(
        violated(&status),
        ["inline_policy.name", "inline_policy.categories"]
    );
    let status = client.classify(named(&["hi"], "")).await.unwrap_err();
    assert_eq!(violated(&status), ["policy"]);
    let scored = proto::ScoreRequest {
        judge: Some(proto::JudgeOptions {
            policy_source: Some(judge_options::PolicySource::InlinePolicy(proto::Policy {
                name: "p".to_owned(),
                categories: Vec::new(),
            })),
            ..Default::default()
        }),
        ..score("hi")
    };
    let status = rig.scoring().await.score(scored).await.unwrap_err();
    assert_eq!(violated(&status), ["judge.inline_policy.categories"]);
    assert_eq!(rig.gate.passes(), passes);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_policy_that_is_allowed_fits_or_is_too_long_with_the_counts() {
    let rig = Rig::start().await;
    let large = proto::Policy {
        name: "large".to_owned(),
        categories: (1..=32)
            .map(|number| category(&format!("S{number}"), "Name", &"word ".repeat(800)))
            .collect(),
    };
    let status = rig
        .safety()
        .await
        .classify(inline(&["hi"], large))
        .await
        .unwrap_err();
    let (name, metadata) = reason(&status, Code::InvalidArgument);
    assert_eq!(name, "INPUT_TOO_LONG");
    let count = |key: &str| metadata[key].parse::<usize>().unwrap();
    assert!(count("inputTokensAtLeast") > count("limitTokens"), "{metadata:?}");
    rig.stop().await;
}

#[test]
fn of_both_on_the_wire_the_last_counts() {
    // A oneof holds one of them; this is what protobuf says of bytes that have both.
    let by_name = named(&["hi"], "shop");
    let mut bytes = by_name.encode_to_vec();
    let only_policy = proto::ClassifyRequest {
        policy_source: Some(PolicySource::InlinePolicy(shop())),
        ..Default::default()
    };
    bytes.extend(only_policy.encode_to_vec());
    let both = proto::ClassifyRequest::decode(bytes.as_slice()).unwrap();
    assert_eq!(both.policy_source, only_policy.policy_source);
    assert_eq!(both.conversation, by_name.conversation);
}
