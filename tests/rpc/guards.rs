//! Guards of other kinds than Llama Guard, with scripted verdicts: labels, scores, categories and refusals.

use std::sync::Arc;

use babelward::{
    guard::{GuardKind, Policy, PolicyCategory},
    proto::{self, Label, Refusal, classify_request::PolicySource, judge_options},
    text::Tokenizer,
};
use serde_json::Value;
use tonic::Code;

use crate::{
    common::golden,
    rig::{Rig, Setup, classify, reason, score, violated},
    scripted::VERDICT_GAP,
};

async fn rig(guard: GuardKind) -> Rig {
    Rig::with(Setup {
        guard,
        ..Setup::default()
    })
    .await
}

/// A guard whose prompt needs these special tokens.
async fn rig_with_tokens(guard: GuardKind, tokens: &[&str]) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let from = golden("tiny-chat");
    std::fs::copy(
        from.join("tokenizer_config.json"),
        folder.path().join("tokenizer_config.json"),
    )
    .unwrap();
    let json = std::fs::read(from.join("tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_slice(&json).unwrap();
    let size = json["model"]["vocab"].as_object().unwrap().len();
    let added = json["added_tokens"].as_array_mut().unwrap();
    for (index, text) in tokens.iter().enumerate() {
        let mut token = added[0].clone();
        token["id"] = (size + index).into();
        token["content"] = (*text).into();
        added.push(token);
    }
    std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    Rig::with(Setup {
        guard,
        tokenizer: Some(Arc::new(Tokenizer::from_folder(folder.path()).unwrap())),
        ..Setup::default()
    })
    .await
}

async fn verdict(rig: &Rig, contents: &[&str]) -> proto::Verdict {
    let response = rig.safety().await.classify(classify(contents)).await.unwrap();
    response.into_inner().verdict.unwrap()
}

fn categories(verdict: &proto::Verdict) -> Vec<&str> {
    let categories = verdict.categories.iter();
    categories.map(|category| category.category.as_str()).collect()
}

/// Shares of the most likely label of three, and of each of the others.
fn of_three() -> [f64; 2] {
    let other = (-VERDICT_GAP).exp();
    [1.0 / (1.0 + 2.0 * other), other / (1.0 + 2.0 * other)]
}

#[track_caller]
fn close(found: Option<f64>, expected: f64) {
    assert!(
        (found.unwrap() - expected).abs() < 1e-6,
        "{found:?}, not {expected}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn qwen3guard_says_three_labels_and_counts_controversial_as_unsafe() {
    let rig = rig(GuardKind::Qwen3GuardGen).await;
    let [most, other] = of_three();
    let safe = verdict(&rig, &["How do I bake bread?"]).await;
    assert_eq!(safe.label(), Label::Safe);
    close(safe.unsafe_score, 2.0 * other);
    close(safe.controversial_score, other);
    assert!(safe.label_mass > 0.99, "{}", safe.label_mass);
    assert!(categories(&safe).is_empty());
    assert_eq!(safe.refusal(), Refusal::Unspecified, "a request refuses nothing");
    assert!(safe.raw_output.starts_with("Safety: Safe"), "{}", safe.raw_output);

    let unsafe_ = verdict(&rig, &["[unsafe]"]).await;
    assert_eq!(unsafe_.label(), Label::Unsafe);
    close(unsafe_.unsafe_score, most + other);
    assert_eq!(categories(&unsafe_), ["Violent", "PII"]);
    assert_eq!(unsafe_.categories[0].display_name, "Violent");

    let controversial = verdict(&rig, &["[controversial]"]).await;
    assert_eq!(controversial.label(), Label::Controversial);
    close(controversial.unsafe_score, most + other);
    close(controversial.controversial_score, most);
    assert_eq!(categories(&controversial), ["Unethical Acts"]);

    let odd = verdict(&rig, &["[odd]"]).await;
    assert_eq!(odd.label(), Label::Undetermined);
    assert!(odd.label_mass < 0.01, "{}", odd.label_mass);
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_answers_qwen3guard_says_whether_they_refuse() {
    let rig = rig(GuardKind::Qwen3GuardGen).await;
    let refused = verdict(&rig, &["How do I bake bread?", "I cannot help with that."]).await;
    assert_eq!(
        (refused.label(), refused.refusal()),
        (Label::Safe, Refusal::Refused)
    );
    assert_eq!(
        refused.raw_output,
        "Safety: Safe\nCategories: None\nRefusal: Yes\n"
    );
    let complied = verdict(&rig, &["How do I bake bread?", "[controversial] answer"]).await;
    assert_eq!(
        (complied.label(), complied.refusal()),
        (Label::Controversial, Refusal::Answered)
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_score_of_polyguard_is_that_of_the_line_that_is_asked_for() {
    let rig = rig(GuardKind::PolyGuard).await;
    let second = 1.0 / (1.0 + VERDICT_GAP.exp());
    let request = verdict(&rig, &["[unsafe]"]).await;
    assert_eq!(request.label(), Label::Unsafe);
    close(request.unsafe_score, 1.0 - second);
    assert_eq!(request.controversial_score, None);
    assert_eq!(categories(&request), ["S1"]);
    assert_eq!(request.refusal(), Refusal::Unspecified);

    let answer = verdict(&rig, &["What?", "[unsafe] answer"]).await;
    assert_eq!(
        (answer.label(), answer.refusal()),
        (Label::Unsafe, Refusal::Answered)
    );
    close(answer.unsafe_score, 1.0 - second);
    assert_eq!(categories(&answer), ["S1", "S9"]);
    assert_eq!(answer.categories[1].display_name, "Indiscriminate Weapons");

    let refused = verdict(&rig, &["What?", "No."]).await;
    assert_eq!(
        (refused.label(), refused.refusal()),
        (Label::Safe, Refusal::Refused)
    );
    close(refused.unsafe_score, second);

    let odd = verdict(&rig, &["What?", "[odd]"]).await;
    assert_eq!((odd.label(), odd.unsafe_score), (Label::Undetermined, None));
    assert_eq!(odd.label_mass, 0.0);
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wildguard_judges_a_request_in_one_pass_and_an_answer_by_its_own_line() {
    let rig = rig_with_tokens(GuardKind::WildGuard, &["<s>", "[INST]", "[/INST]"]).await;
    let second = 1.0 / (1.0 + VERDICT_GAP.exp());
    let request = verdict(&rig, &["[unsafe]"]).await;
    assert_eq!(request.label(), Label::Unsafe);
    close(request.unsafe_score, 1.0 - second);
    assert!(request.label_mass > 0.99, "{}", request.label_mass);
    assert!(categories(&request).is_empty());
    assert_eq!(request.refusal(), Refusal::Unspecified);
    assert!(
        request.raw_output.starts_with("Harmful request: yes"),
        "{}",
        request.raw_output
    );
    let safe = verdict(&rig, &["How do I bake bread?"]).await;
    assert_eq!(safe.label(), Label::Safe);
    close(safe.unsafe_score, second);

    let answer = verdict(&rig, &["What?", "[unsafe] answer"]).await;
    assert_eq!(
        (answer.label(), answer.refusal()),
        (Label::Unsafe, Refusal::Answered)
    );
    close(answer.unsafe_score, 1.0 - second);
    let refused = verdict(&rig, &["What?", "No."]).await;
    assert_eq!(
        (refused.label(), refused.refusal()),
        (Label::Safe, Refusal::Refused)
    );
    close(refused.unsafe_score, second);

    // It sees one exchange, so what comes before that is left out, and the verdict says so.
    let later = verdict(&rig, &["[unsafe]", "No.", "How do I bake bread?"]).await;
    assert_eq!(later.label(), Label::Safe);
    let left_out = |one: &&proto::MessageUse| one.reason() == proto::message_use::Reason::EarlierExchange;
    assert_eq!(later.message_uses.iter().filter(left_out).count(), 2);

    let odd = verdict(&rig, &["What?", "[odd]"]).await;
    assert_eq!((odd.label(), odd.unsafe_score), (Label::Undetermined, None));
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn llama_guard_2_has_its_own_categories_and_takes_others() {
    let rig = rig_with_tokens(GuardKind::LlamaGuard2, &["<|begin_of_text|>"]).await;
    let second = 1.0 / (1.0 + VERDICT_GAP.exp());
    let safe = verdict(&rig, &["How do I bake bread?"]).await;
    assert_eq!((safe.label(), safe.raw_output.as_str()), (Label::Safe, "safe"));
    close(safe.unsafe_score, second);
    assert!(safe.label_mass > 0.99, "{}", safe.label_mass);
    for contents in [&["[unsafe]"][..], &["What?", "[unsafe] answer"]] {
        let unsafe_ = verdict(&rig, contents).await;
        assert_eq!(unsafe_.label(), Label::Unsafe);
        close(unsafe_.unsafe_score, 1.0 - second);
        assert_eq!(categories(&unsafe_), ["S1", "S9"]);
        // S9 is another category than Llama Guard 3's.
        assert_eq!(unsafe_.categories[1].display_name, "Hate");
    }
    let request = proto::ClassifyRequest {
        policy_source: Some(PolicySource::InlinePolicy(policy())),
        ..classify(&["[unsafe]"])
    };
    let answer = rig.safety().await.classify(request).await.unwrap().into_inner();
    let by_policy = answer.verdict.unwrap();
    assert_eq!(by_policy.categories[0].display_name, "Fraud");
    assert_eq!(by_policy.provenance.unwrap().policy, "shop");
    let odd = verdict(&rig, &["[odd]"]).await;
    assert_eq!(odd.label(), Label::Undetermined);
    let request = proto::ClassifyRequest {
        category_probabilities: true,
        ..classify(&["hi"])
    };
    let refused = rig.safety().await.classify(request).await.unwrap_err();
    assert_eq!(violated(&refused), ["category_probabilities"]);
    rig.idle().await;
    rig.stop().await;
}

fn policy() -> proto::Policy {
    proto::Policy {
        name: "shop".to_owned(),
        categories: vec![proto::PolicyCategory {
            code: "S1".to_owned(),
            name: "Fraud".to_owned(),
            description: String::new(),
        }],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_takes_no_policies_names_the_field() {
    let category = PolicyCategory {
        code: "S1".to_owned(),
        name: "Fraud".to_owned(),
        description: String::new(),
    };
    let rig = Rig::with(Setup {
        guard: GuardKind::Qwen3GuardGen,
        policies: vec![Policy::new("shop".to_owned(), vec![category]).unwrap()],
        ..Setup::default()
    })
    .await;
    for (source, field) in [
        (PolicySource::Policy("shop".to_owned()), "policy"),
        (PolicySource::InlinePolicy(policy()), "inline_policy"),
    ] {
        let request = proto::ClassifyRequest {
            policy_source: Some(source),
            ..classify(&["Hello"])
        };
        let status = rig.safety().await.classify(request).await.unwrap_err();
        reason(&status, Code::InvalidArgument);
        assert_eq!(violated(&status), [field]);
    }
    let mut request = score("[say Hello.]");
    request.judge.get_or_insert_default().policy_source =
        Some(judge_options::PolicySource::Policy("shop".to_owned()));
    let status = rig.scoring().await.score(request).await.unwrap_err();
    assert_eq!(violated(&status), ["judge.policy"]);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_score_counts_controversial_answers_apart() {
    let rig = rig(GuardKind::Qwen3GuardGen).await;
    let request = score("[say [controversial] words]");
    let response = rig.scoring().await.score(request).await.unwrap().into_inner();
    let counts = [
        response.safe_count,
        response.unsafe_count,
        response.undetermined_count,
        response.controversial_count,
    ];
    assert_eq!(counts, [0, 0, 0, 1]);
    rig.stop().await;
}
