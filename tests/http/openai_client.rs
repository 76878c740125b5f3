//! OpenAI's own Python client against the HTTP port.

use babelward::{
    auth::{QuotaLimits, Quotas, Scope},
    engine::Tenant,
    rpc::{Security, ServerOptions},
};

use crate::{
    credentials::{KeyFile, checked},
    python,
    support::{Client, address, post, protected, with_header},
};

#[tokio::test(flavor = "multi_thread")]
async fn openais_client_understands_every_answer_and_every_error() {
    let packages = tokio::task::spawn_blocking(|| python::installed("tests/clients/openai_requirements.txt"));
    let packages = packages.await.unwrap();
    let keys = KeyFile::new();
    let [key, spent] = ["large", "small"].map(|tenant| keys.add(tenant, &[Scope::Classify, Scope::Generate]));
    let once = QuotaLimits {
        requests: Some(1),
        tokens: None,
    };
    let unlimited = [(Tenant::named("large").unwrap(), QuotaLimits::default())];
    let security = Security {
        quotas: Quotas::new(once, unlimited),
        ..checked(&keys.open())
    };
    let rig = protected(ServerOptions::default(), security).await;
    let spend = post("/v1/moderations", r#"{"input": "fine"}"#);
    let spend = with_header(spend, "authorization", &format!("Bearer {spent}"));
    let answer = Client::connect(address(&rig)).await.send(spend).await;
    assert_eq!(answer.status.as_u16(), 200, "{answer:?}");

    let base = format!("http://{}/v1", address(&rig));
    let called = tokio::task::spawn_blocking(move || {
        python::script("tests/clients/call_openai.py")
            .args([base, key, spent])
            .env("PYTHONPATH", packages)
            .status()
            .unwrap()
    });
    assert!(
        called.await.unwrap().success(),
        "tests/clients/call_openai.py failed: its message is above"
    );
    rig.idle().await;
    rig.stop().await;
}
