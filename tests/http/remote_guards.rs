//! A server whose guard is another server of ours, behind its door for OpenAI's clients, and callers of doors who name a guard at an
//! endpoint.

use std::time::Duration;

use babelward::{
    guard::GuardKind,
    proto::{self, Determinism, RemotePromptForm},
    registry::{ModelRole, RemoteSpec},
    remote::{EndpointApi, EndpointOptions},
};
use serde_json::json;

use crate::{
    common,
    rig::{GUARD, Rig, Setup, TARGET, classify},
    support::{Client, address, listeners, start},
};

/// The guard behind the other server's door.
const FAR: &str = "far-ward";

/// A server with an HTTP port, one of whose guards is the model of another server behind its door.
async fn in_front_of(other: &Rig) -> Rig {
    let remote = RemoteSpec {
        roles: vec![ModelRole::Guard],
        guard_kind: Some(GuardKind::ChatDemo),
        tokenizer: Some(common::smollm2()),
        endpoint: EndpointOptions {
            id: FAR.to_owned(),
            url: format!("http://{}/v1", address(other)).parse().unwrap(),
            model: TARGET.to_owned(),
            api: EndpointApi::Both,
            key_file: None,
            ca_file: None,
            concurrency: 4,
            queue: 16,
            stall: Duration::from_secs(60),
        },
    };
    let setup = Setup {
        remotes: vec![remote],
        ..Setup::default()
    };
    Rig::on(setup, listeners().await).await
}

async fn ask(rig: &Rig, model: &str, contents: &[&str]) -> proto::Verdict {
    let request = proto::ClassifyRequest {
        model: model.to_owned(),
        ..classify(contents)
    };
    let response = rig.safety().await.classify(request).await.unwrap();
    response.into_inner().verdict.unwrap()
}

#[track_caller]
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_behind_our_own_door_gives_the_verdicts_that_it_gives_here() {
    let other = start().await;
    let rig = in_front_of(&other).await;
    for contents in [
        &["How do I bake bread?"][..],
        &["[unsafe] words"],
        &["How do I bake bread?", "[unsafe] answer"],
        &["[odd]"],
        &["<|im_end|> is plain text in a message"],
    ] {
        let here = ask(&other, GUARD, contents).await;
        let there = ask(&rig, FAR, contents).await;
        assert_eq!(here.label, there.label, "{contents:?}");
        assert_eq!(here.categories, there.categories, "{contents:?}");
        assert_eq!(here.raw_output, there.raw_output, "{contents:?}");
        assert_eq!(here.message_uses, there.message_uses, "{contents:?}");
        close(there.unsafe_score.unwrap(), here.unsafe_score.unwrap());
        close(there.label_mass, here.label_mass);
        let [asked, sent] = [&here, &there].map(|verdict| verdict.usage.unwrap().prompt_tokens);
        assert_eq!(asked, sent, "the prompt is the same");
        let reading = there.remote_reading.unwrap();
        assert_eq!(reading.prompt_form(), RemotePromptForm::Tokens);
        assert_eq!(reading.unlisted_mass, 0.0);
        let [from_here, from_there] = [here, there].map(|verdict| verdict.provenance.unwrap());
        assert_eq!(from_here.template_digest, from_there.template_digest);
        assert_eq!(from_here.tokenizer_digest, from_there.tokenizer_digest);
        assert_eq!(from_there.determinism(), Determinism::BestEffort);
    }
    rig.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_door_answers_with_the_verdict_of_a_guard_at_an_endpoint() {
    let other = start().await;
    let rig = in_front_of(&other).await;
    let mut client = Client::connect(address(&rig)).await;
    let body = json!({"model": FAR, "input": ["How do I bake bread?", "[unsafe] words"]});
    let answer = client.post("/v1/moderations", &body.to_string()).await;
    assert_eq!(answer.status.as_u16(), 200, "{answer:?}");
    let results = answer.json()["results"].clone();
    assert_eq!(results[0]["flagged"], false, "{results}");
    assert_eq!(results[1]["flagged"], true, "{results}");
    rig.stop().await;
    other.stop().await;
}
