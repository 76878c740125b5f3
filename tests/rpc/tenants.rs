//! Tenants beside each other: none learns from an answer what another one has sent.

use babelward::proto::{self, generate_response::Event};
use tonic::Request;

use crate::rig::{Rig, classify, generate_tokens};

fn of<T>(tenant: &'static str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if !tenant.is_empty() {
        let metadata = request.metadata_mut();
        metadata.insert("x-babelward-tenant", tenant.parse().unwrap());
    }
    request
}

/// Prompt tokens that were found in the cache, and the bits of the score.
async fn judged(rig: &Rig, tenant: &'static str, content: &str) -> (u32, u64) {
    let mut safety = rig.safety().await;
    let answer = safety.classify(of(tenant, classify(&[content]))).await.unwrap();
    let verdict = answer.into_inner().verdict.unwrap();
    (
        verdict.usage.unwrap().cached_prompt_tokens,
        verdict.unsafe_score.unwrap().to_bits(),
    )
}

/// Some two hundred tokens.
fn letter(first: &str) -> String {
    let lines: Vec<String> = (0..20)
        .map(|line| format!("line {line} of what nobody else must know"))
        .collect();
    format!("{first}: {}", lines.join(", "))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_finds_its_own_text_in_the_cache_and_no_other_tenants() {
    let rig = Rig::start().await;
    let (secret, unseen) = (letter("my secret"), letter("my errand"));
    let (policy, cold) = judged(&rig, "victim", &secret).await;
    assert!(policy > 0, "the guard's policy is everyone's");
    let (own, warm) = judged(&rig, "victim", &secret).await;
    assert!(own > policy + 100, "{own} of its own, {policy} of the policy");
    assert_eq!(warm, cold, "cached or not, the bits are the same");
    for curious in ["curious", "curious-2", ""] {
        let (seen, bits) = judged(&rig, curious, &secret).await;
        let (other, _) = judged(&rig, curious, &unseen).await;
        // What the two texts begin with, it has sent itself by then.
        assert_eq!((seen, bits), (policy, cold), "{curious:?}");
        assert!(other <= policy + 16, "{curious:?}: {other}");
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_of_generations_are_a_tenants_own_as_well() {
    let rig = Rig::start().await;
    let asked = generate_tokens(&letter("[say yes] my secret"), 4);
    let cached = async |tenant: &'static str, message: proto::GenerateRequest| {
        let mut generation = rig.generation().await;
        let answer = generation.generate(of(tenant, message)).await.unwrap();
        let mut answers = answer.into_inner();
        let mut usage = None;
        while let Some(answer) = answers.message().await.unwrap() {
            if let Some(Event::Finished(finished)) = answer.event {
                usage = finished.usage;
            }
        }
        usage.unwrap().cached_prompt_tokens
    };
    let common = cached("victim", asked.clone()).await;
    assert!(cached("victim", asked.clone()).await > common + 100);
    assert_eq!(cached("curious", asked).await, common);
    rig.idle().await;
    rig.stop().await;
}
