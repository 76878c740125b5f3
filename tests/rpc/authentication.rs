//! Who may call what: keys and tokens, their scopes and tenants, and what is open to everybody.

use std::collections::BTreeMap;

use babelward::{
    auth::{Scope, TokenRules},
    proto,
    reload::{Reload as _, Reloaded},
    rpc::{Listeners, ServerOptions},
};
use prost::Message as _;
use serde_json::Value;
use tokio::net::TcpListener;
use tonic::{Code, Request, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_client::ServerReflectionClient};

use crate::{
    access::{listen, outcome, stranger_outcome, tagged},
    common::golden,
    credentials::{KeyFile, checked, with_key},
    raw::Raw,
    rig::{Rig, Setup, classify, local, reason},
};

/// Reason and problem of an error.
fn told(status: &Status, code: Code) -> (String, String) {
    let (name, metadata) = reason(status, code);
    (name, metadata.get("problem").cloned().unwrap_or_default())
}

fn pair(reason: &str, problem: &str) -> (String, String) {
    (reason.to_owned(), problem.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_needs_a_key_that_is_in_the_file() {
    let keys = KeyFile::new();
    let (good, old) = (keys.add("team", &[Scope::Classify]), keys.add_expired("former"));
    let rig = Rig::protected(Setup::default(), checked(&keys.open())).await;
    let mut safety = rig.safety().await;
    safety.classify(with_key(&good, classify(&["hi"]))).await.unwrap();
    let cases = [
        (
            Request::new(classify(&["hi"])),
            pair("CREDENTIALS_MISSING", "missing"),
        ),
        (
            with_key(&format!("{good}x"), classify(&["hi"])),
            pair("CREDENTIALS_INVALID", "unknown"),
        ),
        (
            with_key("", classify(&["hi"])),
            pair("CREDENTIALS_INVALID", "malformed"),
        ),
        (
            with_key("a b", classify(&["hi"])),
            pair("CREDENTIALS_INVALID", "malformed"),
        ),
        (
            with_key(&old, classify(&["hi"])),
            pair("CREDENTIALS_EXPIRED", "expired"),
        ),
    ];
    for (request, expected) in cases {
        let status = safety.classify(request).await.unwrap_err();
        assert_eq!(told(&status, Code::Unauthenticated), expected);
    }
    let mut twice = with_key(&good, classify(&["hi"]));
    let value = format!("Bearer {good}").parse().unwrap();
    twice.metadata_mut().append("authorization", value);
    let status = safety.classify(twice).await.unwrap_err();
    assert_eq!(
        told(&status, Code::Unauthenticated),
        pair("CREDENTIALS_INVALID", "malformed")
    );
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_added_and_revoked_while_the_server_runs() {
    let keys = KeyFile::new();
    let first = keys.add("first", &[Scope::Classify]);
    let authenticator = keys.open();
    let rig = Rig::protected(Setup::default(), checked(&authenticator)).await;
    let mut safety = rig.safety().await;
    safety
        .classify(with_key(&first, classify(&["hi"])))
        .await
        .unwrap();
    let second = keys.add("second", &[Scope::Classify]);
    keys.revoke("first");
    assert_eq!(authenticator.reload(), Reloaded::Replaced);
    safety
        .classify(with_key(&second, classify(&["hi"])))
        .await
        .unwrap();
    let status = safety
        .classify(with_key(&first, classify(&["hi"])))
        .await
        .unwrap_err();
    assert_eq!(
        told(&status, Code::Unauthenticated),
        pair("CREDENTIALS_INVALID", "unknown")
    );
    std::fs::write(keys.path(), "not a file of keys").unwrap();
    assert!(matches!(authenticator.reload(), Reloaded::Kept(_)));
    safety
        .classify(with_key(&second, classify(&["hi"])))
        .await
        .unwrap();
    rig.stop().await;
}

/// The table of docs/security.md: each method with the scopes of which it needs any one.
fn documented_scopes() -> BTreeMap<String, Vec<String>> {
    let document = include_str!("../../docs/security.md");
    let rows = document.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `babelward.v1.")?.split('|');
        let methods = cells.next()?.trim().trim_end_matches('`').to_owned();
        let scopes = cells
            .next()?
            .split(',')
            .map(|scope| scope.trim().trim_matches('`').to_owned());
        Some((methods, scopes.collect::<Vec<_>>()))
    });
    rows.collect()
}

/// Every method that the descriptors have, without `babelward.v1.`.
fn methods() -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    let mut methods = Vec::new();
    for service in set.file.iter().flat_map(|file| &file.service) {
        for method in &service.method {
            methods.push(format!("{}/{}", service.name(), method.name()));
        }
    }
    methods
}

/// Each method of the services with each scope alone: allowed where the document says so, and refused everywhere else.
#[tokio::test(flavor = "multi_thread")]
async fn every_method_needs_the_scope_that_is_documented() {
    let keys = KeyFile::new();
    let of_scopes = Scope::ALL.map(|scope| (scope, keys.add(scope.name(), &[scope])));
    let rig = Rig::protected(Setup::default(), checked(&keys.open())).await;
    let documented = documented_scopes();
    let methods = methods();
    assert_eq!(documented.len(), methods.len(), "{documented:?}");
    for (scope, key) in of_scopes {
        let client = Raw::connect(rig.address).await.with_key(&key);
        for method in &methods {
            let status = client.call_bytes(method, "50m", Vec::new()).await;
            let allowed = documented[method].iter().any(|name| name == scope.name());
            let refused = status.code() == Code::PermissionDenied
                && reason(&status, Code::PermissionDenied).0 == "SCOPE_MISSING";
            assert_eq!(!refused, allowed, "{method} with {}: {status:?}", scope.name());
            if refused {
                let (_, metadata) = reason(&status, Code::PermissionDenied);
                assert_eq!(metadata["needs"], documented[method].join(","));
                assert_eq!(metadata["has"], scope.name());
            }
        }
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_health_checks_are_answered_without_a_key() {
    let keys = KeyFile::new();
    let key = keys.add("prometheus", &[Scope::Metrics]);
    let rig = Rig::protected(Setup::default(), checked(&keys.open())).await;
    let mut health = HealthClient::new(rig.channel().await);
    let whole = HealthCheckRequest::default;
    let answer = health.check(whole()).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    let status = health.watch(whole()).await.unwrap_err();
    assert_eq!(
        told(&status, Code::Unauthenticated),
        pair("CREDENTIALS_MISSING", "missing")
    );
    assert!(health.watch(with_key(&key, whole())).await.is_ok());
    let mut reflection = ServerReflectionClient::new(rig.channel().await);
    let question = || tokio_stream::iter([ServerReflectionRequest::default()]);
    let status = reflection.server_reflection_info(question()).await.unwrap_err();
    assert_eq!(
        told(&status, Code::Unauthenticated),
        pair("CREDENTIALS_MISSING", "missing")
    );
    assert!(
        reflection
            .server_reflection_info(with_key(&key, question()))
            .await
            .is_ok()
    );
    // Strangers do not even learn which methods there are.
    let client = Raw::connect(rig.address).await;
    let status = client.call_bytes("NoSuchService/Method", "", Vec::new()).await;
    assert_eq!(status.code(), Code::Unauthenticated);
    rig.stop().await;
}

/// Prompt tokens of a Classify that were found in the cache.
async fn cached(rig: &Rig, key: &str, tenant: &'static str, content: &str) -> u32 {
    let mut request = with_key(key, classify(&[content]));
    request
        .metadata_mut()
        .insert("x-babelward-tenant", tenant.parse().unwrap());
    let answer = rig.safety().await.classify(request).await.unwrap().into_inner();
    answer.verdict.unwrap().usage.unwrap().cached_prompt_tokens
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tenant_is_the_keys_and_a_header_does_not_change_it() {
    listen();
    let keys = KeyFile::new();
    let victim = keys.add("victim", &[Scope::Classify]);
    let curious = keys.add("curious", &[Scope::Classify]);
    let rig = Rig::protected(Setup::default(), checked(&keys.open())).await;
    let secret = (0..40)
        .map(|line| format!("line {line} of what nobody else must know"))
        .collect::<Vec<_>>()
        .join(", ");
    let policy = cached(&rig, &victim, "victim", &secret).await;
    assert!(
        cached(&rig, &victim, "other", &secret).await > policy + 100,
        "its own"
    );
    assert_eq!(cached(&rig, &curious, "victim", &secret).await, policy);
    let mut request = tagged("log-tenant", classify(&["hi"]));
    let metadata = request.metadata_mut();
    metadata.insert("authorization", format!("Bearer {curious}").parse().unwrap());
    metadata.insert("x-babelward-tenant", "victim".parse().unwrap());
    rig.safety().await.classify(request).await.unwrap();
    assert_eq!(crate::access::tenant("log-tenant").await, "curious");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_calls_are_logged_without_the_key_or_a_tenant() {
    listen();
    let keys = KeyFile::new();
    let key = keys.add("team", &[Scope::Metrics]);
    let rig = Rig::protected(Setup::default(), checked(&keys.open())).await;
    let wrong = "bw_nobody-must-see-this-key";
    for (id, key) in [("log-no-scope", key.as_str()), ("log-no-key", wrong)] {
        let mut request = tagged(id, classify(&["hi"]));
        let metadata = request.metadata_mut();
        metadata.insert("authorization", format!("Bearer {key}").parse().unwrap());
        metadata.insert("x-babelward-tenant", "victim".parse().unwrap());
        let status = rig.safety().await.classify(request).await.unwrap_err();
        assert!(!format!("{status:?}").contains(key), "{status:?}");
    }
    assert_eq!(
        outcome("log-no-scope").await,
        pair("PERMISSION_DENIED", "SCOPE_MISSING")
    );
    assert_eq!(crate::access::tenant("log-no-scope").await, "");
    let expected = pair("UNAUTHENTICATED", "CREDENTIALS_INVALID");
    assert_eq!(stranger_outcome("log-no-key").await, expected);
    let mut reflection = ServerReflectionClient::new(rig.channel().await);
    let asked = futures::stream::iter([ServerReflectionRequest::default()]);
    reflection
        .server_reflection_info(tagged("log-no-key-foreign", asked))
        .await
        .unwrap_err();
    assert_eq!(stranger_outcome("log-no-key-foreign").await.0, "UNAUTHENTICATED");
    assert!(!crate::access::whole_log().contains(wrong));
    assert!(!crate::access::whole_log().contains(&key));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_the_identity_provider_are_accepted_beside_keys() {
    let golden: Value = serde_json::from_slice(&std::fs::read(golden("tokens.json")).unwrap()).unwrap();
    let keys = KeyFile::new();
    let key = keys.add("by-key", &[Scope::Classify]);
    let jwks = keys.folder.path().join("jwks.json");
    std::fs::write(&jwks, golden["jwks"].to_string()).unwrap();
    let rules = TokenRules {
        issuer: "https://issuer.example".to_owned(),
        audience: "babelward".to_owned(),
        leeway: std::time::Duration::from_secs(30),
        tenant_claim: "sub".to_owned(),
        tenant_prefix: String::new(),
        scope_claim: "scope".to_owned(),
        scope_prefix: String::new(),
    };
    let authenticator = keys.open_with(Some((jwks.clone(), rules)));
    let rig = Rig::protected(Setup::default(), checked(&authenticator)).await;
    let mut safety = rig.safety().await;
    safety.classify(with_key(&key, classify(&["hi"]))).await.unwrap();
    let token = golden["tokens"]["valid"]["ES256"].as_str().unwrap();
    for _ in 0..2 {
        safety.classify(with_key(token, classify(&["hi"]))).await.unwrap();
    }
    let mut generation = rig.generation().await;
    let status = generation
        .generate(with_key(token, crate::rig::generate("hi")))
        .await;
    assert_eq!(
        reason(&status.unwrap_err(), Code::PermissionDenied).0,
        "SCOPE_MISSING"
    );
    for (problem, reason) in [
        ("unknown", "CREDENTIALS_INVALID"),
        ("expired", "CREDENTIALS_EXPIRED"),
        ("audience", "CREDENTIALS_INVALID"),
        ("claims", "CREDENTIALS_INVALID"),
    ] {
        for (name, token) in golden["tokens"][problem].as_object().unwrap() {
            let request = with_key(token.as_str().unwrap(), classify(&["hi"]));
            let status = safety.classify(request).await.unwrap_err();
            assert_eq!(
                told(&status, Code::Unauthenticated),
                pair(reason, problem),
                "{name}"
            );
        }
    }
    // A key that the provider withdraws takes its tokens with it, also those that were accepted before.
    let mut without = golden["jwks"].clone();
    without["keys"]
        .as_array_mut()
        .unwrap()
        .retain(|key| key["kid"] != "ES256");
    std::fs::write(&jwks, without.to_string()).unwrap();
    assert_eq!(authenticator.reload(), Reloaded::Replaced);
    let status = safety
        .classify(with_key(token, classify(&["hi"])))
        .await
        .unwrap_err();
    assert_eq!(
        told(&status, Code::Unauthenticated),
        pair("CREDENTIALS_INVALID", "unknown")
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_calls_are_answered_only_on_their_own_listener() {
    let keys = KeyFile::new();
    let admin = keys.add("operator", &[Scope::Admin]);
    let user = keys.add("user", &[Scope::Classify]);
    let setup = Setup {
        options: ServerOptions {
            allow_admin: true,
            ..Default::default()
        },
        ..Default::default()
    };
    let listeners = Listeners {
        admin: Some(TcpListener::bind("127.0.0.1:0").await.unwrap()),
        security: checked(&keys.open()),
        ..local().await
    };
    let rig = Rig::on(setup, listeners).await;
    let estimate = proto::EstimateModelRequest {
        name: crate::rig::TARGET.to_owned(),
        ..Default::default()
    };
    let main = Raw::connect(rig.address).await.with_key(&admin);
    let apart = Raw::connect(rig.admin_address.unwrap()).await;
    let method = "AdminService/EstimateModel";
    let status = main.call(method, "", estimate.clone()).await;
    assert_eq!(reason(&status, Code::PermissionDenied).0, "ADMIN_ELSEWHERE");
    let status = apart
        .clone()
        .with_key(&user)
        .call(method, "", estimate.clone())
        .await;
    assert_eq!(reason(&status, Code::PermissionDenied).0, "SCOPE_MISSING");
    let status = apart.call(method, "", estimate.clone()).await;
    assert_eq!(reason(&status, Code::Unauthenticated).0, "CREDENTIALS_MISSING");
    let status = apart.with_key(&admin).call(method, "", estimate).await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    rig.stop().await;
}
