//! Decision policies: what is done about verdicts, and how probable each category is.

use babelward::{
    guard::{DecisionPolicy, DecisionSet},
    proto::{self, Action, DecisionSubject, Label, batch_classify_result::Result as ItemResult},
    rpc::ServerOptions,
};
use tonic::{Code, Status};

use crate::rig::{Rig, Setup, classify, requests, violated};

/// Scores of the script are 0.12 for safe and 0.88 for unsafe texts.
const CHAT: &str = r#"
name = "chat"
version = 1
undetermined = "flag"
thresholds = { flag = 0.5, block = 0.9 }
languages.de.thresholds.block = 0.8
"#;

/// Stricter than what the guard says.
const STRICT: &str = r#"
name = "chat"
version = 2
thresholds = { block = 0.1 }
"#;

const BY_CATEGORY: &str = r#"
name = "categories"
version = 1
categories.S1 = { block = 0.5 }
categories.S10 = { flag = 0.5 }
"#;

/// Qwen's category, which Llama Guard does not have.
const FOREIGN: &str = "name = \"foreign\"\nversion = 1\ncategories.PII = { block = 0.5 }\n";

fn policy(text: &str) -> DecisionPolicy {
    DecisionPolicy::new(toml::from_str(text).unwrap()).unwrap()
}

async fn rig(default: Option<&str>, shadows: &[&str]) -> Rig {
    let mut decisions = DecisionSet::default();
    for text in [CHAT, STRICT, BY_CATEGORY, FOREIGN] {
        decisions.add(policy(text)).unwrap();
    }
    if let Some(name) = default {
        decisions.set_default(decisions.find(name).unwrap().clone());
    }
    for name in shadows {
        decisions.add_shadow(decisions.find(name).unwrap().clone());
    }
    Rig::with(Setup {
        options: ServerOptions {
            decisions,
            ..ServerOptions::default()
        },
        ..Setup::default()
    })
    .await
}

fn by(contents: &[&str], decision_policy: &str, language: &str) -> proto::ClassifyRequest {
    proto::ClassifyRequest {
        decision_policy: decision_policy.to_owned(),
        language: language.to_owned(),
        ..classify(contents)
    }
}

async fn ask(rig: &Rig, request: proto::ClassifyRequest) -> Result<proto::ClassifyResponse, Status> {
    Ok(rig.safety().await.classify(request).await?.into_inner())
}

async fn action(rig: &Rig, request: proto::ClassifyRequest) -> Action {
    ask(rig, request).await.unwrap().decision.unwrap().action()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_the_policys_and_the_label_stays_the_guards() {
    let rig = rig(Some("chat@1"), &["chat@2", "categories"]).await;
    let bad = ["[unsafe] words"];
    assert_eq!(action(&rig, classify(&["bread"])).await, Action::Allow);
    assert_eq!(action(&rig, classify(&bad)).await, Action::Flag);
    assert_eq!(action(&rig, by(&bad, "", "de-AT")).await, Action::Block);
    assert_eq!(action(&rig, by(&bad, "", "fr")).await, Action::Flag);
    // The highest version of a name, and one that is named.
    assert_eq!(action(&rig, by(&bad, "chat", "de")).await, Action::Block);
    assert_eq!(action(&rig, by(&bad, "chat@1", "")).await, Action::Flag);
    assert_eq!(action(&rig, classify(&["[odd]"])).await, Action::Flag);

    let answer = ask(&rig, by(&["bread"], "chat@2", "")).await.unwrap();
    let verdict = answer.verdict.unwrap();
    assert_eq!(verdict.label(), Label::Safe);
    let decision = answer.decision.unwrap();
    assert_eq!(
        decision.action(),
        Action::Block,
        "a strict policy blocks what the guard calls safe"
    );
    assert_eq!((decision.policy.as_str(), decision.policy_version), ("chat", 2));
    assert_eq!(decision.policy_digest, policy(STRICT).digest());
    let reason = &decision.reasons[0];
    assert_eq!(reason.subject(), DecisionSubject::UnsafeScore);
    assert_eq!(
        (reason.value, reason.threshold),
        (verdict.unsafe_score, Some(0.1))
    );
    let shadows: Vec<_> = answer
        .shadow_decisions
        .iter()
        .map(|shadow| (shadow.policy.as_str(), shadow.policy_version, shadow.action()))
        .collect();
    assert_eq!(
        shadows,
        [("chat", 2, Action::Block), ("categories", 1, Action::Allow)]
    );
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_policy_there_is_no_decision_and_no_further_pass() {
    let rig = rig(None, &[]).await;
    let answer = ask(&rig, classify(&["[unsafe] words"])).await.unwrap();
    assert_eq!((answer.decision, answer.shadow_decisions.len()), (None, 0));
    let verdict = answer.verdict.unwrap();
    assert!(verdict.category_probabilities.is_empty());
    assert_eq!(verdict.category_usage, None);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn categories_have_probabilities_which_decide_and_change_no_verdict() {
    let rig = rig(None, &[]).await;
    for (contents, likely) in [(["[unsafe] words"], Some("S1")), (["bread"], None)] {
        let plain = ask(&rig, classify(&contents)).await.unwrap().verdict.unwrap();
        let answer = ask(&rig, by(&contents, "categories", "")).await.unwrap();
        let verdict = answer.verdict.unwrap();
        assert_eq!(
            (
                verdict.label,
                &verdict.raw_output,
                verdict.unsafe_score.map(f64::to_bits)
            ),
            (
                plain.label,
                &plain.raw_output,
                plain.unsafe_score.map(f64::to_bits)
            )
        );
        let score = verdict.unsafe_score.unwrap();
        let probabilities = &verdict.category_probabilities;
        let codes: Vec<_> = probabilities
            .iter()
            .map(|found| found.category.as_str())
            .collect();
        let wanted: Vec<_> = (1..=14).map(|number| format!("S{number}")).collect();
        assert_eq!(codes, wanted);
        assert_eq!(probabilities[8].display_name, "Indiscriminate Weapons");
        let sum: f64 = probabilities.iter().map(|found| found.probability).sum();
        assert!(sum <= score + 1e-9, "{sum} {score}");
        for found in probabilities {
            let wanted = if likely == Some(found.category.as_str()) {
                score
            } else {
                0.0
            };
            assert!((found.probability - wanted).abs() < 1e-6, "{found:?}");
        }
        // Two passes, because the tokenizer splits numbers, and the prompt was found in the cache.
        let usage = verdict.category_usage.unwrap();
        assert_eq!(usage.forward_passes, 2);
        let new = usage.prompt_tokens - usage.cached_prompt_tokens;
        assert!(
            new <= 2 * (16 + 4),
            "the last block and the words after it: {usage:?}"
        );
        let decision = answer.decision.unwrap();
        let wanted = if likely.is_some() {
            Action::Block
        } else {
            Action::Allow
        };
        assert_eq!(decision.action(), wanted);
        for reason in &decision.reasons {
            assert_eq!(
                (reason.subject(), reason.category.as_str()),
                (DecisionSubject::Category, "S1")
            );
        }
        // Asked for, without a policy.
        let asked = proto::ClassifyRequest {
            category_probabilities: true,
            ..classify(&contents)
        };
        let asked = ask(&rig, asked).await.unwrap();
        assert_eq!(asked.decision, None);
        assert_eq!(asked.verdict.unwrap().category_probabilities, *probabilities);
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_decide_is_refused_with_its_field() {
    let rig = rig(None, &[]).await;
    for (request, field, says) in [
        (by(&["hi"], "chta", ""), "decision_policy", "ListPolicies"),
        (by(&["hi"], "chat@3", ""), "decision_policy", "ListPolicies"),
        (by(&["hi"], &"x".repeat(161), ""), "decision_policy", "bytes"),
        (by(&["hi"], "foreign", ""), "decision_policy", "`PII`"),
        (by(&["hi"], "chat", "d e"), "language", "BCP 47"),
        (by(&["hi"], "chat", &"x".repeat(40)), "language", "BCP 47"),
    ] {
        let status = ask(&rig, request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let violations = violated(&status);
        assert_eq!(violations, [field], "{status:?}");
        assert!(format!("{status:?}").contains(says), "{status:?}");
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_are_decided_as_calls_are() {
    let rig = rig(Some("categories"), &["chat@1"]).await;
    let contents = ["[unsafe] words", "bread", "[odd]"];
    let mut alone = Vec::new();
    for content in contents {
        let answer = ask(&rig, classify(&[content])).await.unwrap();
        alone.push((answer.decision, answer.shadow_decisions));
    }
    let items = contents.map(|content| proto::BatchClassifyItem {
        id: String::new(),
        request: Some(classify(&[content])),
    });
    let request = proto::BatchClassifyRequest {
        items: items.to_vec(),
    };
    let batch = rig
        .safety()
        .await
        .batch_classify(request)
        .await
        .unwrap()
        .into_inner();
    for (result, alone) in batch.results.into_iter().zip(&alone) {
        let Some(ItemResult::Response(response)) = result.result else {
            panic!("{result:?}");
        };
        assert_eq!((response.decision, response.shadow_decisions), *alone);
    }
    let messages = contents.map(|content| proto::ClassifyStreamRequest {
        id: content.to_owned(),
        action: Some(proto::classify_stream_request::Action::Classify(classify(&[
            content,
        ]))),
        timeout: None,
    });
    let (sender, receiver) = requests();
    for message in messages {
        sender.send(message).unwrap();
    }
    drop(sender);
    let stream = rig.safety().await.classify_stream(receiver).await;
    let mut stream = stream.unwrap().into_inner();
    while let Some(message) = stream.message().await.unwrap() {
        let Some(proto::classify_stream_response::Result::Response(response)) = message.result else {
            panic!("{message:?}");
        };
        let at = contents
            .iter()
            .position(|content| *content == message.id)
            .unwrap();
        assert_eq!((response.decision, response.shadow_decisions), alone[at]);
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn decision_policies_are_listed() {
    let rig = rig(Some("chat@1"), &["chat@2"]).await;
    let listed = rig
        .safety()
        .await
        .list_policies(proto::ListPoliciesRequest {})
        .await
        .unwrap();
    let listed: Vec<_> = listed
        .into_inner()
        .decision_policies
        .into_iter()
        .map(|policy| (policy.name, policy.version, policy.is_default, policy.is_shadow))
        .collect();
    let wanted = [
        ("categories", 1, false, false),
        ("chat", 1, true, false),
        ("chat", 2, false, true),
        ("foreign", 1, false, false),
    ];
    assert_eq!(
        listed,
        wanted.map(|(name, version, is_default, is_shadow)| (
            name.to_owned(),
            version,
            is_default,
            is_shadow
        ))
    );
    rig.stop().await;
}
